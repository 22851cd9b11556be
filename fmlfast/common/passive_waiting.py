"""Lets idle threads of OpenMP sleep instead of spin; imported for this alone, by programs, before they load torch.

A thread that spins for the others takes the core that one of them needs, wherever another process is busy, too: work on
the CPU then takes 20 to 80 times as long. Children inherit the setting; users who set one of SETTINGS keep theirs.
"""

import os

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that say how long a thread spins: of all OpenMP, of GCC's, of LLVM's and Intel's."""

if not os.environ.keys() & set(SETTINGS):
    os.environ["OMP_WAIT_POLICY"] = "passive"

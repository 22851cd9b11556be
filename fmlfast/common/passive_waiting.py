"""Lets idle threads of OpenMP sleep soon instead of spin; imported for this alone, by programs, before they load torch.

A thread that spins for the others takes the core that one of them needs, wherever another process is busy, too: work on
the CPU then takes 20 to 80 times as long. Children inherit the settings; users who set one of them keep theirs.
"""

import os

OURS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
"""Environment variables that are set: for all of OpenMP, and for GCC's, which torch uses on Linux. That one spins for
some 20 microseconds first: waking a sleeping core of a virtual machine takes longer, and many waits are shorter."""
SETTINGS = (*OURS, "KMP_BLOCKTIME")
"""Environment variables that say how long a thread spins; the last one is LLVM's and Intel's."""

if not os.environ.keys() & set(SETTINGS):
    os.environ |= OURS

"""Measures speed, memory and the paper's claims.

From low to high, a package imports only those before it: harness, ops, peers, compile, training, report, paper, gpu.
"""

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

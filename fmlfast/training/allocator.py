"""Configures glibc's memory allocator for training on the CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h
_KEPT = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Makes glibc keep large freed blocks for the next step; has no effect without glibc.

    Blocks returned to the system come back with every page filled with zeros, an eighth of a training step on the CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _KEPT)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)

"""Memory of the C library on the CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h
_KEPT = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Lets glibc keep large freed blocks for the next step; given back and fetched anew, each page is filled with zeros
    first, an eighth of a training step on the CPU. Elsewhere nothing happens."""
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _KEPT)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)

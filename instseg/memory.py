"""Memory of tensors up to 32 MiB stays with the process when it is freed, on Linux with glibc."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h, M_...
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more


def keep_freed_memory() -> bool:
    """Tell malloc not to give freed memory back to the system. Each step of training or inference asks for the
    same tensors again, and the system zeroes every page that it hands out anew, which took a quarter of the
    inference of small pictures. Where the C library is another one, nothing is done.

    Returns:
        Whether malloc did as it was told.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))

"""Memory: what is done when there is too little, and what is kept of it when it is freed."""

import ctypes
import sys

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h, M_...
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more


def ran_out(error: BaseException) -> str | None:
    """What there was too little memory for, in one line, on a GPU or a CPU; None where an error says something else.

    A process that Linux kills for its memory gets no error.
    """
    # torch's allocator on the CPU has no exception of its own
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or on_cpu:
        lines = str(error).splitlines() or ["no memory left"]
        return lines[0].rpartition("DefaultCPUAllocator: ")[2]
    return None


def keep_freed_memory() -> bool:
    """Tell malloc, on Linux with glibc, not to give freed memory of tensors up to 32 MiB back to the system.

    Each step of training or inference asks for the same tensors again, and the system zeroes every page that it
    hands out anew, which took a quarter of the inference of small images. Where the C library is another one,
    nothing is done.

    Returns:
        Whether malloc did as it was told.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))

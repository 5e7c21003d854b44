"""What the kind of a device decides: precision, the way of numbers to it, and how much of its memory is used."""

import ctypes
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h, M_...
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bfloat16 where ``precision`` is ``bfloat16``; with any other precision it does nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Computation in the precision of its input; also on the ``meta`` device, which has no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def on_device(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers of the CPU as a tensor on a device. A GPU gets them from pinned memory; otherwise the CPU would wait
    until all that is queued on the GPU is done."""
    tensor = torch.tensor(numbers, dtype=dtype)
    if device.type == "cuda" and torch.cuda.is_available():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def rows_at_a_time(elements_a_row: int, budget: int = 2**26) -> int:
    """How many rows of a batch may be worked on at once, if no temporary is to have more elements than ``budget``
    (256 MiB of float32)."""
    return max(1, budget // max(1, elements_a_row))


def ran_out(error: BaseException) -> str | None:
    """What there was too little memory for, in one line, on a GPU or a CPU; None where the error is another one.

    A process that Linux kills for its memory gets no error.
    """
    # torch's allocator on the CPU has no exception of its own
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or on_cpu:
        lines = str(error).splitlines() or ["no memory left"]
        return lines[0].rpartition("DefaultCPUAllocator: ")[2]
    return None


def keep_freed_memory() -> bool:
    """Tell malloc, on Linux with glibc, not to give freed memory of tensors up to 32 MiB back to the system; returns
    whether that worked.

    Each step of training or inference asks for the same tensors again, and the system zeroes every page that it
    hands out anew, which took a quarter of the inference of small images.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))

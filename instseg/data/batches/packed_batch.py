"""A batch as a worker hands it over: its tensors joined by dtype, since every tensor costs an open file.

A process may often have 1,024 open, and a batch of 16 images with their targets has about 100 tensors.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Place(NamedTuple):
    """Where a tensor is among those of its dtype."""

    dtype: torch.dtype
    shape: torch.Size
    strides: tuple[int, ...]
    start: int


class PackedBatch:
    """Lists of CPU tensors, of dicts with such tensors and of anything else, the tensors packed by dtype.

    Unpacked tensors are plain ones with the strides that they had, and share memory with each other; a tensor that
    overlaps itself or has gaps becomes contiguous.
    """

    def __init__(self, batch: tuple[list[Any], ...]) -> None:
        sizes: dict[torch.dtype, int] = defaultdict(int)
        tensors: list[tuple[Tensor, _Place]] = []

        def place(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: place(entry) for key, entry in value.items()}
            if not isinstance(value, Tensor):
                return value
            strides = torch.empty_like(value, device="meta").stride()
            tensors.append((value, _Place(value.dtype, value.shape, strides, sizes[value.dtype])))
            sizes[value.dtype] += value.numel()
            return tensors[-1][1]

        self._lists = [[place(value) for value in values] for values in batch]
        self._flat = {dtype: _shared(size, dtype) for dtype, size in sizes.items()}
        for tensor, at in tensors:
            self._view(at).copy_(tensor)

    def pin_memory(self) -> "PackedBatch":
        """Pin all tensors, in place; the name is the one that ``DataLoader`` calls."""
        self._flat = {dtype: flat.pin_memory() for dtype, flat in self._flat.items()}
        return self

    def open(self) -> tuple[list[Any], ...]:
        """The batch."""
        return tuple([self._view(value) for value in values] for values in self._lists)

    def _view(self, value: Any) -> Any:
        """A value with its tensors in their places."""
        if isinstance(value, dict):
            return {key: self._view(entry) for key, entry in value.items()}
        if not isinstance(value, _Place):
            return value
        return self._flat[value.dtype].as_strided(value.shape, value.strides, value.start)


def _shared(size: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor in shared memory from the start, which saves a copy.

    By the private call that torch's own ``default_collate`` makes; the public ``share_memory_`` would copy.
    """
    return torch.empty(0, dtype=dtype).set_(torch.UntypedStorage._new_shared(size * dtype.itemsize))

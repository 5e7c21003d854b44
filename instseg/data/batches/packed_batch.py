"""A batch as a worker hands it over: its tensors joined by dtype, since every tensor costs an open file.

A process may often have 1,024 open, and a batch of 16 images with their targets has about 100 tensors.
"""

import io
import pickle
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor


class PackedBatch:
    """A batch (any nesting of lists, tuples and dicts with CPU tensors in it), its tensors packed by dtype.

    Unpacked tensors are plain ones with the strides that they had, and share memory with each other; a tensor that
    overlaps itself or has gaps becomes contiguous.

    Args:
        batch: pickled but for its tensors.
    """

    def __init__(self, batch: Any) -> None:
        content = io.BytesIO()
        pickler = _Pickler(content, protocol=5)
        pickler.dump(batch)
        self._content = content.getvalue()
        self._places: list[tuple[torch.dtype, tuple[int, ...], tuple[int, ...], int]] = []
        sizes: dict[torch.dtype, int] = defaultdict(int)
        for tensor in pickler.tensors:
            strides = torch.empty_like(tensor, device="meta").stride()
            self._places.append((tensor.dtype, tuple(tensor.shape), strides, sizes[tensor.dtype]))
            sizes[tensor.dtype] += tensor.numel()
        self._flat = {dtype: _shared(size, dtype) for dtype, size in sizes.items()}
        for view, tensor in zip(self._views(), pickler.tensors, strict=True):
            view.copy_(tensor)

    def pin_memory(self) -> "PackedBatch":
        """Pin all tensors, in place; the name is the one that ``DataLoader`` calls."""
        self._flat = {dtype: flat.pin_memory() for dtype, flat in self._flat.items()}
        return self

    def open(self) -> Any:
        """The batch."""
        return _Unpickler(io.BytesIO(self._content), self._views()).load()

    def _views(self) -> list[Tensor]:
        return [self._flat[dtype].as_strided(shape, strides, start) for dtype, shape, strides, start in self._places]


def _shared(size: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor in shared memory from the start, which saves a copy.

    By the private call that torch's own ``default_collate`` makes; the public ``share_memory_`` would copy.
    """
    return torch.empty(0, dtype=dtype).set_(torch.UntypedStorage._new_shared(size * dtype.itemsize))


class _Pickler(pickle.Pickler):
    """Takes the tensors out and leaves their positions in the list."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor):
            return None
        self.tensors.append(obj)
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        return self._tensors[pid]

"""Batches whose order and augmentation depend on the seed and the iteration alone, not on workers or restarts."""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from instseg import seeds
from instseg.data.batches import transforms
from instseg.data.batches.packed_batch import PackedBatch
from instseg.data.dataset import InstanceDataset, Sample
from instseg.errors import UserError

Batch = tuple[list[torch.Tensor], list[dict[str, Any]]]


def training_batches(
    dataset: InstanceDataset,
    indices: list[int],
    transform: transforms.TrainTransform,
    *,
    batch_size: int,
    iterations: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """The batches of iterations ``start`` to ``iterations - 1``: (images, targets) lists of ``batch_size``,
    the images (3, H, W) uint8, which workers hand over in the least time.

    Every epoch is a permutation of ``indices`` drawn from (seed, epoch); every sample's augmentation is drawn
    from (seed, position). So a resumed run gets the batches of an unbroken one. A batch holds tall images or wide
    ones, never both.

    Raises:
        UserError: the data set raised it while it read an image, here or in a worker process.
    """
    sizes = dataset.sizes()
    tall = [sizes[index][0] > sizes[index][1] for index in indices]
    loader = DataLoader(
        ErrorsAsItems(TrainingSamples(dataset, indices, transform, seed)),
        batch_sampler=BatchOrder(indices, tall, batch_size, iterations, seed, start),
        collate_fn=_collate,
        num_workers=_processes(workers),
        multiprocessing_context=_context(workers),
        pin_memory=pin,
        generator=torch.Generator(),
        prefetch_factor=2 if workers else None,
    )
    return _batches(loader)


def read_images(dataset: InstanceDataset, *, batch_size: int, workers: int = 0) -> Iterator[tuple[list[int], Any]]:
    """All images in order, for evaluation: their indices, and (3, H, W) uint8 images.

    Raises:
        UserError: see :func:`training_batches`.
    """
    loader = DataLoader(
        ErrorsAsItems(_Images(dataset)),
        batch_size=batch_size,
        collate_fn=_collate,
        num_workers=_processes(workers),
        multiprocessing_context=_context(workers),
        generator=torch.Generator(),
    )
    return _batches(loader)


def verify_images(
    dataset: InstanceDataset, indices: Sequence[int], *, workers: int = 0
) -> Iterator[tuple[int, str | None, bytes]]:
    """Read images and their masks once, in order: (index, what is wrong or None, digest of the image's pixels)."""
    loader = DataLoader(
        _VerifiedImages(dataset, indices),
        batch_size=None,
        num_workers=_processes(workers),
        multiprocessing_context=_context(workers),
        generator=torch.Generator(),
    )
    return iter(loader)


def _batches(loader: DataLoader[Any]) -> Iterator[Any]:
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch.open() if isinstance(batch, PackedBatch) else batch


def to_unit(image: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(3, H, W) uint8 -> float32 in [0, 1] on a device."""
    return image.to(device, non_blocking=True).float() / 255


def _processes(workers: int) -> int:
    """At most as many as there are cores: more are no faster, and torch warns of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(workers, cores)


def _context(workers: int) -> str | None:
    """How workers are started. Not torch's default: in a sweep's processes joblib sets one that workers can't use."""
    if not workers:
        return None
    return "fork" if sys.platform == "linux" else "spawn"


class TrainingSamples(Dataset[tuple[torch.Tensor, dict[str, Any]]]):
    """Augmented training samples: ``samples[index, position]`` is image ``index`` as it is augmented at a position,
    counted in samples from the start of training. It depends on the seed and these two numbers alone.

    A sample is (3, H, W) uint8 and the target, as plain tensors; see :func:`instseg.data.batches.transforms.apply`.

    Args:
        dataset: what images are read from.
        indices: the images that training uses; objects to paste are taken from these.
        transform: of :func:`instseg.data.batches.transforms.training`.
        seed: the run's.
    """

    def __init__(
        self, dataset: InstanceDataset, indices: list[int], transform: transforms.TrainTransform, seed: int
    ) -> None:
        self.dataset, self.indices, self.transform, self.seed = dataset, indices, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, dict[str, Any]]:
        """A sample.

        Raises:
            UserError: the image, or the one to paste from, can't be read.
        """
        index, position = key
        with seeds.stream(self.seed, "augmentation", position):
            return transforms.apply(self.transform, self.dataset[index], self._partner)

    def _partner(self) -> Sample:
        return self.dataset[self.indices[int(torch.randint(len(self.indices), ()))]]


class _Images(Dataset[Any]):
    def __init__(self, dataset: InstanceDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return index, self.dataset[index][0].as_subclass(torch.Tensor)


class ErrorsAsItems(Dataset[Any]):
    """Another data set's items; a UserError that it raises is an item, as torch wraps exceptions of workers in a
    traceback."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except UserError as error:
            return error


class _VerifiedImages(Dataset[Any]):
    def __init__(self, dataset: InstanceDataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[int, str | None, bytes]:
        index = self.indices[place]
        try:
            pixels = self.dataset[index][0].permute(1, 2, 0).contiguous().numpy()
        except UserError as error:
            return index, str(error), b""
        digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
        digest.update(pixels)
        return index, None, digest.digest()


class BatchOrder(Sampler[list[tuple[int, int]]]):
    """For each iteration a list of (index, position); position counts samples from the start of training.

    Images are drawn epoch by epoch, and a batch is complete as soon as enough of one orientation (tall or wide) are
    drawn, so that little of it is padding. Images left over at an epoch's end go first in the next. Where an
    orientation has fewer images than a batch, a batch may hold an image twice.
    """

    def __init__(
        self, indices: list[int], tall: list[bool], batch_size: int, iterations: int, seed: int, start: int
    ) -> None:
        self.indices, self.tall, self.batch_size, self.iterations = indices, tall, batch_size, iterations
        self.seed, self.start = seed, start

    def __len__(self) -> int:
        return max(0, self.iterations - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # which images are left over depends on all batches before, so a resumed run draws these again
        return islice(self._from_the_start(), self.start, self.iterations)

    def _from_the_start(self) -> Iterator[list[tuple[int, int]]]:
        waiting: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for position, i in enumerate(self._drawn()):
            group = waiting[self.tall[i]]
            group.append((self.indices[i], position))
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()

    def _drawn(self) -> Iterator[int]:
        for epoch in count():
            generator = torch.Generator().manual_seed(seeds.derive(self.seed, "order", epoch))
            yield from torch.randperm(len(self.indices), generator=generator).tolist()


def _collate(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    first, second = zip(*samples, strict=True)
    batch = list(first), list(second)
    return batch if get_worker_info() is None else PackedBatch(batch)

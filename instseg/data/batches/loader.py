"""Batches whose order and augmentation depend on the seed and the iteration alone, not on workers or restarts."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from instseg import seeds
from instseg.data.batches.packed_batch import PackedBatch
from instseg.data.batches.transforms import TrainTransform
from instseg.data.dataset import InstanceDataset, Sample
from instseg.errors import UserError

Batch = tuple[list[torch.Tensor], list[dict[str, Any]]]


def training_batches(
    dataset: InstanceDataset,
    indices: list[int],
    transform: TrainTransform,
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
    samples = TrainingSamples(dataset, indices, transform, seed)
    # which images are left over depends on all batches before, so a resumed run draws these again
    order = islice(batch_order(indices, tall, batch_size, seed), start, iterations)
    return _batches(_loader(samples.__getitem__, workers, batch_sampler=order, collate_fn=_collate, pin_memory=pin))


def read_images(dataset: InstanceDataset, *, batch_size: int, workers: int = 0) -> Iterator[tuple[list[int], Any]]:
    """All images in order, for evaluation: their indices, and (3, H, W) uint8 images.

    Raises:
        UserError: see :func:`training_batches`.
    """
    read, indices = partial(_indexed_image, dataset), range(len(dataset))
    return _batches(_loader(read, workers, sampler=indices, batch_size=batch_size, collate_fn=_collate))


def verify_images(
    dataset: InstanceDataset, indices: Sequence[int], *, workers: int = 0
) -> Iterator[tuple[int, str | None, bytes]]:
    """Read images and their masks once, in order: (index, what is wrong or None, digest of the image's pixels)."""
    digests = _loader(partial(_digest, dataset), workers, sampler=indices, batch_size=None)
    for index, digest in zip(indices, digests, strict=True):
        yield (index, str(digest), b"") if isinstance(digest, UserError) else (index, None, digest)


def _loader(read: Callable[[Any], Any], workers: int, **options: Any) -> DataLoader[Any]:
    """A loader of what ``read`` returns for each key of its sampler; ``options`` are torch's own."""
    # more workers than cores are no faster, and torch warns of them
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return DataLoader(
        ErrorsAsItems(read),
        num_workers=min(workers, cores),
        # not torch's default: in a sweep's processes joblib sets one that workers can't use
        multiprocessing_context=("fork" if sys.platform == "linux" else "spawn") if workers else None,
        generator=torch.Generator(),
        **options,
    )


def _batches(loader: DataLoader[Any]) -> Iterator[Any]:
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch.open() if isinstance(batch, PackedBatch) else batch


def to_unit(image: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(3, H, W) uint8 -> float32 in [0, 1] on a device."""
    return image.to(device, non_blocking=True).float() / 255


class TrainingSamples(Dataset[tuple[torch.Tensor, dict[str, Any]]]):
    """Augmented training samples: ``samples[index, position]`` is image ``index`` as it is augmented at a position,
    counted in samples from the start of training. It depends on the seed and these two numbers alone.

    A sample is (3, H, W) uint8 and the target, as plain tensors; see :class:`TrainTransform`. Objects to paste are
    taken from the images ``indices``.
    """

    def __init__(self, dataset: InstanceDataset, indices: list[int], transform: TrainTransform, seed: int) -> None:
        self.dataset, self.indices, self.transform, self.seed = dataset, indices, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, dict[str, Any]]:
        """A sample.

        Raises:
            UserError: the image, or the one to paste from, can't be read.
        """
        index, position = key
        with seeds.stream(self.seed, "augmentation", position):
            return self.transform(self.dataset[index], self._partner)

    def _partner(self) -> Sample:
        return self.dataset[self.indices[int(torch.randint(len(self.indices), ()))]]


def _indexed_image(dataset: InstanceDataset, index: int) -> tuple[int, torch.Tensor]:
    return index, dataset[index][0].as_subclass(torch.Tensor)


def _digest(dataset: InstanceDataset, index: int) -> bytes:
    pixels = dataset[index][0].permute(1, 2, 0).contiguous().numpy()
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(pixels)
    return digest.digest()


class ErrorsAsItems(Dataset[Any]):
    """What ``read`` returns for each key; a UserError that it raises is an item, as torch wraps exceptions of workers
    in a traceback."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.read(key)
        except UserError as error:
            return error


def batch_order(indices: list[int], tall: list[bool], batch_size: int, seed: int) -> Iterator[list[tuple[int, int]]]:
    """For each iteration, without end, a list of (index, position); position counts samples from the start of training.

    Images are drawn epoch by epoch, and a batch is complete as soon as enough of one orientation (tall or wide) are
    drawn, so that little of it is padding. Images left over at an epoch's end go first in the next. Where an
    orientation has fewer images than a batch, a batch may hold an image twice.
    """
    waiting: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    position = 0
    for epoch in count():
        generator = torch.Generator().manual_seed(seeds.derive(seed, "order", epoch))
        for i in torch.randperm(len(indices), generator=generator).tolist():
            group = waiting[tall[i]]
            group.append((indices[i], position))
            position += 1
            if len(group) == batch_size:
                yield group.copy()
                group.clear()


def _collate(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    batch = tuple(list(values) for values in zip(*samples, strict=True))
    return batch if get_worker_info() is None else PackedBatch(batch)

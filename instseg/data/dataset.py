"""The contract of a data set: images with instance targets, and its ground truth in COCO's form."""

from abc import ABC, abstractmethod
from itertools import zip_longest
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from instseg.data.archives.fetch import Source
from instseg.errors import DataError

Target = dict[str, Any]
Sample = tuple[tv_tensors.Image, Target]


class InstanceDataset(Dataset[Sample], ABC):
    """A data set of images with instance masks."""

    FILES: ClassVar[tuple[str, ...]] = ()  # keys of the annotation files and folders that are given to it
    SOURCE: ClassVar[Source | None] = None  # where it is published; None: it can't be downloaded

    name: str  # short, for messages and result files
    categories: list[dict[str, Any]]  # COCO's, ``{"id": int, "name": str}``; ``categories[i]`` has label ``i + 1``
    image_ids: list[int]  # one id an image, in the order of the images
    skipped: list[str]  # one line for each instance or image that the reader left out, and why
    id_shift: int = 0  # what :meth:`ground_truth` adds to the annotation ids of the file that it was read from

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.categories) + 1

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Image ``index`` and its target.

        Returns:
            image: (3, H, W) uint8 RGB, of any strides.
            target: ``boxes`` (N, 4) xyxy float32 in pixels, ``labels`` (N,) int64, ``masks`` (N, H, W) uint8 of 0
                and 1, ``image_id`` int, ``area`` (N,) float32 of the masks in pixels, ``iscrowd`` (N,) int64;
                boxes and masks are ``tv_tensors``.

        Raises:
            DataError: the image or its mask cannot be read, in one line with the file.
        """

    @abstractmethod
    def ground_truth(self) -> dict[str, Any]:
        """COCO's annotation dict of these images (``images, annotations, categories``), segmentations as
        polygons or compressed RLE with ``counts`` a ``str``, so that it can be dumped as JSON."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest that changes with the images and annotations; cheap, so that of images only names and sizes count,
        not their content."""

    def trainable_indices(self) -> list[int]:
        """Indices of the images with an instance to learn from, that is, one that is no crowd region."""
        ids = {a["image_id"] for a in self.ground_truth()["annotations"] if not a.get("iscrowd", 0)}
        return [i for i, image_id in enumerate(self.image_ids) if image_id in ids]

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image, in pixels."""
        sizes = {image["id"]: (image["height"], image["width"]) for image in self.ground_truth()["images"]}
        return [sizes[image_id] for image_id in self.image_ids]

    @abstractmethod
    def describe(self, index: int) -> str:
        """Where image ``index`` comes from (its file, or its seed), for messages."""


def check_same_classes(train: InstanceDataset, val: InstanceDataset) -> None:
    """Check that a label means the same class in both splits.

    Raises:
        DataError: it does not; with a line for each label.
    """
    names = [[str(category["name"]) for category in split.categories] for split in (train, val)]
    pairs = enumerate(zip_longest(*names, fillvalue="not there"), start=1)
    lines = [f"class {label} by id is {a!r} in train and {b!r} in val" for label, (a, b) in pairs if a != b]
    if lines:
        raise DataError(f"{train.name}: {lines[0]}; both must have the same classes in the same order of ids", lines)


def make_target(
    boxes: torch.Tensor,
    labels: torch.Tensor,
    masks: torch.Tensor,
    image_id: int,
    iscrowd: torch.Tensor | None = None,
) -> Target:
    """Put a target together in the form that :class:`InstanceDataset` promises.

    Args:
        boxes: (N, 4) xyxy in pixels.
        labels: (N,) class labels from 1.
        masks: (N, H, W) of 0 and 1.
        image_id: the image's id.
        iscrowd: (N,), 1 where the instance is a crowd region; default none is.
    """
    height, width = masks.shape[-2:]
    n = len(labels)
    masks = masks.to(torch.uint8)
    return {
        "boxes": tv_tensors.BoundingBoxes(boxes.reshape(n, 4).float(), format="XYXY", canvas_size=(height, width)),
        "labels": labels.long(),
        "masks": tv_tensors.Mask(masks),
        "image_id": image_id,
        "area": areas(masks),
        "iscrowd": torch.zeros(n, dtype=torch.int64) if iscrowd is None else iscrowd.long(),
    }


def areas(masks: torch.Tensor) -> torch.Tensor:
    """(N, H, W) uint8 of 0 and 1 -> (N,) float32, their pixels."""
    # numpy counts 40 times faster than torch sums
    counts = [float(np.count_nonzero(mask)) for mask in masks.view(torch.bool).numpy()]
    return torch.tensor(counts, dtype=torch.float32)

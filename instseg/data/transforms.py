"""What happens to a training picture on its way into a batch, by ``torchvision.transforms.v2``."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from instseg.data.dataset import Sample, Target

PER_INSTANCE = ("boxes", "labels", "masks", "area", "iscrowd")


def training(*, flip: float, min_size: Sequence[int], max_size: int) -> v2.Transform:
    """Random horizontal flip, then scale jitter: the short side becomes one of ``min_size`` at random.

    Args:
        flip: probability of the flip.
        min_size: sizes of the short side, in pixels, to choose from.
        max_size: the long side is at most this; the short side gives way.
    """
    return PackedMasks(
        v2.RandomHorizontalFlip(flip),
        v2.RandomShortestSize(list(min_size), max_size=max_size, antialias=True),
    )


class PackedMasks(v2.Transform):
    """Transforms applied in turn, to eight masks at a time: each mask is a bit of the planes that they see as masks.

    That is exact where masks are moved by nearest neighbour and filled with 0, as v2's geometric transforms do,
    and takes a quarter of the time. A transform that adds, drops or reorders instances belongs outside.

    Args:
        transforms: called with (image, target).
    """

    def __init__(self, *transforms: v2.Transform) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, image: tv_tensors.Image, target: Target) -> Sample:
        masks = target["masks"].as_subclass(torch.Tensor)
        n = len(masks)
        # like masks also in strides, so that packing runs through memory in order
        planes = torch.zeros_like(masks[: -(-n // 8)])
        for k in range(n):
            planes[k // 8] |= masks[k] << k % 8
        target = {**target, "masks": tv_tensors.Mask(planes.contiguous())}
        for transform in self.transforms:
            image, target = transform(image, target)
        planes = target["masks"].as_subclass(torch.Tensor)
        masks = planes.new_empty((n, *planes.shape[1:]))
        for k in range(n):
            torch.bitwise_right_shift(planes[k // 8], k % 8, out=masks[k])
        return image, {**target, "masks": tv_tensors.Mask(masks.bitwise_and_(1))}


def without_crowds(target: Target) -> Target:
    """The target less its crowd regions, which are never positives in training (as in COCO's own protocol)."""
    keep = (target["iscrowd"] == 0).nonzero()[:, 0]
    if len(keep) == len(target["iscrowd"]):
        return target
    # slicing would give plain tensors, which v2 would not move
    return {k: tv_tensors.wrap(v.index_select(0, keep), like=v) if k in PER_INSTANCE else v for k, v in target.items()}


def apply(transform: v2.Transform, sample: Sample) -> tuple[torch.Tensor, dict[str, Any]]:
    """A training sample: without crowds, transformed, as plain tensors.

    Returns:
        (3, H, W) uint8, and the target (see :class:`instseg.data.dataset.InstanceDataset`).
    """
    image, target = sample
    image, target = transform(image, without_crowds(target))
    target = {k: v.as_subclass(torch.Tensor) if isinstance(v, torch.Tensor) else v for k, v in target.items()}
    return image.as_subclass(torch.Tensor), target

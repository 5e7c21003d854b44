"""What happens to a training picture on its way into a batch, by ``torchvision.transforms.v2``."""

from collections.abc import Sequence
from typing import Any

import torch
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
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(flip),
            v2.RandomShortestSize(list(min_size), max_size=max_size, antialias=True),
        ]
    )


def without_crowds(target: Target) -> Target:
    """The target less its crowd regions, which are never positives in training (as in COCO's own protocol)."""
    keep = target["iscrowd"] == 0
    if bool(keep.all()):
        return target
    return {k: v[keep] if k in PER_INSTANCE else v for k, v in target.items()}


def apply(transform: v2.Transform, sample: Sample) -> tuple[torch.Tensor, dict[str, Any]]:
    """A training sample: transformed, without crowds, as plain tensors.

    Returns:
        (3, H, W) uint8, and the target (see :class:`instseg.data.dataset.InstanceDataset`).
    """
    image, target = sample
    # slicing a tv_tensor gives a plain tensor, which v2 would not move: crowds go last
    image, target = transform(image, target)
    target = {k: v.as_subclass(torch.Tensor) if isinstance(v, torch.Tensor) else v for k, v in target.items()}
    return image.as_subclass(torch.Tensor), without_crowds(target)

"""What becomes of a target's instances where pictures are cropped and pasted."""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision import tv_tensors

from instseg.data.dataset import Target, areas

PER_INSTANCE = ("boxes", "labels", "masks", "area", "iscrowd")


def select(target: Target, which: torch.Tensor) -> Target:
    """Some of a target's instances, in this order: their numbers (n,) int64."""
    # slicing would give plain tensors, which v2 would not move
    return {k: tv_tensors.wrap(v.index_select(0, which), like=v) if k in PER_INSTANCE else v for k, v in target.items()}


def without_crowds(target: Target) -> Target:
    """The target less its crowd regions, which are never positives in training (as in COCO's own protocol)."""
    keep = (target["iscrowd"] == 0).nonzero()[:, 0]
    return target if len(keep) == len(target["iscrowd"]) else select(target, keep)


def joined(first: Target, second: Target) -> Target:
    """A target with the instances of two of the same size; all else is the first's."""
    both = {k: tv_tensors.wrap(torch.cat([first[k], second[k]]), like=first[k]) for k in PER_INSTANCE}
    return {**first, **both}


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """(N, H, W) masks, none of them empty -> (N, 4) xyxy float32, x2 and y2 one past the last column and row."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks.as_subclass(torch.Tensor).view(torch.bool).numpy(), strict=True):
        rows = np.flatnonzero(mask.any(axis=1))
        columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return torch.from_numpy(boxes)


def settled(target: Target, changed: torch.Tensor, least: float | torch.Tensor) -> Target:
    """The target after something took pixels from its masks.

    Instances with too few pixels are dropped; the boxes of others whose masks were changed are put around what is
    left, and every ``area`` is that of the mask as it is.

    Args:
        target: its masks are of the size of the picture.
        changed: (N,) bool: whose boxes no longer fit.
        least: pixels that a mask must have to stay, 1 or more; one number, or (N,).
    """
    area = areas(target["masks"].as_subclass(torch.Tensor))
    keep = (area >= least).nonzero()[:, 0]
    target = select({**target, "area": area}, keep)
    boxes = target["boxes"].as_subclass(torch.Tensor)
    which = changed[keep].nonzero()[:, 0]
    boxes = boxes.index_copy(0, which, tight_boxes(target["masks"][which]))
    size = (int(target["masks"].shape[-2]), int(target["masks"].shape[-1]))
    return {**target, "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)}


def outside(boxes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(N, 4) xyxy -> (N,) bool: which boxes reach beyond a picture of (H, W)."""
    boxes = boxes.as_subclass(torch.Tensor)
    limit = torch.tensor([size[-1], size[-2]], dtype=boxes.dtype)
    return (boxes[:, :2] < 0).any(1) | (boxes[:, 2:] > limit).any(1)

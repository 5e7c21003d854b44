"""Selecting, joining and repairing the instances of a target when images are cropped and pasted."""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision import tv_tensors

from instseg.data.dataset import Target, areas

PER_INSTANCE = ("boxes", "labels", "masks", "area", "iscrowd")


def select(target: Target, which: torch.Tensor) -> Target:
    """Some of a target's instances, by their indices (n,) int64 and in that order."""
    # indexing alone would give plain tensors, which torchvision's v2 would not transform
    return {k: tv_tensors.wrap(v.index_select(0, which), like=v) if k in PER_INSTANCE else v for k, v in target.items()}


def without_crowds(target: Target) -> Target:
    """The target less its crowd regions, which are never positives in training (as in COCO's own protocol)."""
    keep = (target["iscrowd"] == 0).nonzero()[:, 0]
    return target if len(keep) == len(target["iscrowd"]) else select(target, keep)


def joined(first: Target, second: Target, which: Sequence[int]) -> Target:
    """The first target with some instances of a second one, of the same image size, behind its own."""
    target = dict(first)
    for key in PER_INSTANCE:
        # slices, so that masks are copied once
        added = [second[key][i : i + 1] for i in which]
        target[key] = tv_tensors.wrap(torch.cat([first[key], *added]), like=first[key])
    return target


def tight_box(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """The box around a mask (H, W) of uint8 that is not empty: xyxy, x2 and y2 one past the last column and row."""
    pixels = mask.view(torch.bool).numpy()
    rows = np.flatnonzero(pixels.any(axis=1))
    columns = np.flatnonzero(pixels[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def sanitized(target: Target, changed: torch.Tensor, least: float | torch.Tensor) -> Target:
    """The target after its masks lost pixels.

    Instances with too few pixels are dropped; the other changed masks get new tight boxes, and every ``area`` is
    counted anew.

    Args:
        target: with N instances; its masks are of the size of the image.
        changed: (N,) bool: which boxes no longer fit.
        least: pixels that a mask needs to be kept, 1 or more; a number, or (N,).
    """
    area = areas(target["masks"].as_subclass(torch.Tensor))
    target = {**target, "area": area}
    keep = area >= least
    if not keep.all():
        target, changed = select(target, keep.nonzero()[:, 0]), changed[keep]
    masks, boxes = (target[key].as_subclass(torch.Tensor) for key in ("masks", "boxes"))
    boxes = boxes.clone()
    for i in changed.nonzero()[:, 0].tolist():
        boxes[i] = boxes.new_tensor(tight_box(masks[i]))
    size = (int(masks.shape[-2]), int(masks.shape[-1]))
    return {**target, "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)}


def outside(boxes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(N, 4) xyxy -> (N,) bool: which boxes reach beyond an image of (H, W)."""
    boxes = boxes.as_subclass(torch.Tensor)
    limit = torch.tensor([size[-1], size[-2]], dtype=boxes.dtype)
    return (boxes[:, :2] < 0).any(1) | (boxes[:, 2:] > limit).any(1)

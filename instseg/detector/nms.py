"""Greedy non-maximum suppression of many groups of boxes at once."""

from itertools import repeat

import numpy as np
import torch
import torchvision
from torch import Tensor

from instseg.detector.boxes import iou
from instseg.device import rows_at_a_time

ROUNDS = 4
"""Rounds between two checks of whether the fixed point is reached; a check makes the CPU wait for a GPU."""
LARGEST_GROUP = 8192
"""Boxes whose overlaps with each other are as many numbers as are worked on at a time."""


def keep(boxes: Tensor, valid: Tensor, threshold: float, labels: Tensor | None = None) -> Tensor:
    """Which boxes greedy NMS keeps: those that no kept box of a higher score overlaps by more than ``threshold``.

    On a CPU, and where a group is too large for a table of all its overlaps, this is torchvision's operator, group by
    group; elsewhere :func:`fixed_point`. Both give the same.

    Args:
        boxes: (G, N, 4) xyxy; each row is a group of its own, from the highest score to the lowest.
        valid: (G, N) bool; the others are neither kept nor suppress any.
        threshold: largest IoU that two kept boxes may have.
        labels: (G, N); boxes of different labels don't suppress each other. None: all are alike.

    Returns:
        (G, N) bool.
    """
    if boxes.device.type == "cpu" or boxes.shape[1] > LARGEST_GROUP:
        return _group_by_group(boxes, valid, threshold, labels)
    return fixed_point(boxes, valid, threshold, labels)


def _group_by_group(boxes: Tensor, valid: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    kept = torch.zeros_like(valid)
    falling = torch.arange(boxes.shape[1], 0, -1, dtype=boxes.dtype, device=boxes.device)
    whole = (valid.all(1) if labels is None else torch.zeros(len(valid), dtype=torch.bool)).tolist()
    for g, row in enumerate(boxes):
        if whole[g]:
            kept[g, torchvision.ops.nms(row, falling, threshold)] = True
            continue
        groups = [valid[g]] if labels is None else [valid[g] & (labels[g] == c) for c in labels[g][valid[g]].unique()]
        for group in groups:
            index = group.nonzero()[:, 0]
            kept[g, index[torchvision.ops.nms(row[index], falling[: len(index)], threshold)]] = True
    return kept


def fixed_point(boxes: Tensor, valid: Tensor, threshold: float, labels: Tensor | None = None) -> Tensor:
    """:func:`keep` without a loop over boxes: the rule "a box is kept if no kept box of a higher score overlaps it" is
    applied to all boxes at once, again and again until nothing changes.

    After t rounds the first t boxes of every chain of suppressions are decided, so a fixed point is reached, and
    there is only one: the greedy answer. Rounds are few, as chains are short. Groups are worked on in parts where
    their N × N overlaps would be too many; a group is never split.
    """
    step = rows_at_a_time(boxes.shape[1] ** 2)
    labelled = repeat(None) if labels is None else labels.split(step)
    parts = zip(boxes.split(step), valid.split(step), labelled, strict=False)
    return torch.cat([_fixed_point(box, ok, threshold, label) for box, ok, label in parts])


def _fixed_point(boxes: Tensor, valid: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    over = (iou(boxes, boxes) > _as_float32(threshold)).triu(1)
    if labels is not None:
        over &= labels[:, :, None] == labels[:, None, :]
    # products of zeros and ones: only whether a sum is above 0 counts, so half precision is exact enough
    over_ = over.to(torch.float32 if boxes.device.type == "cpu" else torch.float16)
    kept = valid
    while True:
        for _ in range(ROUNDS):
            before = kept
            suppressed = torch.bmm(before[:, None].to(over_.dtype), over_)[:, 0] > 0
            kept = valid & ~suppressed
        if torch.equal(kept, before):
            return kept


def _as_float32(threshold: float) -> float:
    """The largest float32 that is not above the threshold: torchvision compares in double precision."""
    nearest = np.float32(threshold)
    return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))

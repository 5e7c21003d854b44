"""Matching of boxes with instances and sampling of those to learn from, for whole batches in fixed shapes."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from instseg.detector.boxes import iou
from instseg.device import rows_at_a_time

Targets = list[dict[str, Any]]

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


class PaddedTargets(NamedTuple):
    """The instances of a batch, padded to the same number G an image."""

    boxes: Tensor
    """(B, G, 4) xyxy; 0 in the padding."""
    labels: Tensor
    """(B, G) int64, from 1; 0 in the padding."""

    @property
    def valid(self) -> Tensor:
        """(B, G) bool: False for padding."""
        return self.labels > 0


def pad(targets: Targets) -> PaddedTargets:
    """The boxes and labels of a batch's targets as :class:`PaddedTargets`, of one instance at least."""
    boxes = pad_sequence([target["boxes"].reshape(-1, 4).float() for target in targets], batch_first=True)
    labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
    if labels.shape[1] == 0:
        boxes, labels = boxes.new_zeros(len(targets), 1, 4), labels.new_zeros(len(targets), 1)
    return PaddedTargets(boxes, labels)


def match(
    boxes: Tensor, truth: PaddedTargets, *, high: float, low: float, best_too: bool = False
) -> tuple[Tensor, Tensor]:
    """Match boxes with instances by IoU, as Faster R-CNN does.

    Args:
        boxes: (N, 4), the same for all images, or (B, N, 4).
        truth: of B images.
        high: a box of this IoU with an instance, or more, is positive.
        low: a box of less with each is negative; those in between are ignored.
        best_too: for each instance the box that overlaps it most is positive, whatever their IoU (all of them in a
            tie).

    Returns:
        (B, N) int64, POSITIVE, NEGATIVE or IGNORED, and (B, N) int64, the instance with the largest IoU.
    """
    step = rows_at_a_time(boxes.shape[-2] * truth.labels.shape[1])
    every = (boxes.expand(len(truth.labels), -1, -1), *truth)
    parts = zip(*(values.split(step) for values in every), strict=True)
    matches = [_match(part, PaddedTargets(*instances), high, low, best_too) for part, *instances in parts]
    kinds, matched = zip(*matches, strict=True)
    return torch.cat(kinds), torch.cat(matched)


def _match(boxes: Tensor, truth: PaddedTargets, high: float, low: float, best_too: bool) -> tuple[Tensor, Tensor]:
    overlap = iou(truth.boxes, boxes)
    real = truth.valid[:, :, None]
    # below any IoU, so that padding is never matched
    overlap = torch.where(real, overlap, -1.0)
    largest, matched = overlap.max(dim=1)
    kinds = torch.full_like(matched, IGNORED).masked_fill_(largest >= high, POSITIVE)
    kinds.masked_fill_(largest < low, NEGATIVE)
    if best_too:
        best = (overlap == overlap.amax(dim=2, keepdim=True)) & real
        kinds.masked_fill_(best.any(dim=1), POSITIVE)
    return kinds, matched


class Sampled(NamedTuple):
    """A choice of S boxes an image, the positives first."""

    indices: Tensor
    """(B, S) int64: which boxes."""
    positive: Tensor
    """(B, S) bool. The first ``most`` columns hold all of them."""
    valid: Tensor
    """(B, S) bool: False where there were fewer boxes than asked for."""
    most: int
    """Largest number of positives an image."""


def sample(kinds: Tensor, size: int, positive_fraction: float) -> Sampled:
    """Draw positives, up to a fraction of ``size``, and fill up with negatives; all are equally likely.

    Args:
        kinds: (B, N), POSITIVE, NEGATIVE or IGNORED.
        size: number of boxes to draw an image.
        positive_fraction: largest fraction of positives.
    """
    count = kinds.shape[1]
    size, most = min(size, count), min(int(size * positive_fraction), count)
    keys = torch.rand(kinds.shape, device=kinds.device)
    positive_key, positive = torch.where(kinds == POSITIVE, keys, -1.0).topk(most, dim=1)
    negative_key, negative = torch.where(kinds == NEGATIVE, keys, -1.0).topk(size, dim=1)
    positives = (positive_key >= 0).sum(1, keepdim=True)
    negatives = (negative_key >= 0).sum(1, keepdim=True)
    slot = torch.arange(size, device=kinds.device)[None]
    is_positive = slot < positives
    index = torch.cat([positive, negative], dim=1).gather(1, torch.where(is_positive, slot, slot - positives + most))
    return Sampled(index, is_positive, is_positive | (slot - positives < negatives), most)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each image: (B, N, ...) and (B, S) -> (B, S, ...)."""
    shape = index.shape + values.shape[2:]
    return values.gather(1, index.reshape(index.shape + (1,) * (values.dim() - 2)).expand(shape))

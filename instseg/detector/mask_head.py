"""The contract of a mask head: what it is given, what it must give, and what it learns from.

A head is a module over the RoIs of a batch. The least that it defines is ``forward``: it asks the RoIs for features
(:meth:`RoIs.align`, :meth:`RoIs.sample`) and returns the logits of a mask for each. Loss and prediction are those of
Mask R-CNN (He et al., ICCV 2017) unless the head defines its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import accumulate
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align as crop_and_resize

from instseg.detector.rois import RoIs
from instseg.detector.shape_losses import boundary_loss, dice_loss
from instseg.device import rows_at_a_time


class MaskPrediction(NamedTuple):
    """The masks of R detections."""

    probabilities: Tensor
    """(R, M, M): probability of the mask of each detection's class in each cell of its box."""
    scores: Tensor | None = None
    """(R,): the head's estimate of its masks' quality, in [0, 1]; None where the head makes none."""


class MaskHead(nn.Module, ABC):
    """A mask head. A subclass must define :meth:`forward`; the other methods are Mask R-CNN's own."""

    torchvision_names: ClassVar[Mapping[str, str]] = {}
    """Prefixes of this head's parameters -> their prefix under ``roi_heads.`` in torchvision's Mask R-CNN, so
    that checkpoints pass both ways. Empty where torchvision has no such head."""

    loss_weight: float = 1.0
    dice_weight: float = 0.0
    boundary_weight: float = 0.0
    """Weights of all its losses together, and of the two losses on shape that any head can take; see :meth:`losses`."""

    lr_mult: float = 1.0
    decay_mult: float = 1.0
    """Learning rate and weight decay of its parameters, in multiples of the schedule's."""

    @abstractmethod
    def forward(self, rois: RoIs) -> Tensor:
        """(R, num_classes or 1, M, M) logits of the masks in the boxes of ``rois``."""

    def loss(self, logits: Tensor, rois: RoIs, targets: "MaskTargets") -> dict[str, Tensor]:
        """Scalars to be added to the loss: by default ``loss_mask``, binary cross-entropy on the channel of the
        true class, averaged over cells and RoIs (0 where there is no RoI)."""
        if len(targets.labels) == 0:
            return {"loss_mask": logits.sum() * 0}
        truth = targets.crop(logits.shape[-1])
        true_class = class_channel(logits, targets.labels).float()
        return {"loss_mask": F.binary_cross_entropy_with_logits(true_class, truth)}

    def mask_logits(self, logits: Tensor, rois: RoIs, labels: Tensor) -> Tensor:
        """(R, M', M') logits of each RoI's predicted mask: by default :meth:`forward`'s in the channel of the RoI's
        label. A head whose masks are finer than what ``forward`` gives refines them here."""
        return class_channel(logits, labels)

    def predict(self, rois: RoIs, labels: Tensor) -> MaskPrediction:
        """Masks of detections.

        Args:
            rois: the R detections.
            labels: (R,) their classes.
        """
        return MaskPrediction(self.mask_logits(self(rois), rois, labels).float().sigmoid())

    def losses(self, logits: Tensor, rois: RoIs, targets: "MaskTargets") -> dict[str, Tensor]:
        """All mask losses of a detector, times ``loss_weight``: :meth:`loss`, and where their weights are not 0
        ``loss_mask_dice`` and ``loss_mask_boundary`` of :mod:`instseg.detector.shape_losses`, on the masks as they are
        predicted."""
        losses = self.loss(logits, rois, targets)
        if self.dice_weight or self.boundary_weight:
            masks = self.mask_logits(logits, rois, targets.labels).float()
            truth = targets.crop(masks.shape[-1])
            if self.dice_weight:
                losses["loss_mask_dice"] = self.dice_weight * dice_loss(masks.sigmoid(), truth)
            if self.boundary_weight:
                losses["loss_mask_boundary"] = self.boundary_weight * boundary_loss(masks, truth)
        return {name: self.loss_weight * loss for name, loss in losses.items()}


def class_channel(logits: Tensor, labels: Tensor) -> Tensor:
    """(R, C, M, M) logits -> (R, M, M), the channel of each RoI's label; C = 1 serves every class."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(labels), device=labels.device), labels]


class MaskTargets:
    """The true masks of the RoIs that a mask head learns from (all of them positive).

    Args:
        labels: (R,) true class of each RoI, from 1.
        masks: one (N_i, H, W) tensor an image: its instances' masks, of the size of the network's input.
        matched: one (n_i,) tensor an image: which of its instances each RoI was matched to.
        boxes: one (n_i, 4) tensor an image: the RoIs' boxes.
    """

    def __init__(self, labels: Tensor, masks: list[Tensor], matched: list[Tensor], boxes: list[Tensor]) -> None:
        self.labels, self._masks, self._matched, self._boxes = labels, masks, matched, boxes
        self._crops: dict[int, Tensor] = {}

    def crop(self, size: int) -> Tensor:
        """(R, size, size) float32 in [0, 1]: the true masks inside the boxes, averaged over each cell by
        RoIAlign as torchvision does; remembered for the next head that asks for the same size."""
        if size not in self._crops:
            self._crops[size] = torch.cat([_crop(*group, size) for group in self._groups()])
        return self._crops[size]

    def at(self, points: Tensor) -> Tensor:
        """The true masks at points inside the boxes, bilinear between the centres of pixels (Kirillov et al.,
        *PointRend*, CVPR 2020); beyond the image's border its outermost pixels are repeated.

        Args:
            points: (R, P, 2) as :meth:`RoIs.sample` takes them.

        Returns:
            (R, P) float32 in [0, 1].
        """
        groups = self._groups()
        parts = points.split([len(boxes) for _, _, boxes in groups])
        return torch.cat([_at(*group, part) for group, part in zip(groups, parts, strict=True)])

    def iou(self, masks: Tensor) -> Tensor:
        """IoU of masks, laid over their boxes, with the whole true masks, what lies outside the boxes included (Huang
        et al., *Mask Scoring R-CNN*, CVPR 2019).

        Args:
            masks: (R, M, M) of 0 and 1.

        Returns:
            (R,) float32 in [0, 1]; 0 where both are empty.
        """
        inside = self.crop(masks.shape[-1])
        masks = masks.to(inside)
        boxes = torch.cat(self._boxes)
        cell = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) / masks.shape[1:].numel()
        areas = [m.flatten(1).sum(1, dtype=inside.dtype)[i] for m, i in zip(self._masks, self._matched, strict=True)]
        # a mask's crop may come out larger than the mask by rounding at the box's border
        whole = torch.maximum(torch.cat(areas), inside.sum((1, 2)) * cell)
        common = (masks * inside).sum((1, 2)) * cell
        return common / (masks.sum((1, 2)) * cell + whole - common).clamp(min=1e-6)

    def _groups(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(masks, matched, boxes) to crop together: the whole batch where its images have the same size and their
        masks, which are made float32 at once, are not too large; else image by image."""
        largest = max(masks.shape[1:].numel() for masks in self._masks)
        together = sum(map(len, self._masks)) <= rows_at_a_time(largest)
        if len({masks.shape[1:] for masks in self._masks}) > 1 or not together:
            return list(zip(self._masks, self._matched, self._boxes, strict=True))
        starts = accumulate((len(masks) for masks in self._masks), initial=0)
        matched = [index + start for index, start in zip(self._matched, starts, strict=False)]
        return [(torch.cat(self._masks), torch.cat(matched), torch.cat(self._boxes))]


def _crop(masks: Tensor, matched: Tensor, boxes: Tensor, size: int) -> Tensor:
    rois = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    return crop_and_resize(masks[:, None].to(boxes), rois, size)[:, 0]


def _at(masks: Tensor, matched: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
    # reads four pixels a point; grid_sample would need a copy of the mask for every RoI
    place = (boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2]) - 0.5).float()
    first = place.floor()
    x0, y0 = first.long().unbind(-1)
    (wx, wy), which, (height, width) = (place - first).unbind(-1), matched[:, None], masks.shape[1:]
    x0, x1 = x0.clamp(0, width - 1), (x0 + 1).clamp(0, width - 1)
    y0, y1 = y0.clamp(0, height - 1), (y0 + 1).clamp(0, height - 1)
    above = torch.lerp(masks[which, y0, x0].float(), masks[which, y0, x1].float(), wx)
    below = torch.lerp(masks[which, y1, x0].float(), masks[which, y1, x1].float(), wx)
    return torch.lerp(above, below, wy)

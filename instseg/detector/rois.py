"""Regions of interest of one batch, the masks to learn in them, and the contract that every mask head keeps."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import accumulate
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align as crop_and_resize

from instseg.detector.boxes import no_autocast, on_device, rows_at_a_time
from instseg.detector.roi_align import Pyramid, roi_align
from instseg.detector.shape_losses import boundary_loss, dice_loss

ROI_LEVELS = (2, 3, 4, 5)
"""Pyramid levels that RoIs are taken from (P6 serves the RPN alone)."""


def fpn_levels(boxes: Tensor) -> Tensor:
    """The pyramid level that fits each box: eq. 1 of Lin et al., *Feature Pyramid Networks*, CVPR 2017.

    Args:
        boxes: (R, 4) xyxy in pixels of the network's input.

    Returns:
        (R,) int64 in 2..5; a box of 224 × 224 pixels lies on level 4.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # no box is an index, not even a broken one
    level = torch.floor(4 + torch.log2(area.sqrt() / 224) + 1e-6).nan_to_num(ROI_LEVELS[0])
    return level.clamp(ROI_LEVELS[0], ROI_LEVELS[-1]).long()


class RoIs:
    """Regions of one batch over its feature pyramid; heads ask it for the features they want.

    Args:
        pyramid: level -> (B, C, H / 2^level, W / 2^level) features of the batch.
        boxes: one (n_i, 4) xyxy tensor an image, in pixels of the network's input. R is the sum of the n_i.
    """

    def __init__(self, pyramid: Mapping[int, Tensor], boxes: list[Tensor]) -> None:
        self.pyramid = pyramid if isinstance(pyramid, Pyramid) else Pyramid(pyramid)
        self.boxes = boxes
        self._aligned: dict[tuple[int, int | None], Tensor] = {}
        self._sampled: dict[int, tuple[Tensor, Tensor]] = {}
        self._kept: dict[nn.Module, Tensor] = {}

    def __len__(self) -> int:
        return sum(len(boxes) for boxes in self.boxes)

    def over(self, maps: Mapping[int, Tensor]) -> "RoIs":
        """The same boxes over other maps of the same sizes, such as maps with fewer channels made of the pyramid's."""
        return RoIs(Pyramid(maps, self.pyramid.aligned), self.boxes)

    @torch.compiler.disable
    def align(self, size: int, level: int | None = None) -> Tensor:
        """RoIAlign (He et al., *Mask R-CNN*, ICCV 2017), two samples a bin and axis, as torchvision does it, or half a
        cell off where the pyramid says ``aligned``.

        Args:
            size: height and width of the grid laid over each box.
            level: the pyramid level to read for every box; None reads the level that fits each box.

        Returns:
            (R, C, size, size) in memory format channels_last, remembered for the next head that asks for the same.
        """
        key = (size, level)
        if key not in self._aligned:
            self._aligned[key] = self._align(size, level)
        return self._aligned[key]

    def _align(self, size: int, level: int | None) -> Tensor:
        boxes = torch.cat(self.boxes)
        if level is None:
            levels = fpn_levels(boxes)
        else:
            self._features(level)
            levels = torch.full((len(boxes),), level, device=boxes.device)
        return roi_align(self.pyramid, boxes, self._image(), levels, size)

    def _image(self) -> Tensor:
        """(R,) int64: the image that each RoI lies in."""
        return torch.cat([torch.full((len(b),), i, device=b.device) for i, b in enumerate(self.boxes)])

    @torch.compiler.disable
    def sample(self, points: Tensor, level: int) -> Tensor:
        """Features at points inside the boxes, bilinear between the centres of the map's cells
        (Kirillov et al., *PointRend*, CVPR 2020).

        :meth:`align` keeps the original Mask R-CNN's convention, half a cell away from this one.

        Args:
            points: (R, P, 2) as (x, y), (0, 0) a box's top left corner and (1, 1) its bottom right one.
            level: the pyramid level to read.

        Returns:
            (R, C, P), remembered until other points are asked for on the same level.
        """
        if level in self._sampled and self._sampled[level][0] is points:
            return self._sampled[level][1]
        features = self._features(level)
        height, width = features.shape[-2:]
        extent = on_device((width * 2**level, height * 2**level), points.device, torch.float32)
        parts = []
        # a bfloat16 position would be off by a fifth of a cell
        with no_autocast(points.device):
            for i, (boxes, p) in enumerate(zip(self.boxes, points.split([len(b) for b in self.boxes]), strict=True)):
                xy = boxes[:, None, :2] + p * (boxes[:, None, 2:] - boxes[:, None, :2])
                grid = (xy.float() / extent * 2 - 1)[None]
                one = F.grid_sample(features[i : i + 1].float(), grid, align_corners=False)[0]
                parts.append(one.transpose(0, 1))
        sampled = torch.cat(parts).to(features.dtype)
        self._sampled[level] = (points, sampled)
        return sampled

    @torch.compiler.disable
    def keep(self, owner: nn.Module, features: Tensor) -> None:
        """Lay by what a head's ``forward`` made of these RoIs, for its own loss or masks to go on from."""
        self._kept[owner] = features

    @torch.compiler.disable
    def take(self, owner: nn.Module) -> Tensor | None:
        """What a head laid by last, once; None where there is nothing (any more)."""
        return self._kept.pop(owner, None)

    def _features(self, level: int) -> Tensor:
        if level not in self.pyramid:
            raise ValueError(f"level {level} is not in the pyramid; it has {sorted(self.pyramid)}")
        return self.pyramid[level]


class MaskTargets:
    """The true masks of the RoIs that a mask head learns from (all of them positive).

    Args:
        labels: (R,) true class of each RoI, from 1.
        masks: one (N_i, H, W) tensor an image: its instances' masks, of the size of the network's input.
        matched: one (n_i,) tensor an image: which of its instances each RoI was matched to.
        boxes: one (n_i, 4) tensor an image: the RoIs' boxes.
    """

    def __init__(self, labels: Tensor, masks: list[Tensor], matched: list[Tensor], boxes: list[Tensor]) -> None:
        self.labels = labels
        self._masks = masks
        self._matched = matched
        self._boxes = boxes
        self._crops: dict[int, Tensor] = {}

    def crop(self, size: int) -> Tensor:
        """(R, size, size) float32 in [0, 1]: the true masks inside the boxes, averaged over each cell by
        RoIAlign as torchvision does; remembered for the next head that asks for the same size."""
        if size not in self._crops:
            self._crops[size] = torch.cat([_crop(*one, size) for one in self._of_one_size()])
        return self._crops[size]

    def at(self, points: Tensor) -> Tensor:
        """The true masks at points inside the boxes, bilinear between the centres of pixels (Kirillov et al.,
        *PointRend*, CVPR 2020); beyond the image's border they go on as they are there.

        Args:
            points: (R, P, 2) as :meth:`RoIs.sample` takes them.

        Returns:
            (R, P) float32 in [0, 1].
        """
        together = self._of_one_size()
        each = points.split([len(boxes) for _, _, boxes in together])
        return torch.cat([_at(*one, p) for one, p in zip(together, each, strict=True)])

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
        # crops round at the border
        whole = torch.maximum(torch.cat(areas), inside.sum((1, 2)) * cell)
        common = (masks * inside).sum((1, 2)) * cell
        return common / (masks.sum((1, 2)) * cell + whole - common).clamp(min=1e-6)

    def _of_one_size(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(masks, matched, boxes) that can be cropped together: the whole batch where its images are of one size and
        their masks, which become float32 at once, are not too large."""
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
    # reads four pixels a point, where grid_sample wants a copy of the mask of every RoI
    place = (boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2]) - 0.5).float()
    first = place.floor()
    x0, y0 = first.long().unbind(-1)
    (wx, wy), which, (height, width) = (place - first).unbind(-1), matched[:, None], masks.shape[1:]
    x0, x1 = x0.clamp(0, width - 1), (x0 + 1).clamp(0, width - 1)
    y0, y1 = y0.clamp(0, height - 1), (y0 + 1).clamp(0, height - 1)
    above = torch.lerp(masks[which, y0, x0].float(), masks[which, y0, x1].float(), wx)
    below = torch.lerp(masks[which, y1, x0].float(), masks[which, y1, x1].float(), wx)
    return torch.lerp(above, below, wy)


class MaskPrediction(NamedTuple):
    """What a head says of R detections."""

    probabilities: Tensor
    """(R, M, M): probability of the mask of each detection's class in each cell of its box."""
    scores: Tensor | None = None
    """(R,): how good the head thinks its mask is, in [0, 1]; None where the head does not say."""


def class_channel(logits: Tensor, labels: Tensor) -> Tensor:
    """(R, C, M, M) logits -> (R, M, M), the channel of each RoI's label; C = 1 serves every class."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(labels), device=labels.device), labels]


class MaskHead(nn.Module, ABC):
    """The contract of a mask head. A head need only define :meth:`forward`; the rest is Mask R-CNN's own."""

    torchvision_names: ClassVar[Mapping[str, str]] = {}
    """Prefixes of this head's parameters -> their prefix under ``roi_heads.`` in torchvision's Mask R-CNN, so
    that checkpoints pass both ways. Empty where torchvision has no such head."""

    dice_weight: float = 0.0
    boundary_weight: float = 0.0
    """Weights of the two losses on shape that any head can take; see :meth:`losses`."""

    @abstractmethod
    def forward(self, rois: RoIs) -> Tensor:
        """(R, num_classes or 1, M, M) logits of the masks in the boxes of ``rois``."""

    def loss(self, logits: Tensor, rois: RoIs, targets: MaskTargets) -> dict[str, Tensor]:
        """Scalars to be added to the loss: by default ``loss_mask``, binary cross-entropy on the channel of the
        true class, averaged over cells and RoIs (0 where there is no RoI)."""
        if len(targets.labels) == 0:
            return {"loss_mask": logits.sum() * 0}
        truth = targets.crop(logits.shape[-1])
        chosen = class_channel(logits, targets.labels).float()
        return {"loss_mask": F.binary_cross_entropy_with_logits(chosen, truth)}

    def mask_logits(self, logits: Tensor, rois: RoIs, labels: Tensor) -> Tensor:
        """(R, M', M') logits of each RoI's mask, as it is predicted: by default :meth:`forward`'s in the channel of
        the RoI's label. A head that makes its masks finer than ``forward`` does says here how."""
        return class_channel(logits, labels)

    def predict(self, rois: RoIs, labels: Tensor) -> MaskPrediction:
        """Masks of detections.

        Args:
            rois: the R detections.
            labels: (R,) their classes.
        """
        return MaskPrediction(self.mask_logits(self(rois), rois, labels).float().sigmoid())

    def losses(self, logits: Tensor, rois: RoIs, targets: MaskTargets) -> dict[str, Tensor]:
        """All that a detector learns masks from: :meth:`loss`, and where their weights are not 0 ``loss_mask_dice``
        and ``loss_mask_boundary`` of :mod:`instseg.detector.shape_losses`, on the masks as they are predicted."""
        found = self.loss(logits, rois, targets)
        if self.dice_weight or self.boundary_weight:
            masks = self.mask_logits(logits, rois, targets.labels).float()
            truth = targets.crop(masks.shape[-1])
            if self.dice_weight:
                found["loss_mask_dice"] = self.dice_weight * dice_loss(masks.sigmoid(), truth)
            if self.boundary_weight:
                found["loss_mask_boundary"] = self.boundary_weight * boundary_loss(masks, truth)
        return found

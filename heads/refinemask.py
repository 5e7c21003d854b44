"""RefineMask: a mask refined stage by stage with fine features."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import FineFeatures, Pointwise, conv, conv_stack, doublings, halved_widths, initialise
from instseg.detector.mask_head import MaskHead, MaskTargets
from instseg.detector.rois import RoIs

DILATIONS = (1, 3, 5)
LOSS_WIDTH, PREDICTION_WIDTH = 2, 1
"""Cells on either side of a contour that the loss covers, and that a finer mask may change."""
WHOLE = 2
"""Masks that are learnt and predicted as a whole; the finer ones only near contours."""


class RefineMask(MaskHead):
    """Zhang et al., *RefineMask: Towards High-Quality Instance Segmentation with Fine-Grained Features*, CVPR 2021.

    Two 3×3 convolutions at (R, C, 14, 14) and a 1×1 convolution make the first logits, (R, K, 14, 14). Each stage joins
    the features, P2 on the same grid and the mask of the true (or predicted) class, convolves them at three dilations,
    doubles the grid and halves the channels: (R, C/2, 28, 28), (R, C/4, 56, 56), (R, C/8, 112, 112), with a mask from
    each. From the third mask on, only cells near the contour of the mask before are replaced, and with
    ``boundary_loss`` only those near that contour or the true one are learnt.

    The paper's semantic branch, which learns the foreground of whole images, is left out; the stages read P2 itself.

    :meth:`forward` gives the first logits; :meth:`predict` masks of ``output_size``.

    Cost: 4.0 M parameters, 2.95 GFLOP.

    Args:
        width: channels on the RoI's grid, halved at each stage; None: C.
        boundary_loss: learn the third mask and those after it only near contours.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int | None = None,
        boundary_loss: bool = True,
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 112,
    ) -> None:
        super().__init__()
        stages = doublings(roi_size, output_size, least=1)
        widths = halved_widths(in_channels if width is None else width, stages, output_size)
        self.roi_size = roi_size
        self.boundary_loss = boundary_loss
        self.convs = conv_stack(in_channels, widths[0], norm)
        self.stages = nn.ModuleList(_Stage(in_channels, width, half, norm) for width, half in pairwise(widths))
        self.logits = nn.ModuleList(Pointwise(width, num_classes) for width in widths)
        initialise(self, *self.logits)

    def forward(self, rois: RoIs) -> Tensor:
        x = self.convs(rois.align(self.roi_size))
        rois.keep(self, x)
        return self.logits[0](x)

    def masks(self, rois: RoIs, labels: Tensor) -> list[Tensor]:
        """Logits (R, M, M) of the masks of all sizes, in the channel of each RoI's label."""
        x = rois.take(self)
        if x is None:
            x = self.convs(rois.align(self.roi_size))
        masks = [_label_logits(self.logits[0], x, labels)]
        for stage, logits in zip(self.stages, self.logits[1:], strict=True):
            x = stage(x, masks[-1][:, None], rois)
            masks.append(_label_logits(logits, x, labels))
        return masks

    def loss(self, logits: Tensor, rois: RoIs, targets: MaskTargets) -> dict[str, Tensor]:
        """``loss_mask``: the weighted sum of the binary cross-entropies of all masks; with four masks the weights are
        1/4, 2/4, 3/4 and 1. It continues from the features that :meth:`forward` kept."""
        if len(targets.labels) == 0:
            return {"loss_mask": logits.sum() * 0}
        masks = [mask.float() for mask in self.masks(rois, targets.labels)]
        refined = refine([mask.detach() for mask in masks])
        total = logits.sum() * 0
        for i, mask in enumerate(masks):
            losses = F.binary_cross_entropy_with_logits(mask, targets.crop(mask.shape[-1]), reduction="none")
            if self.boundary_loss and i >= WHOLE:
                truth = targets.crop(masks[i - 1].shape[-1]) > 0.5
                near = _twice(near_contour(refined[i - 1] > 0, LOSS_WIDTH) | near_contour(truth, LOSS_WIDTH))
                loss = (losses * near).sum() / near.sum().clamp(min=1)
            else:
                loss = losses.mean()
            total = total + loss * (i + 1) / len(masks)
        return {"loss_mask": total}

    def mask_logits(self, logits: Tensor, rois: RoIs, labels: Tensor) -> Tensor:
        """(R, output_size, output_size): the refined last mask; see :func:`refine`."""
        return refine([mask.float() for mask in self.masks(rois, labels)])[-1]


class _Stage(nn.Module):
    """Features (R, width, M, M), mask logits (R, 1, M, M) -> features (R, half, 2M, 2M), the last one the mask."""

    def __init__(self, in_channels: int, width: int, half: int, norm: str) -> None:
        super().__init__()
        self.fine = FineFeatures(in_channels, width, (2,))
        self.fuse = Pointwise(2 * width + 1, width)
        self.branches = nn.ModuleList(conv(width, width, norm, dilation=dilation) for dilation in DILATIONS)
        self.merge = nn.Sequential(Pointwise(width, width), nn.ReLU(), Pointwise(width, half - 1), nn.ReLU())

    def forward(self, x: Tensor, logits: Tensor, rois: RoIs) -> Tensor:
        mask = logits.sigmoid()
        x = F.relu(self.fuse.joined([x, F.relu(self.fine(rois, x.shape[-1])), mask]))
        # torch.stack would change the memory format to channels first
        x = self.merge(sum((branch(x) for branch in self.branches[1:]), start=self.branches[0](x)))
        # concatenated along the last dimension they stay channels_last, where doubling is many times faster
        cells = torch.cat([x.permute(0, 2, 3, 1), mask.permute(0, 2, 3, 1)], dim=-1)
        return F.interpolate(cells.permute(0, 3, 1, 2), scale_factor=2.0, mode="bilinear")


def _label_logits(layer: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """A 1×1 convolution of (R, C, M, M), computed only in the channel of each RoI's label: (R, M, M)."""
    assert isinstance(layer, Pointwise) and layer.bias is not None
    channel = labels if layer.out_channels > 1 else torch.zeros_like(labels)
    weight, bias = layer.weight.flatten(1)[channel], layer.bias[channel]
    cells = x.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.baddbmm(bias[:, None, None], cells, weight[:, :, None]).view(len(x), *x.shape[2:])


def refine(masks: list[Tensor]) -> list[Tensor]:
    """Logits (R, M, M), (R, 2M, 2M) and so on, each from the third on replaced by the mask before, doubled,
    except near the contour of that mask."""
    refined = masks[:WHOLE]
    for finer in masks[WHOLE:]:
        near = _twice(near_contour(refined[-1] > 0, PREDICTION_WIDTH))
        coarser = F.interpolate(refined[-1][:, None], scale_factor=2.0, mode="bilinear")[:, 0]
        refined.append(torch.where(near, finer, coarser))
    return refined


def near_contour(mask: Tensor, width: int) -> Tensor:
    """(R, M, M) bool: cells of boolean masks (R, M, M) with a cell of the other value at most ``width`` away along
    either axis."""
    both = torch.stack([mask, ~mask], dim=1).float()
    return F.max_pool2d(both, 2 * width + 1, stride=1, padding=width).bool().all(dim=1)


def _twice(cells: Tensor) -> Tensor:
    return cells.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)

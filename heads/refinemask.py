"""RefineMask: a mask refined stage by stage with fine features."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import FineFeatures, Pointwise, conv, doublings, initialise
from instseg.detector.mask_head import MaskHead, MaskTargets
from instseg.detector.rois import RoIs
from instseg.errors import UserError

CONVS, DILATIONS = 2, (1, 3, 5)
LOSS_WIDTH, PREDICTION_WIDTH = 2, 1
"""Cells on either side of a contour that the loss reads and that a finer stage may change."""
PLAIN = 2
"""Stages that learn on whole masks and are predicted whole."""


class RefineMask(MaskHead):
    """Zhang et al., *RefineMask: Towards High-Quality Instance Segmentation with Fine-Grained Features*, CVPR 2021.

    Two 3×3 convolutions and a 1×1 convolution make a mask of 14×14. Each stage joins the features, the features of P2
    in as many cells and the mask of the true (or predicted) class, reads them at three dilations, doubles the grid
    and halves the channels, up to a mask of 112×112. From the third mask on, only cells near the contour of the mask
    before are replaced, and with ``boundary_loss`` only those near that contour or the true one are learnt.

    Left out is the paper's semantic branch, which learns the foreground of whole images; the stages read P2 itself.

    :meth:`forward` gives the first logits, (R, num_classes, 14, 14); :meth:`predict` masks of ``output_size``.

    Args:
        in_channels: channels of the pyramid's maps.
        num_classes: output channels.
        width: channels on the RoI's grid, halved at each stage; None: as many as the pyramid's.
        boundary_loss: learn the third mask and those after it near contours alone.
        norm: of the 3×3 convolutions: ``none``, ``group`` or ``batch``.
        roi_size: height and width of the RoIs' grid.
        output_size: height and width of the predicted masks: ``roi_size`` times 2, 4 or so on.
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
        stages = doublings(roi_size, output_size)
        if stages == 0:
            raise UserError(f"head.options: output_size={output_size} must be twice roi_size={roi_size} or more")
        width = in_channels if width is None else width
        if width < 2 ** (stages + 1):
            raise UserError(
                f"head.options: width={width} is halved {stages} times up to output_size={output_size}, and must be "
                f"{2 ** (stages + 1)} or more"
            )
        self.roi_size = roi_size
        self.boundary_loss = boundary_loss
        widths = [width // 2**i for i in range(stages + 1)]
        self.convs = nn.Sequential(*(conv(width if i else in_channels, width, norm) for i in range(CONVS)))
        self.stages = nn.ModuleList(_Stage(in_channels, w, half, norm) for w, half in pairwise(widths))
        self.logits = nn.ModuleList(Pointwise(w, num_classes) for w in widths)
        initialise(self)

    def forward(self, rois: RoIs) -> Tensor:
        x = self.convs(rois.align(self.roi_size))
        rois.keep(self, x)
        return self.logits[0](x)

    def masks(self, rois: RoIs, labels: Tensor) -> list[Tensor]:
        """Logits of the masks of each size, (R, M, M), of the channel of each RoI's label.

        Args:
            rois: R RoIs.
            labels: (R,) their classes.
        """
        kept = rois.take(self)
        x = self.convs(rois.align(self.roi_size)) if kept is None else kept
        found = [_one_class(self.logits[0], x, labels)]
        for stage, logits in zip(self.stages, self.logits[1:], strict=True):
            x = stage(x, found[-1][:, None], rois)
            found.append(_one_class(logits, x, labels))
        return found

    def loss(self, logits: Tensor, rois: RoIs, targets: MaskTargets) -> dict[str, Tensor]:
        """``loss_mask``: binary cross-entropies of all masks, a quarter of the first, half of the second and so on
        up to the whole of the last, of four. They go on from the features that :meth:`forward` kept."""
        if len(targets.labels) == 0:
            return {"loss_mask": logits.sum() * 0}
        masks = [mask.float() for mask in self.masks(rois, targets.labels)]
        refined = refine([mask.detach() for mask in masks])
        total = logits.sum() * 0
        for i, mask in enumerate(masks):
            cells = F.binary_cross_entropy_with_logits(mask, targets.crop(mask.shape[-1]), reduction="none")
            if self.boundary_loss and i >= PLAIN:
                truth = targets.crop(masks[i - 1].shape[-1]) > 0.5
                near = _twice(near_contour(refined[i - 1] > 0, LOSS_WIDTH) | near_contour(truth, LOSS_WIDTH))
                one = (cells * near).sum() / near.sum().clamp(min=1)
            else:
                one = cells.mean()
            total = total + one * (i + 1) / len(masks)
        return {"loss_mask": total}

    def mask_logits(self, logits: Tensor, rois: RoIs, labels: Tensor) -> Tensor:
        """The last mask, where it was near the contour of the one before."""
        return refine([mask.float() for mask in self.masks(rois, labels)])[-1]


class _Stage(nn.Module):
    """Features (R, width, M, M) and mask logits (R, 1, M, M) -> features (R, half, 2M, 2M), the mask among them."""

    def __init__(self, in_channels: int, width: int, half: int, norm: str) -> None:
        super().__init__()
        self.fine = FineFeatures(in_channels, width, (2,))
        self.fuse = Pointwise(2 * width + 1, width)
        self.branches = nn.ModuleList(conv(width, width, norm, dilation=dilation) for dilation in DILATIONS)
        self.merge = nn.Sequential(Pointwise(width, width), nn.ReLU(), Pointwise(width, half - 1), nn.ReLU())

    def forward(self, x: Tensor, logits: Tensor, rois: RoIs) -> Tensor:
        mask = logits.sigmoid()
        x = F.relu(self.fuse.joined([x, F.relu(self.fine(rois, x.shape[-1])), mask]))
        # a stack would be laid out anew, channels first
        x = self.merge(sum((branch(x) for branch in self.branches[1:]), start=self.branches[0](x)))
        # joined along the last dimension, they stay channels last, in which doubling is many times faster
        cells = torch.cat([x.permute(0, 2, 3, 1), mask.permute(0, 2, 3, 1)], dim=-1)
        return F.interpolate(cells.permute(0, 3, 1, 2), scale_factor=2.0, mode="bilinear")


def _one_class(layer: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """What a 1×1 convolution gives of (R, C, M, M) in the channel of each RoI's label, (R, M, M), and no other."""
    assert isinstance(layer, Pointwise) and layer.bias is not None
    channel = labels if layer.out_channels > 1 else torch.zeros_like(labels)
    weight, bias = layer.weight.flatten(1)[channel], layer.bias[channel]
    cells = x.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.baddbmm(bias[:, None, None], cells, weight[:, :, None]).view(len(x), *x.shape[2:])


def refine(masks: list[Tensor]) -> list[Tensor]:
    """Logits (R, M, M), (R, 2M, 2M) and so on, each from the third on kept near the contour of the one before, which
    fills the rest."""
    out = masks[:PLAIN]
    for finer in masks[PLAIN:]:
        near = _twice(near_contour(out[-1] > 0, PREDICTION_WIDTH))
        out.append(torch.where(near, finer, F.interpolate(out[-1][:, None], scale_factor=2.0, mode="bilinear")[:, 0]))
    return out


def near_contour(mask: Tensor, width: int) -> Tensor:
    """Cells of boolean masks (R, M, M) that have an unlike one at most ``width`` cells away along either axis."""
    either = torch.stack([mask, ~mask], dim=1).float()
    return F.max_pool2d(either, 2 * width + 1, stride=1, padding=width).bool().all(dim=1)


def _twice(cells: Tensor) -> Tensor:
    return cells.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)

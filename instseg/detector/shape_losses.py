"""Losses on the shape of a mask, beside the cross-entropy of its cells; any mask head can take them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 − Dice coefficient (Milletari et al., *V-Net*, 3DV 2016, with squares below), 1 added above and below, so
    that two empty masks agree.

    Args:
        probabilities: (R, M, M) in [0, 1].
        truth: (R, M, M) in [0, 1].

    Returns:
        The mean over RoIs, in [0, 1]; 0 where there is none.
    """
    if len(truth) == 0:
        return probabilities.sum() * 0
    p, t = probabilities.flatten(1), truth.flatten(1)
    return (1 - (2 * (p * t).sum(1) + 1) / ((p * p).sum(1) + (t * t).sum(1) + 1)).mean()


def boundary_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice and binary cross-entropy where the mask ends, after Cheng et al., *Boundary-preserving Mask R-CNN*, ECCV
    2020. They predict contours in a branch of their own; here the contour is that of the mask itself.

    Args:
        logits: (R, M, M).
        truth: (R, M, M) in [0, 1].

    Returns:
        The Dice loss of the two :func:`contour` maps, and the cross-entropy averaged over the cells on the true
        contour; 0 where there is no RoI.
    """
    if len(truth) == 0:
        return logits.sum() * 0
    near = contour((truth > 0.5).to(logits.dtype))
    cells = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    # a mask that fills its box has no contour there
    on_contour = (cells * near).sum() / near.sum().clamp(min=1)
    return on_contour + dice_loss(contour(logits.sigmoid()), near)


def contour(masks: Tensor) -> Tensor:
    """Dilation minus erosion by 3×3 cells, of (R, M, M): of a binary mask 1 on the cells that have an unlike one among
    their eight neighbours, and 0 elsewhere; the box's border is none."""
    both = F.max_pool2d(torch.stack([masks, -masks], dim=1), 3, stride=1, padding=1)
    return both.sum(dim=1)

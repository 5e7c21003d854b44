"""Arithmetic on boxes (xyxy, in pixels), for whole batches; the formulas are Faster R-CNN's as torchvision has them."""

import math

import torch
from torch import Tensor

LARGEST_SCALE = math.log(1000 / 16)
"""Bound on the logarithm of how much larger than its anchor a box may be."""


def encode(boxes: Tensor, anchors: Tensor, weights: tuple[float, float]) -> Tensor:
    """Corrections (..., 4) that lead from anchors (..., 4) to boxes (..., 4): shifts of the centre in sides of the
    anchor and logarithms of the sides' ratios, times a weight each (Girshick et al., CVPR 2014, appendix C)."""
    centre, side = _centre_and_side(anchors)
    to_centre, to_side = _centre_and_side(boxes)
    of_centre, of_side = weights
    return torch.cat([(to_centre - centre) / side * of_centre, torch.log(to_side / side) * of_side], dim=-1)


def decode(deltas: Tensor, anchors: Tensor, weights: tuple[float, float]) -> Tensor:
    """The boxes (..., 4) that corrections (..., 4) make of anchors (..., 4)."""
    centre, side = _centre_and_side(anchors)
    of_centre, of_side = weights
    middle = deltas[..., :2] / of_centre * side + centre
    half = (deltas[..., 2:] / of_side).clamp(max=LARGEST_SCALE).exp() * side * 0.5
    return torch.cat([middle - half, middle + half], dim=-1)


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, N, 4) cut to their images' sizes (B, 2), given as (H, W)."""
    limit = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def is_larger(boxes: Tensor, side: float) -> Tensor:
    """(...,) bool: whether both sides of boxes (..., 4) are at least ``side`` pixels."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., N, 4) and (..., M, 4), each with each: (..., N, M)."""
    ax1, ay1, ax2, ay2 = a[..., :, None, :].unbind(-1)
    bx1, by1, bx2, by2 = b[..., None, :, :].unbind(-1)
    # in place, as these are a step's largest temporaries outside the layers
    common = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    common.mul_(torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0))
    union = ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1)).sub_(common)
    return common.div_(union)

"""Masks between a box's grid, the picture and COCO's run-length encoding (RLE)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

RLE = dict[str, Any]
"""COCO's compressed run-length encoding: ``{"size": [H, W], "counts": str}``."""


def in_boxes(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterator[tuple[Tensor, int, int]]:
    """Resize each mask to its box, one at a time, so that no picture-sized float mask ever exists.

    The arithmetic is torchvision's ``paste_masks_in_image``: a border of one cell of zeros, the box grown to
    match and rounded towards zero, bilinear interpolation.

    Args:
        probabilities: (R, M, M) in [0, 1].
        boxes: (R, 4) xyxy in pixels of the picture.
        size: (H, W) of the picture.

    Yields:
        The part of the mask that lies inside the picture, (h, w), and its left column and top row. Where a box
        lies outside the picture, h or w is 0.
    """
    m = probabilities.shape[-1]
    padded = F.pad(probabilities, (1, 1, 1, 1))
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * (float(m + 2) / m)
    grown = torch.cat([centre - half, centre + half], dim=1).to(torch.int64).tolist()
    height, width = size
    for mask, (left, top, right, bottom) in zip(padded, grown, strict=True):
        shape = (max(bottom - top + 1, 1), max(right - left + 1, 1))
        resized = F.interpolate(mask[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = max(min(right + 1, width), x0), max(min(bottom + 1, height), y0)
        yield resized[y0 - top : y1 - top, x0 - left : x1 - left], x0, y0


def paste(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Full pictures of masks, as torchvision returns them: (R, M, M) in boxes (R, 4) -> (R, H, W)."""
    out = probabilities.new_zeros(len(boxes), *size)
    for picture, (mask, x, y) in zip(out, in_boxes(probabilities, boxes, size), strict=True):
        picture[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return out


def to_rle(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> list[RLE]:
    """RLE of the masks where the probability is above ``threshold``.

    Args:
        probabilities: (R, M, M) in [0, 1].
        boxes: (R, 4) xyxy in pixels of the picture.
        size: (H, W) of the picture.

    Returns:
        R RLEs of the whole picture, ``counts`` a ``str``.
    """
    probabilities, boxes = probabilities.detach().float().cpu(), boxes.detach().float().cpu()
    return [encode_crop((mask > threshold).numpy(), x, y, size) for mask, x, y in in_boxes(probabilities, boxes, size)]


def encode_crop(mask: np.ndarray, x: int, y: int, size: tuple[int, int]) -> RLE:
    """RLE of a picture that is zero but for one rectangle; the picture itself is never made.

    Args:
        mask: (h, w) bool, the rectangle's content.
        x, y: the rectangle's left column and top row.
        size: (H, W) of the picture that holds it.
    """
    height, width = size
    h, w = mask.shape
    columns = np.zeros((w, h + 2), dtype=np.int8)
    columns[:, 1:-1] = mask.T
    change = np.diff(columns, axis=1)
    # runs in column-major order, as COCO counts; each begins and ends inside one column
    column, row = np.nonzero(change == 1)
    starts = (x + column) * height + y + row
    column, row = np.nonzero(change == -1)
    ends = (x + column) * height + y + row
    # a run that touches the picture's bottom goes on at the top of the next column
    joined = starts[1:] == ends[:-1]
    starts = np.concatenate([starts[:1], starts[1:][~joined]])
    ends = np.concatenate([ends[:-1][~joined], ends[-1:]])
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode()}


def encode(masks: np.ndarray) -> list[RLE]:
    """RLE of whole masks, (N, H, W) of 0 and 1, with ``counts`` a ``str``."""
    rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [{"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode()} for rle in rles]

"""Object by object: which mask found it and how well, and how complex its outline is."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Floats = NDArray[np.float64]
RLE = dict[str, Any]

SAME_OBJECT = 0.2
"""A mask is an object's from this IoU on."""


def pair(masks: list[RLE], objects: list[RLE], comparable: NDArray[np.bool_]) -> dict[int, tuple[int, float]]:
    """Pair masks with objects of one image one to one, by falling IoU.

    Args:
        masks: N run-length encoded masks.
        objects: M, of the same image.
        comparable: (N, M), which may be paired at all, such as those of one category.

    Returns:
        For each mask that covers an object, by its index: the object's index, and their IoU.
    """
    if not masks or not objects:
        return {}
    iou = np.where(comparable, coco_mask.iou(masks, objects, [False] * len(objects)), 0.0)
    pairs: dict[int, tuple[int, float]] = {}
    while iou.max() >= SAME_OBJECT:
        mask, target = np.unravel_index(iou.argmax(), iou.shape)
        pairs[int(mask)] = (int(target), float(iou[mask, target]))
        iou[mask], iou[:, target] = 0, 0
    return pairs


def perimeter(mask: NDArray[Any]) -> float:
    """Length of a mask's outline in pixels, by Crofton's formula: crossings of lines in four directions.

    It is the same for an outline in any direction to some 5 %, unlike the number of edges between pixels.

    Args:
        mask: (H, W) of 0 and 1; what lies beyond the array is 0.
    """
    padded = np.pad(mask.astype(bool), 1)
    across = np.count_nonzero(padded[:, 1:] != padded[:, :-1]) + np.count_nonzero(padded[1:] != padded[:-1])
    aslant = np.count_nonzero(padded[1:, 1:] != padded[:-1, :-1]) + np.count_nonzero(padded[1:, :-1] != padded[:-1, 1:])
    return math.pi / 8 * (across + aslant / math.sqrt(2))


def complexity(rle: RLE) -> float:
    """Isoperimetric quotient of a mask, perimeter² / (4π · area): about 1 for a disc, 1.1 for a square, more the more
    winding, elongated or broken up; nan without pixels. Of a few pixels it says little."""
    x, y, w, h = np.asarray(coco_mask.toBbox(rle)).astype(int).tolist()
    mask = coco_mask.decode(rle)[y : y + h, x : x + w]
    area = np.count_nonzero(mask)
    return perimeter(mask) ** 2 / (4 * math.pi * area) if area else math.nan

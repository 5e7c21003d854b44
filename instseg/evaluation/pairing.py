"""Object by object: which mask covers it and how well, and how complex its outline is."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Floats = NDArray[np.float64]
RLE = dict[str, Any]

SAME_OBJECT = 0.2
"""IoU from which on a mask is said to cover an object."""


def pair(masks: list[RLE], objects: list[RLE], comparable: NDArray[np.bool_]) -> dict[int, tuple[int, float]]:
    """Pair masks with objects of one image one to one, by falling IoU.

    Args:
        masks: N compressed RLEs.
        objects: M compressed RLEs.
        comparable: (N, M), which pairs are allowed, such as those of one category.

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

    Whatever its direction, an outline has the same length to some 5 %, unlike by the number of edges between pixels.
    The mask is (H, W) of 0 and 1; what lies beyond the array is 0.
    """
    padded = np.pad(mask.astype(bool), 1)
    straight = np.sum(padded[:, 1:] != padded[:, :-1]) + np.sum(padded[1:] != padded[:-1])
    slanted = np.sum(padded[1:, 1:] != padded[:-1, :-1]) + np.sum(padded[1:, :-1] != padded[:-1, 1:])
    return float(math.pi / 8 * (straight + slanted / math.sqrt(2)))


def complexity(rle: RLE) -> float:
    """Isoperimetric quotient of a mask, perimeter² / (4π · area): about 1 for a disc, 1.1 for a square, and higher for
    a winding, elongated or broken-up one; nan without pixels. For a mask of a few pixels it means little."""
    x, y, w, h = np.asarray(coco_mask.toBbox(rle)).astype(int).tolist()
    mask = coco_mask.decode(rle)[y : y + h, x : x + w]
    area = np.count_nonzero(mask)
    return perimeter(mask) ** 2 / (4 * math.pi * area) if area else math.nan

"""Boxes, polygons and run-length codes as COCO writes them: what can be wrong with them, and the masks they stand for.

The format is that of https://cocodataset.org/#format-data and of pycocotools, which scores it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from instseg.data.annotations.json_file import short
from instseg.masks import rle

MOST_PIXELS = 178_956_970  # of an image; Pillow opens no larger one, and pycocotools counts in 32 bits
MIN_SIDE = 0.01  # pixels; float32 cannot tell the two edges of a thinner box apart in a large image
_MOST_CROSSINGS = 1000  # of an image by a polygon
_MOST_BITS = 35  # of a number in a run-length code
_CODES = 300  # looked at together; their numbers stay in the cache


class Fault(NamedTuple):
    """Why an annotation cannot be an instance; ``scorable`` where pycocotools can still score against it."""

    reason: str
    scorable: bool


def shape_fault(annotation: dict[str, Any], height: int, width: int) -> Fault | None:
    """Why an entry of ``annotations`` cannot be an instance of an image of ``height`` x ``width`` pixels, or None.

    Polygons are rasterised to see that they cover a pixel, about 15 microseconds for an instance of COCO's.

    Raises:
        ValueError: the run-length code is damaged or made for another image.
    """
    bbox, segmentation = annotation.get("bbox"), annotation.get("segmentation")
    if isinstance(segmentation, dict):
        malformed, covers = None, _foreground(segmentation, height, width) > 0
    else:
        malformed = _malformed_polygons(segmentation, height, width)
        covers = malformed is None and bool(coco_mask.area(to_rle(segmentation, height, width)))
    if malformed := malformed or _malformed_box(bbox):
        return Fault(malformed, scorable=False)
    if degenerate := _degenerate_box(bbox, height, width):
        return Fault(degenerate, scorable=True)
    return None if covers else Fault("its mask covers no pixel of the image", scorable=True)


def missing_box(segmentation: Any, height: int, width: int) -> tuple[list[float] | None, Fault | None]:
    """The box (x, y, width, height) around the mask of an annotation that has none, or why that cannot be made.

    Raises:
        ValueError: see :func:`shape_fault`.
    """
    if fault := shape_fault({"bbox": [0, 0, width, height], "segmentation": segmentation}, height, width):
        return None, Fault(fault.reason, scorable=False)
    return coco_mask.toBbox(to_rle(segmentation, height, width)).tolist(), None


def sound_codes(results: Sequence[Any], sizes: Mapping[int, tuple[int, int]]) -> np.ndarray:
    """Which results hold a compressed run-length code that fits its image: in those :func:`shape_fault` finds none.

    Many codes are looked at together, five times as fast or more.

    Args:
        results: N entries of a results file, whatever they are.
        sizes: image id -> (height, width) in pixels.

    Returns:
        (N,) bool; False for whatever is no such code.
    """
    sound = np.zeros(len(results), dtype=bool)
    for begin in range(0, len(results), _CODES):
        codes = []
        for i, result in enumerate(results[begin : begin + _CODES], begin):
            try:
                size, counts = result["segmentation"]["size"], result["segmentation"]["counts"]
                height, width = sizes[result["image_id"]]
            except (TypeError, LookupError, ValueError):
                continue
            if type(counts) is str and type(size) is list and size == [height, width]:
                codes.append((i, counts, height * width))
        pixels = np.array([pixels for *_, pixels in codes])
        sound[[i for i, *_ in codes]] = rle.fit([counts for _, counts, _ in codes], pixels)
    return sound


def clipped_box(bbox: list[float], height: int, width: int) -> tuple[float, float, float, float]:
    """COCO's (x, y, width, height) as (x1, y1, x2, y2) inside the image, in pixels."""
    x, y, box_width, box_height = bbox
    return max(x, 0.0), max(y, 0.0), min(x + box_width, width), min(y + box_height, height)


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """The compressed RLE of a segmentation without fault, as pycocotools makes it (``counts`` are bytes)."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": segmentation["counts"].encode("ascii")}


def mask_annotation(rle: dict[str, Any], annotation_id: int, image_id: int, category_id: int) -> dict[str, Any]:
    """An entry of ``annotations`` for a mask in compressed RLE as pycocotools makes it, but for its area."""
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "bbox": coco_mask.toBbox(rle).tolist(),
        "iscrowd": 0,
    }


def _malformed_box(bbox: Any) -> str | None:
    with suppress(TypeError, ValueError, OverflowError):
        x, y, box_width, box_height = bbox
        if isfinite(x + y + box_width + box_height):
            return None
    return f"bbox is {short(bbox)}; 4 numbers [x, y, width, height] are needed"


def _degenerate_box(bbox: Any, height: int, width: int) -> str | None:
    if bbox[2] < MIN_SIDE or bbox[3] < MIN_SIDE:
        return f"bbox {short(bbox)} has no area"
    x1, y1, x2, y2 = clipped_box(bbox, height, width)
    if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
        return f"bbox {short(bbox)} lies outside its image of {width} x {height} pixels"
    return None


def _malformed_polygons(polygons: Any, height: int, width: int) -> str | None:
    if not isinstance(polygons, list) or not polygons:
        return "segmentation is missing; polygons or RLE are needed"
    far = max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list):
            return "segmentation is no list of polygons [[x1, y1, x2, y2, ...], ...]"
        # pycocotools would take a polygon of 4 numbers for a box, silently.
        if len(polygon) < 6:
            return f"a polygon has {len(polygon)} numbers; 3 points, so 6 numbers, are the least"
        if len(polygon) % 2:
            return f"a polygon has {len(polygon)} numbers; x and y come in pairs"
        try:
            if not isfinite(sum(polygon)):
                return "a polygon holds NaN or infinity"
        except (TypeError, OverflowError):
            return "a polygon holds something that is no number"
        # pycocotools walks along every edge, so one far point would cost gigabytes, or the process.
        if min(polygon) < -far or max(polygon) > 2 * far:
            return f"a polygon goes far outside its image of {width} x {height} pixels"
        if len(polygon) > _MOST_CROSSINGS // 2:
            steps = np.abs(np.diff(np.array(polygon, dtype=np.float64).reshape(-1, 2), axis=0))
            if steps.max(axis=1).sum() > _MOST_CROSSINGS * far:
                return f"a polygon of {len(polygon) // 2} points crosses its image more than {_MOST_CROSSINGS} times"
    return None


def _foreground(rle: dict[str, Any], height: int, width: int) -> int:
    """Number of pixels that a run-length code covers.

    pycocotools trusts the runs: too few leave memory that was never written in the mask, and a string that
    ends within a number is read past its end. So both are looked at here first.
    """
    if rle.get("size") != [height, width]:
        raise ValueError(f"its RLE has size {short(rle.get('size'))}, its image [height, width] [{height}, {width}]")
    counts = rle.get("counts")
    runs = run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError("its RLE counts are damaged; a list of run lengths or a compressed string is needed")
    if sum(runs) != height * width:
        raise ValueError(f"its RLE counts add up to {sum(runs)} pixels, its image has {height * width}")
    return sum(runs[1::2])


def run_lengths(counts: str) -> list[int] | None:
    """The run lengths in COCO's compressed string (see :mod:`instseg.masks.rle`); None where it is damaged."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return None
        value |= (code & 31) << shift
        shift += 5
        if shift > _MOST_BITS:
            return None
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return None if shift else runs

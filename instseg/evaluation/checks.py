"""What is wrong with annotations or results that can't be scored, in one line."""

import sys
from collections.abc import Callable, Collection
from typing import Any

from instseg.data.annotations.coco_shapes import shape_fault, sound_codes
from instseg.data.annotations.json_file import short
from instseg.errors import DataError
from instseg.evaluation.kinds import METRIC_KINDS, Kind

_MAX_PIXELS = 2**31 - 1


def check_results(ground_truth: dict[str, Any], results: list[dict[str, Any]], kind: Kind) -> None:
    """Raise a :class:`DataError` of one line where results can't be scored against a ground truth.

    The ground truth is trusted; see :func:`check_ground_truth`.
    """
    if not isinstance(results, list):
        raise DataError(f"results are a {type(results).__name__}, not a list of COCO results")
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    metric = METRIC_KINDS[kind]
    first = results[0] if results and isinstance(results[0], dict) else {}
    optional = ("bbox", "mask_score") if metric.of_masks else ()
    needed = ["image_id", "category_id", "score", metric.needs, *(key for key in optional if key in first)]
    sound = sound_codes(results, sizes).tolist() if metric.of_masks else [True] * len(results)
    for position, result in enumerate(results):
        if not isinstance(result, dict):
            has = type(result).__name__
            raise DataError(f"result {position} is a {has}, not an object with image_id, score and so on")
        # pycocotools' loadRes looks at the first result alone to tell where areas come from
        if unlike := [key for key in optional if (key in result) != (key in first)]:
            has = f"{'a' if unlike[0] in result else 'no'} {unlike[0]}"
            reason: str | None = f"it has {has}, unlike result 0; either all results have one or none"
        else:
            reason = _entry_fault(result, needed) or _reference_fault(result, sizes, categories)
        if reason is None and not sound[position]:
            code = result["segmentation"]
            reason = _segmentation_fault(code, *sizes[result["image_id"]])
            if reason is None and "bbox" not in needed and (isinstance(code, list) or isinstance(code["counts"], list)):
                reason = "segmentation must be RLE with a compressed string where results have no bbox"
        if reason:
            raise DataError(f"result {position} (image {short(result.get('image_id', '?'))}): {reason}")


def check_ground_truth(truth: Any, kinds: Collection[Kind]) -> None:
    """Raise a :class:`DataError` of one line where pycocotools can't score against a COCO annotation dict.

    Args:
        truth: the content of an annotation file, whatever it is.
        kinds: what will be scored, names of :data:`instseg.evaluation.kinds.METRIC_KINDS`; where none of them is of
            masks, segmentations aren't looked at.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth, dict) or not isinstance(truth.get(key), list):
            raise DataError(f"not a COCO annotation file: it has no list {key!r}")
    images, categories = _by_id(truth["images"], "image"), _by_id(truth["categories"], "category")
    for number, image in images.items():
        reason = _entry_fault(image, ["height", "width"])
        if reason is None and image["height"] * image["width"] > _MAX_PIXELS:
            reason = f"it is of {image['width']} x {image['height']} pixels: more than COCO's RLE can count"
        if reason:
            raise DataError(f"image {number}: {reason}")
    masks = any(METRIC_KINDS[kind].of_masks for kind in kinds)
    needed = ["image_id", "category_id", "bbox", "area", "iscrowd", *(["segmentation"] if masks else [])]
    for number, annotation in _by_id(truth["annotations"], "annotation").items():
        reason = _entry_fault(annotation, needed) or _reference_fault(annotation, images, categories)
        if reason is None and masks:
            image = images[annotation["image_id"]]
            reason = _segmentation_fault(annotation["segmentation"], image["height"], image["width"])
        if reason:
            raise DataError(f"annotation {number}: {reason}")


def _by_id(entries: list[Any], what: str) -> dict[int, dict[str, Any]]:
    by_id: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{what} entry {position} is a {type(entry).__name__}, not an object with an id")
        if fault := _entry_fault(entry, ["id"]):
            raise DataError(f"{what} entry {position}: {fault}")
        if entry["id"] in by_id:
            raise DataError(f"{what} id {entry['id']} is there twice; ids must differ")
        by_id[entry["id"]] = entry
    return by_id


def _is_id(value: Any) -> bool:
    # numpy, which pycocotools sorts ids with, makes inexact numbers of larger ones
    return type(value) is int and abs(value) < 2**63


def _is_finite(value: Any) -> bool:
    # math.isfinite can't take a whole number too long for a float
    largest = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("id", "image_id", "category_id"), (_is_id, "a whole number is needed, as COCO's ids are")),
    **dict.fromkeys(
        ("height", "width"), (lambda value: _is_id(value) and value > 0, "a whole number above 0 is needed")
    ),
    **dict.fromkeys(("score", "mask_score"), (_is_finite, "a finite number is needed")),
    "bbox": (
        lambda value: isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value)),
        "4 finite numbers [x, y, width, height] are needed",
    ),
    "area": (lambda value: _is_finite(value) and value >= 0, "a finite number of pixels, 0 or more, is needed"),
    "iscrowd": (lambda value: value in (0, 1), "0 or 1 is needed, 1 for a crowd region"),
    "segmentation": (lambda value: isinstance(value, list | dict), "polygons [[x1, y1, ...], ...] or RLE are needed"),
}
"""For each key, what its values must pass, and that in words."""


def _entry_fault(entry: dict[str, Any], needed: Collection[str]) -> str | None:
    """Which keys an entry lacks, or which of their values can't be used."""
    if missing := [key for key in needed if key not in entry]:
        return f"it has no {', '.join(f'{key} ({_RULES[key][1]})' for key in missing)}"
    for key in needed:
        passes, rule = _RULES[key]
        if not passes(entry[key]):
            return f"{key} is {short(entry[key])}; {rule}"
    return None


def _reference_fault(entry: dict[str, Any], images: Collection[int], categories: Collection[int]) -> str | None:
    if entry["image_id"] not in images:
        return f"is of image {entry['image_id']}, which the annotations don't have"
    if entry["category_id"] not in categories:
        known = ", ".join(map(str, sorted(categories)[:10]))
        return f"is of category {entry['category_id']}, which the annotations don't have; they have {known}"
    return None


def _segmentation_fault(segmentation: Any, height: Any, width: Any) -> str | None:
    """What keeps pycocotools from making a mask of it; a mask that covers no pixel is no fault."""
    try:
        fault = shape_fault({"bbox": [0, 0, 1, 1], "segmentation": segmentation}, height, width)
    except ValueError as error:
        return str(error)
    return None if fault is None or fault.scorable else fault.reason

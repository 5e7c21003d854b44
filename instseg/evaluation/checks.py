"""What is wrong with annotations or results that can't be scored, in one line."""

import reprlib
import sys
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

import numpy as np

from instseg.data.annotations.coco_shapes import shape_fault, sound_codes
from instseg.errors import DataError

_ID = "it must be a whole number, as COCO's ids are"
_LARGEST = sys.float_info.max
_MAX_PIXELS = 2**31 - 1
_OPTIONAL = ("bbox", "mask_score")
_ANY_BOX = [0, 0, 1, 1]
_SHAPES = {"box": "bbox", "mask": "segmentation", "boundary": "segmentation"}


def check_results(ground_truth: dict[str, Any], results: list[dict[str, Any]], kind: str) -> None:
    """Raise a :class:`DataError` of one line where results can't be scored against a ground truth.

    The ground truth is trusted; see :func:`check_ground_truth`.
    """
    if not isinstance(results, list):
        raise DataError(f"results are a {type(results).__name__}, not a list of COCO results")
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    needed = ("image_id", "category_id", "score", _SHAPES[kind])
    first = results[0] if results and isinstance(results[0], dict) else {}
    boxes, rated = "bbox" in first, "mask_score" in first
    sound: Sequence[bool] = sound_codes(results, sizes).tolist() if kind != "box" else []
    if all(sound) and _without_fault(results, kind, sizes, categories):
        return
    for i, result in enumerate(results):
        if not isinstance(result, dict):
            raise DataError(f"result {i} is a {type(result).__name__}, not an object with image_id, score and so on")
        if missing := [key for key in needed if key not in result]:
            raise DataError(f"result {i} (image {_short(result.get('image_id', '?'))}) has no {', '.join(missing)}")
        reason = _result_fault(result, sizes, categories) or _mixed_boxes(result, boxes)
        if reason is None and kind != "box":
            reason = _mask_score_fault(result, rated)
        if reason is None and kind != "box" and not sound[i]:
            reason = _segmentation_fault(result["segmentation"], *sizes[result["image_id"]])
            if reason is None and not boxes and not _is_compressed(result["segmentation"]):
                reason = "segmentation must be RLE with a compressed string where results have no bbox"
        if reason:
            raise DataError(f"result {i} (image {_short(result['image_id'])}): {reason}")


def _without_fault(
    results: list[dict[str, Any]], kind: str, images: Collection[int], categories: Collection[int]
) -> bool:
    """A quick look at all results together, less their masks; what it doesn't let pass may still be right."""
    having = {key: sum(key in result for result in results if isinstance(result, dict)) for key in _OPTIONAL}
    if not set(having.values()) <= {0, len(results)} or (kind == "box" and not having["bbox"]):
        return not results
    boxes, rated = bool(having["bbox"]), kind != "box" and bool(having["mask_score"])
    try:
        images_of, categories_of, numbers = (
            [result[key] for result in results] for key in ("image_id", "category_id", "score")
        )
    except (KeyError, TypeError):
        return False
    for ids, known in ((images_of, images), (categories_of, categories)):
        if not set(map(type, ids)) <= {int} or not set(ids) <= set(known):
            return False
    if rated:
        numbers += [result["mask_score"] for result in results]
    if boxes:
        shapes = [result["bbox"] for result in results]
        if not set(map(type, shapes)) <= {list} or not set(map(len, shapes)) <= {4}:
            return False
        numbers += chain.from_iterable(shapes)
    try:
        return set(map(type, numbers)) <= {int, float} and bool(
            np.isfinite(np.asarray(numbers, dtype=np.float64)).all()
        )
    except OverflowError:
        return False


def check_ground_truth(truth: Any, kinds: Collection[str]) -> None:
    """Raise a :class:`DataError` of one line where pycocotools can't score against a COCO annotation dict.

    Args:
        truth: the content of an annotation file, whatever it is.
        kinds: what will be scored, of ``"box"``, ``"mask"`` and ``"boundary"``; for boxes alone, segmentations
            aren't looked at.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth, dict) or not isinstance(truth.get(key), list):
            raise DataError(f"not a COCO annotation file: it has no list {key!r}")
    images, categories = _by_id(truth["images"], "image"), _by_id(truth["categories"], "category")
    for image in images.values():
        for key in ("height", "width"):
            if key not in image:
                raise DataError(f"image {image['id']} has no {key}; a whole number of pixels is needed")
            if not _is_id(image[key]) or image[key] < 1:
                raise DataError(
                    f"image {image['id']} has {key} {_short(image[key])}; it must be a whole number above 0"
                )
        if image["height"] * image["width"] > _MAX_PIXELS:
            raise DataError(
                f"image {image['id']} is of {image['width']} x {image['height']} pixels: more than COCO's RLE can count"
            )
    masks = any(_SHAPES[kind] == "segmentation" for kind in kinds)
    needed = ["image_id", "category_id", "bbox", "area", "iscrowd", *(["segmentation"] if masks else [])]
    for annotation in _by_id(truth["annotations"], "annotation").values():
        if missing := [key for key in needed if key not in annotation]:
            remedy = "; iscrowd is 0, or 1 for a crowd region" if "iscrowd" in missing else ""
            raise DataError(f"annotation {annotation['id']} has no {', '.join(missing)}{remedy}")
        reason = _annotation_fault(annotation, images, categories)
        if reason is None and masks:
            image = images[annotation["image_id"]]
            reason = _segmentation_fault(annotation["segmentation"], image["height"], image["width"])
        if reason:
            raise DataError(f"annotation {annotation['id']}: {reason}")


def _by_id(entries: list[Any], what: str) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{what} entry {position} is a {type(entry).__name__}, not an object with an id")
        if "id" not in entry:
            raise DataError(f"{what} entry {position} has no id; a whole number is needed")
        if not _is_id(entry["id"]):
            raise DataError(f"{what} entry {position} has id {_short(entry['id'])}; {_ID}")
        if entry["id"] in found:
            raise DataError(f"{what} id {entry['id']} is there twice; ids must differ")
        found[entry["id"]] = entry
    return found


def _result_fault(result: dict[str, Any], images: Collection[int], categories: Collection[int]) -> str | None:
    if fault := _reference_fault(result, images, categories):
        return fault
    if not _is_finite(result["score"]):
        return f"score is {_short(result['score'])}; a finite number is needed"
    return _box_fault(result["bbox"]) if "bbox" in result else None


def _annotation_fault(annotation: dict[str, Any], images: Collection[int], categories: Collection[int]) -> str | None:
    if fault := _reference_fault(annotation, images, categories) or _box_fault(annotation["bbox"]):
        return fault
    area, crowd = annotation["area"], annotation["iscrowd"]
    if not _is_finite(area) or area < 0:
        return f"area is {_short(area)}; a finite number of pixels, 0 or more, is needed"
    if crowd not in (0, 1):
        return f"iscrowd is {_short(crowd)}; it must be 0 or 1"
    return None


def _reference_fault(entry: dict[str, Any], images: Collection[int], categories: Collection[int]) -> str | None:
    image_id, category_id = entry["image_id"], entry["category_id"]
    if not _is_id(image_id):
        return f"image_id is {_short(image_id)}; {_ID}"
    if image_id not in images:
        return f"is of image {image_id}, which the annotations don't have"
    if not _is_id(category_id):
        return f"category_id is {_short(category_id)}; {_ID}"
    if category_id not in categories:
        known = ", ".join(map(str, sorted(categories)[:10]))
        return f"is of category {category_id}, which the annotations don't have; they have {known}"
    return None


def _mixed_boxes(result: dict[str, Any], boxes: bool) -> str | None:
    # loadRes looks at the first result alone to tell where areas come from
    if ("bbox" in result) == boxes:
        return None
    return f"it has {'no' if boxes else 'a'} bbox, unlike result 0; either all results have one or none"


def _mask_score_fault(result: dict[str, Any], rated: bool) -> str | None:
    if ("mask_score" in result) != rated:
        return f"it has {'no' if rated else 'a'} mask_score, unlike result 0; either all results have one or none"
    if rated and not _is_finite(result["mask_score"]):
        return f"mask_score is {_short(result['mask_score'])}; a finite number is needed"
    return None


def _box_fault(box: Any) -> str | None:
    if isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box)):
        return None
    return f"bbox is {_short(box)}; 4 finite numbers [x, y, width, height] are needed"


def _segmentation_fault(segmentation: Any, height: Any, width: Any) -> str | None:
    """What keeps pycocotools from making a mask of it; one that covers no pixel is none of that."""
    if not isinstance(segmentation, list | dict):
        return f"segmentation is {_short(segmentation)}; polygons [[x1, y1, ...], ...] or RLE are needed"
    try:
        fault = shape_fault({"bbox": _ANY_BOX, "segmentation": segmentation}, height, width)
    except ValueError as error:
        return str(error)
    return None if fault is None or fault.scorable else fault.reason


def _is_compressed(segmentation: Any) -> bool:
    return isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)


def _is_id(value: Any) -> bool:
    # numpy, which pycocotools sorts ids with, makes inexact numbers of larger ones
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_finite(value: Any) -> bool:
    # of a whole number too long for a float, too, the comparison tells
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _short(value: Any) -> str:
    text = " ".join(reprlib.repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."

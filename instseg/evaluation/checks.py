"""What is wrong with annotations or results that can't be scored, in one line."""

import reprlib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from instseg.data.annotations.coco_shapes import shape_fault, sound_codes
from instseg.errors import DataError
from instseg.evaluation.kinds import METRIC_KINDS, Kind

_WHOLE = "it must be a whole number, as COCO's ids are"
_LARGEST = sys.float_info.max
_MAX_PIXELS = 2**31 - 1
_ANY_BOX = [0, 0, 1, 1]


def check_results(ground_truth: dict[str, Any], results: list[dict[str, Any]], kind: Kind) -> None:
    """Raise a :class:`DataError` of one line where results can't be scored against a ground truth.

    The ground truth is trusted; see :func:`check_ground_truth`.
    """
    if not isinstance(results, list):
        raise DataError(f"results are a {type(results).__name__}, not a list of COCO results")
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    metric = METRIC_KINDS[kind]
    needed = ("image_id", "category_id", "score", metric.needs)
    first = results[0] if results and isinstance(results[0], dict) else {}
    # what either all results have or none, and whether they do
    optional = {key: key in first for key in (("bbox", "mask_score") if metric.of_masks else ("bbox",))}
    sound: Sequence[bool] = sound_codes(results, sizes).tolist() if metric.of_masks else [True] * len(results)
    if all(sound) and _all_sound(results, metric.needs, optional, sizes, categories):
        return
    for position, result in enumerate(results):
        if not isinstance(result, dict):
            has = type(result).__name__
            raise DataError(f"result {position} is a {has}, not an object with image_id, score and so on")
        if missing := [key for key in needed if key not in result]:
            image = _short(result.get("image_id", "?"))
            raise DataError(f"result {position} (image {image}) has no {', '.join(missing)}")
        reason = _result_fault(result, optional, sizes, categories)
        if reason is None and not sound[position]:
            reason = _segmentation_fault(result["segmentation"], *sizes[result["image_id"]])
            if reason is None and not optional["bbox"] and not _is_compressed(result["segmentation"]):
                reason = "segmentation must be RLE with a compressed string where results have no bbox"
        if reason:
            raise DataError(f"result {position} (image {_short(result['image_id'])}): {reason}")


def _all_sound(
    results: list[dict[str, Any]],
    needed: str,
    optional: Mapping[str, bool],
    images: Collection[int],
    categories: Collection[int],
) -> bool:
    """A quick look at all results together, except at masks; False says no more than that each must be looked at."""
    present = [key for key, expected in optional.items() if expected]
    keys = ["image_id", "category_id", "score", *present]
    try:
        columns = {key: [result[key] for result in results] for key in keys}
    except (KeyError, TypeError):
        return False
    if any(key in result for key in optional.keys() - present for result in results):
        return False
    if needed == "bbox" and "bbox" not in present:
        return not results
    for key, known in (("image_id", images), ("category_id", categories)):
        if not _all_of(columns[key], int) or not set(columns[key]) <= set(known):
            return False
    boxes: list[Any] = columns.get("bbox", [])
    if not _all_of(boxes, list) or not set(map(len, boxes)) <= {4}:
        return False
    numbers = [*columns["score"], *columns.get("mask_score", ()), *chain.from_iterable(boxes)]
    try:
        return _all_of(numbers, int, float) and bool(np.isfinite(np.asarray(numbers, dtype=np.float64)).all())
    except OverflowError:
        return False


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
    masks = any(METRIC_KINDS[kind].of_masks for kind in kinds)
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
    by_id: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{what} entry {position} is a {type(entry).__name__}, not an object with an id")
        if "id" not in entry:
            raise DataError(f"{what} entry {position} has no id; a whole number is needed")
        if not _is_id(entry["id"]):
            raise DataError(f"{what} entry {position} has id {_short(entry['id'])}; {_WHOLE}")
        if entry["id"] in by_id:
            raise DataError(f"{what} id {entry['id']} is there twice; ids must differ")
        by_id[entry["id"]] = entry
    return by_id


def _result_fault(
    result: dict[str, Any], optional: Mapping[str, bool], images: Collection[int], categories: Collection[int]
) -> str | None:
    """What is wrong with a result, apart from its mask."""
    if fault := _reference_fault(result, images, categories):
        return fault
    for key, expected in {"score": True, **optional}.items():
        # pycocotools' loadRes looks at the first result alone to tell where areas come from
        if (key in result) != expected:
            has = f"{'no' if expected else 'a'} {key}"
            return f"it has {has}, unlike result 0; either all results have one or none"
        if expected and key != "bbox" and not _is_finite(result[key]):
            return f"{key} is {_short(result[key])}; a finite number is needed"
        if expected and key == "bbox" and (fault := _box_fault(result[key])):
            return fault
    return None


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
    for key in ("image_id", "category_id"):
        if not _is_id(entry[key]):
            return f"{key} is {_short(entry[key])}; {_WHOLE}"
    if image_id not in images:
        return f"is of image {image_id}, which the annotations don't have"
    if category_id not in categories:
        known = ", ".join(map(str, sorted(categories)[:10]))
        return f"is of category {category_id}, which the annotations don't have; they have {known}"
    return None


def _box_fault(box: Any) -> str | None:
    if isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box)):
        return None
    return f"bbox is {_short(box)}; 4 finite numbers [x, y, width, height] are needed"


def _segmentation_fault(segmentation: Any, height: Any, width: Any) -> str | None:
    """What keeps pycocotools from making a mask of it; a mask that covers no pixel is no fault."""
    if not isinstance(segmentation, list | dict):
        return f"segmentation is {_short(segmentation)}; polygons [[x1, y1, ...], ...] or RLE are needed"
    try:
        fault = shape_fault({"bbox": _ANY_BOX, "segmentation": segmentation}, height, width)
    except ValueError as error:
        return str(error)
    return None if fault is None or fault.scorable else fault.reason


def _is_compressed(segmentation: Any) -> bool:
    return isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)


def _all_of(values: Iterable[Any], *types: type) -> bool:
    return set(map(type, values)) <= set(types)


def _is_id(value: Any) -> bool:
    # numpy, which pycocotools sorts ids with, makes inexact numbers of larger ones
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_finite(value: Any) -> bool:
    # the comparison also works for a whole number too long for a float
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _short(value: Any) -> str:
    text = " ".join(reprlib.repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."

"""COCO's metrics by pycocotools, the measure of record."""

import contextlib
import io
import reprlib
import sys
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg.data.coco_shapes import shape_fault, sound_codes
from instseg.errors import DataError

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers in pycocotools' order; sizes split at 32² and 96² pixels."""
IOU_TYPES = {"box": "bbox", "mask": "segm"}

_ID = "it must be a whole number, as COCO's ids are"
_LARGEST = sys.float_info.max
_MAX_PIXELS = 2**31 - 1
_ANY_BOX = [0, 0, 1, 1]
_SCORED = ("image_id", "category_id", "score", "bbox", "segmentation")

Results = list[dict[str, Any]]


def evaluate(ground_truth: dict[str, Any], results: Results, kind: str) -> COCOeval:
    """Match detections with ground truth and accumulate, as pycocotools does from files.

    Areas of detections are those of their boxes, for masks too, wherever the results hold boxes: that is what
    pycocotools' ``loadRes`` does with such a file.

    Args:
        ground_truth: COCO's annotation dict.
        results: COCO's results list; ``bbox`` xywh and ``segmentation`` RLE as far as ``kind`` needs them. Where
            all of them have a ``mask_score``, masks are sorted by it in place of ``score``.
        kind: ``"box"`` or ``"mask"``.

    Returns:
        The evaluation after ``evaluate``, ``accumulate`` and ``summarize``; its ``stats`` are fractions.

    Raises:
        DataError: the results don't fit the ground truth; one line.
    """
    check_results(ground_truth, results, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(ground_truth)
        evaluation = COCOeval(truth, _detections(truth, results, kind), IOU_TYPES[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def metrics(evaluation: COCOeval) -> dict[str, float | None]:
    """COCO's twelve numbers in percent, None where there is nothing to measure (pycocotools' −1)."""
    return {
        name: None if value < 0 else 100 * float(value) for name, value in zip(NAMES, evaluation.stats, strict=True)
    }


def summary(evaluation: COCOeval) -> str:
    """pycocotools' own twelve lines."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        evaluation.summarize()
    return text.getvalue().rstrip()


def to_results(detections: Sequence[dict[str, Any]], image_ids: Sequence[int], category_ids: Sequence[int]) -> Results:
    """COCO results of :meth:`instseg.detector.MaskRCNN.detect_rle`'s detections.

    Where the head rates its masks, ``mask_score`` is the class score times the mask's (Huang et al., *Mask Scoring
    R-CNN*, CVPR 2019); ``score`` is the class score in any case.

    Args:
        detections: one dict an image.
        image_ids: one id an image.
        category_ids: the category of label 1, of label 2 and so on.
    """
    results: Results = []
    for found, image_id in zip(detections, image_ids, strict=True):
        boxes = found["boxes"].double().numpy()
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        rows = zip(xywh, found["labels"].tolist(), found["scores"].tolist(), found["segmentations"], strict=True)
        first = len(results)
        for box, label, score, segmentation in rows:
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[label - 1],
                    "bbox": box,
                    "score": score,
                    "segmentation": segmentation,
                }
            )
        if "mask_scores" in found:
            products = (found["scores"].double() * found["mask_scores"].double()).tolist()
            for result, product in zip(results[first:], products, strict=True):
                result["mask_score"] = product
    return results


def check_results(ground_truth: dict[str, Any], results: Results, kind: str) -> None:
    """Raise a :class:`DataError` of one line where results can't be scored against a ground truth.

    The ground truth is trusted; see :func:`check_ground_truth`.
    """
    if not isinstance(results, list):
        raise DataError(f"results are a {type(results).__name__}, not a list of COCO results")
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    needed = ("image_id", "category_id", "score", {"box": "bbox", "mask": "segmentation"}[kind])
    first = results[0] if results and isinstance(results[0], dict) else {}
    boxes, rated = "bbox" in first, "mask_score" in first
    sound: Sequence[bool] = sound_codes(results, sizes).tolist() if kind == "mask" else []
    for i, result in enumerate(results):
        if not isinstance(result, dict):
            raise DataError(f"result {i} is a {type(result).__name__}, not an object with image_id, score and so on")
        if missing := [key for key in needed if key not in result]:
            raise DataError(f"result {i} (image {_short(result.get('image_id', '?'))}) has no {', '.join(missing)}")
        reason = _result_fault(result, sizes, categories) or _mixed_boxes(result, boxes)
        if reason is None and kind != "box":
            reason = _mask_score_fault(result, rated)
        if reason is None and kind == "mask" and not sound[i]:
            reason = _segmentation_fault(result["segmentation"], *sizes[result["image_id"]])
            if reason is None and not boxes and not _is_compressed(result["segmentation"]):
                reason = "segmentation must be RLE with a compressed string where results have no bbox"
        if reason:
            raise DataError(f"result {i} (image {_short(result['image_id'])}): {reason}")


def check_ground_truth(truth: Any, kinds: Collection[str]) -> None:
    """Raise a :class:`DataError` of one line where pycocotools can't score against a COCO annotation dict.

    Args:
        truth: the content of an annotation file, whatever it is.
        kinds: what will be scored, of ``"box"`` and ``"mask"``; without masks, segmentations aren't looked at.
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
    needed = ["image_id", "category_id", "bbox", "area", "iscrowd", *(["segmentation"] if "mask" in kinds else [])]
    for annotation in _by_id(truth["annotations"], "annotation").values():
        if missing := [key for key in needed if key not in annotation]:
            remedy = "; iscrowd is 0, or 1 for a crowd region" if "iscrowd" in missing else ""
            raise DataError(f"annotation {annotation['id']} has no {', '.join(missing)}{remedy}")
        reason = _annotation_fault(annotation, images, categories)
        if reason is None and "mask" in kinds:
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


def _coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    # loadRes and evaluation write into annotations; the caller's stay as they are
    coco.dataset = {**dataset, "annotations": [dict(a) for a in dataset["annotations"]]}
    # loadRes copies these two as they are
    coco.dataset.setdefault("info", {})
    coco.createIndex()
    return coco


def _detections(truth: COCO, results: Results, kind: str) -> COCO:
    if results:
        # loadRes takes results with a caption or keypoints for others than these
        scored = [{key: result[key] for key in _SCORED if key in result} for result in results]
        if kind != "box" and "mask_score" in results[0]:
            for copy, result in zip(scored, results, strict=True):
                copy["score"] = result["mask_score"]
        return truth.loadRes(scored)
    # loadRes can't take an empty list
    return _coco({**truth.dataset, "annotations": []})

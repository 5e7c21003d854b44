"""COCO's metrics by pycocotools, the measure of record."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg.errors import DataError

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers in pycocotools' order; sizes split at 32² and 96² pixels."""
IOU_TYPES = {"box": "bbox", "mask": "segm"}

Results = list[dict[str, Any]]


def evaluate(ground_truth: dict[str, Any], results: Results, kind: str) -> COCOeval:
    """Match detections with ground truth and accumulate, as pycocotools does from files.

    Areas of detections are those of their boxes, for masks too, wherever the results hold boxes: that is what
    pycocotools' ``loadRes`` does with such a file.

    Args:
        ground_truth: COCO's annotation dict.
        results: COCO's results list; ``bbox`` xywh and ``segmentation`` RLE as far as ``kind`` needs them.
        kind: ``"box"`` or ``"mask"``.

    Returns:
        The evaluation after ``evaluate``, ``accumulate`` and ``summarize``; its ``stats`` are fractions.

    Raises:
        DataError: the results don't fit the ground truth; one line.
    """
    check_results(ground_truth, results, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(ground_truth)
        evaluation = COCOeval(truth, _detections(truth, results), IOU_TYPES[kind])
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
    return results


def check_results(ground_truth: dict[str, Any], results: Results, kind: str) -> None:
    """Raise a :class:`DataError` of one line where results can't be scored against a ground truth."""
    if not isinstance(results, list):
        raise DataError(f"results are a {type(results).__name__}, not a list of COCO results")
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    needed = {"box": "bbox", "mask": "segmentation"}[kind]
    for i, result in enumerate(results):
        if not isinstance(result, dict):
            raise DataError(f"result {i} is a {type(result).__name__}, not an object with image_id, score and so on")
        missing = [key for key in ("image_id", "category_id", "score", needed) if key not in result]
        if missing:
            raise DataError(f"result {i} (image {result.get('image_id', '?')}) has no {', '.join(missing)}")
        if result["image_id"] not in images:
            raise DataError(f"result {i} is of image {result['image_id']}, which the annotations don't have")
        if result["category_id"] not in categories:
            raise DataError(
                f"result {i} is of category {result['category_id']}, which the annotations don't have; "
                f"they have {', '.join(map(str, sorted(categories)[:10]))}"
            )


def _coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    # loadRes and evaluation write into annotations; the caller's stay as they are
    coco.dataset = {**dataset, "annotations": [dict(a) for a in dataset["annotations"]]}
    # loadRes copies these two as they are
    coco.dataset.setdefault("info", {})
    coco.createIndex()
    return coco


def _detections(truth: COCO, results: Results) -> COCO:
    if results:
        return truth.loadRes([dict(result) for result in results])
    # loadRes can't take an empty list
    return _coco({**truth.dataset, "annotations": []})

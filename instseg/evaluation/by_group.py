"""AP of groups of objects, as COCO has it for small, medium and large ones, but for any grouping."""

import contextlib
import io
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from instseg.evaluation import engine

NO_GROUP = -1


def mask_ap(truth: COCO, predictions: list[dict[str, Any]], groups: NDArray[np.int64], count: int) -> list[float]:
    """Mask AP over IoU 0.50:0.95 of each group of objects, with objects of other groups ignored.

    COCO puts a detection that found nothing into a group by its own area. Here it is in the group of the object of its
    category that its box overlaps most, so that the shape of the mask in question has no say in where it counts; one
    whose box overlaps none is in no group.

    Args:
        truth: the index of the annotations.
        predictions: COCO results with ``image_id, category_id, score, bbox, segmentation``, and masks' own
            ``mask_score`` where they have one; may be empty.
        groups: (A,) the group of each annotation, from 0 on, in the order of the annotations; :data:`NO_GROUP`:
            ignored everywhere.
        count: number of groups.

    Returns:
        AP of each group in percent, nan where it has no objects.
    """
    # by position: annotations' own ids may be 0, which pycocotools takes for no match
    annotations = [
        {**annotation, "id": number, "area": float(group)}
        for number, (annotation, group) in enumerate(zip(truth.dataset["annotations"], groups, strict=True), start=1)
    ]
    grouped = _groups_of(annotations, predictions)
    detections = [
        {**one, "score": one.get("mask_score", one["score"]), "id": number, "area": group, "iscrowd": 0}
        for number, (one, group) in enumerate(zip(predictions, grouped, strict=True), start=1)
        if group != NO_GROUP
    ]
    evaluator = engine.evaluator(_index(truth, annotations), _index(truth, detections), "mask")
    evaluator.params.areaRng = [[group - 0.5, group + 0.5] for group in range(count)]
    evaluator.params.areaRngLbl = [str(group) for group in range(count)]
    evaluator.params.maxDets = [100]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][..., 0]
    found = [precision[..., group][precision[..., group] > -1] for group in range(count)]
    return [100 * float(values.mean()) if values.size else float("nan") for values in found]


def _groups_of(annotations: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> list[float]:
    """The group of each prediction."""
    objects: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        if not annotation.get("iscrowd"):
            objects[annotation["image_id"], annotation["category_id"]].append(annotation)
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, one in enumerate(predictions):
        found[one["image_id"], one["category_id"]].append(number)
    groups = np.full(len(predictions), float(NO_GROUP))
    for key, numbers in found.items():
        if key in objects:
            boxes, targets = [predictions[number]["bbox"] for number in numbers], objects[key]
            iou = np.asarray(coco_mask.iou(boxes, [one["bbox"] for one in targets], [False] * len(targets)))
            best = np.asarray([one["area"] for one in targets])[iou.argmax(axis=1)]
            groups[numbers] = np.where(iou.max(axis=1) > 0, best, NO_GROUP)
    return list(groups.tolist())


def _index(truth: COCO, annotations: list[dict[str, Any]]) -> COCO:
    found = COCO()
    found.dataset = {**truth.dataset, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        found.createIndex()
    return found

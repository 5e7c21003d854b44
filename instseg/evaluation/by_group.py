"""AP of groups of objects, as COCO has it for small, medium and large ones, but for any grouping."""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from instseg.evaluation import coco
from instseg.evaluation.engine import evaluator

NO_GROUP = -1


def mask_ap(truth: COCO, predictions: list[dict[str, Any]], groups: NDArray[np.int64], count: int) -> list[float]:
    """Mask AP over IoU 0.50:0.95 of each group of objects, with objects of other groups ignored.

    COCO puts a detection that matches no object into a group by its own area. Here it is in the group of the object of
    its category that its box overlaps most, so that the shape of its mask has no say in where it counts; a detection
    whose box overlaps no object is in no group.

    Args:
        truth: the index of the annotations.
        predictions: COCO results with masks and boxes, sorted by ``mask_score`` where they have it; may be empty.
        groups: (A,) the group of each annotation, from 0 on; :data:`NO_GROUP`: ignored everywhere.
        count: number of groups.

    Returns:
        AP of each group in percent, nan where it has no objects.
    """
    # COCO groups by area, so the number of a group takes its place. Ids are by position: annotations' own may be 0,
    # which pycocotools takes for no match.
    annotations = [
        {**annotation, "id": number, "area": float(group)}
        for number, (annotation, group) in enumerate(zip(truth.dataset["annotations"], groups, strict=True), start=1)
    ]
    of_predictions = _groups_of(annotations, predictions)
    detections = [
        {**entry, "score": entry.get("mask_score", entry["score"]), "id": number, "area": group, "iscrowd": 0}
        for number, (entry, group) in enumerate(zip(predictions, of_predictions, strict=True), start=1)
        if group != NO_GROUP
    ]
    objects, detected = (coco.index({**truth.dataset, "annotations": entries}) for entries in (annotations, detections))
    evaluation = evaluator(objects, detected, "mask")
    evaluation.params.areaRng = [[group - 0.5, group + 0.5] for group in range(count)]
    evaluation.params.areaRngLbl = [str(group) for group in range(count)]
    evaluation.params.maxDets = [100]
    with coco.quiet():
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]
    measured = [precision[..., group][precision[..., group] > -1] for group in range(count)]
    return [100 * float(values.mean()) if values.size else float("nan") for values in measured]


def _groups_of(annotations: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> list[float]:
    objects: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        if not annotation.get("iscrowd"):
            objects[annotation["image_id"], annotation["category_id"]].append(annotation)
    positions: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position, prediction in enumerate(predictions):
        positions[prediction["image_id"], prediction["category_id"]].append(position)
    groups = np.full(len(predictions), float(NO_GROUP))
    for key in positions.keys() & objects.keys():
        boxes, targets = [predictions[position]["bbox"] for position in positions[key]], objects[key]
        iou = np.asarray(coco_mask.iou(boxes, [target["bbox"] for target in targets], [0] * len(targets)))
        nearest = np.asarray([target["area"] for target in targets])[iou.argmax(axis=1)]
        groups[positions[key]] = np.where(iou.max(axis=1) > 0, nearest, NO_GROUP)
    return groups.tolist()

"""Which detections are right: COCO's matching, done once a run and kept as small arrays.

The same as pycocotools' ``COCOeval.evaluate`` for area "all" and 100 detections an image and category, but by
position instead of by id, so that an annotation with id 0 is matched like any other, and several times as fast.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

from instseg.evaluation import coco
from instseg.evaluation.coco import Kind
from instseg.evaluation.engine import encode
from instseg.masks import boundary

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_MAX_DETECTIONS = 100
_PARAMETERS = Params(iouType="bbox")
IOU_THRESHOLDS: Floats = np.asarray(_PARAMETERS.iouThrs, dtype=np.float64)
RECALL_THRESHOLDS: Floats = np.asarray(_PARAMETERS.recThrs, dtype=np.float64)
# An IoU of 1 may come out a little smaller; COCOeval forgives as much.
_FLOORS = [min(threshold, 1 - 1e-10) for threshold in IOU_THRESHOLDS.tolist()]


@dataclass(frozen=True, eq=False)
class CategoryMatches:
    """Matches of one category, its D detections in falling order of score."""

    image: Integers  # (D,) index of each detection's image
    positives: Floats  # (I,) ground truth objects that count, in each image
    hits: tuple[Integers, ...]  # for each IoU threshold, the ranks of the true positives
    ignored: tuple[Integers, ...]  # for each IoU threshold, the ranks of the ignored detections


@dataclass(frozen=True, eq=False)
class Matches:
    """Which detections of one run are right, at each of :data:`IOU_THRESHOLDS`.

    Attributes:
        image_ids: (I,) ids of the images, the order of image weights.
        categories: one entry a category with ground truth or detections.
    """

    image_ids: Integers
    categories: tuple[CategoryMatches, ...]


def match(ground_truth: COCO, predictions: coco.Results, kind: Kind) -> Matches:
    """Match predictions to ground truth as COCO does, all object sizes, 100 detections an image and category.

    Args:
        ground_truth: the index of the annotations; masks and boundaries make RLE of its segmentations, in place.
        predictions: COCO results without fault, see :func:`instseg.evaluation.coco.check_results`; may be empty.
        kind: whose IoU decides: the boxes', the masks', or the lesser of the masks' and of their boundaries'.
    """
    if kind != "box":
        encode(ground_truth)
    image_ids = np.unique(np.asarray([image["id"] for image in ground_truth.dataset["images"]], dtype=np.int64))
    category_ids = np.unique(np.asarray([c["id"] for c in ground_truth.dataset["categories"]], dtype=np.int64))
    images = {number: index for index, number in enumerate(image_ids.tolist())}
    categories = {number: index for index, number in enumerate(category_ids.tolist())}
    objects: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    positives = np.zeros((len(categories), len(images)))
    for annotation in ground_truth.dataset["annotations"]:
        key = categories[annotation["category_id"]], images[annotation["image_id"]]
        objects[key].append(annotation)
        positives[key] += not annotation.get("iscrowd", 0)

    category = np.asarray([categories[p["category_id"]] for p in predictions], dtype=np.int64)
    image = np.asarray([images[p["image_id"]] for p in predictions], dtype=np.int64)
    scores = np.asarray(coco.scores(predictions, kind), dtype=np.float64)
    # by category, image and score; ties keep the order of the file, as in COCOeval
    order = np.lexsort((-scores, image, category))
    category, image, scores = category[order], image[order], scores[order]
    group = category * max(1, len(images)) + image
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(starts, len(group)))
    kept = np.arange(len(group)) - np.repeat(starts, sizes) < _MAX_DETECTIONS

    hit = np.zeros((len(IOU_THRESHOLDS), len(group)), dtype=bool)
    ignored = np.zeros_like(hit)
    for start, size in zip(starts.tolist(), np.minimum(sizes, _MAX_DETECTIONS).tolist(), strict=True):
        those = objects.get((int(category[start]), int(image[start])))
        if those:
            found = [predictions[i] for i in order[start : start + size].tolist()]
            crowd = [bool(one.get("iscrowd", 0)) for one in those]
            ious = _ious(ground_truth, found, those, crowd, kind)
            _assign(ious, crowd, hit[:, start : start + size], ignored[:, start : start + size])

    with_any = np.union1d(category, np.asarray([key[0] for key in objects], dtype=np.int64))
    return Matches(
        image_ids,
        tuple(
            _ranked(image, scores, positives[index], hit, ignored, np.flatnonzero((category == index) & kept))
            for index in with_any.tolist()
        ),
    )


def _ranked(
    image: Integers,
    scores: Floats,
    positives: Floats,
    hit: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    members: NDArray[np.intp],
) -> CategoryMatches:
    """A category's detections, in the order of images so far, ranked by score."""
    ranked = members[np.argsort(-scores[members], kind="mergesort")]
    return CategoryMatches(
        image=image[ranked],
        positives=positives,
        hits=tuple(np.flatnonzero(row) for row in hit[:, ranked]),
        ignored=tuple(np.flatnonzero(row) for row in ignored[:, ranked]),
    )


def _ious(
    truth: COCO, found: list[dict[str, Any]], those: list[dict[str, Any]], crowd: Sequence[bool], kind: Kind
) -> Floats:
    """(D, G) IoU of D detections and G objects of one image; of crowd regions, the share of the detection in it."""
    if kind == "box":
        return np.asarray(coco_mask.iou([d["bbox"] for d in found], [g["bbox"] for g in those], crowd))
    masks, targets = ([truth.annToRLE(one) for one in ones] for ones in (found, those))
    ious = np.asarray(coco_mask.iou(masks, targets, crowd))
    if kind == "boundary":
        return boundary.limited(ious, masks, targets, crowd, at_least=IOU_THRESHOLDS[0])
    return ious


def _assign(ious: Floats, crowd: Sequence[bool], hit: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> None:
    """COCO's greedy assignment for one image and category: the best score first, to the free object of the highest
    IoU, of equal ones the last; else to a crowd region, which ignores it and stays free.

    Args:
        ious: (D, G), detections in falling order of score.
        crowd: of each of the G objects.
        hit, ignored: (T, D), set where a detection is right, or neither right nor wrong.
    """
    objects = range(len(crowd))
    taken: list[set[int]] = [set() for _ in _FLOORS]
    for number in np.flatnonzero(ious.max(axis=1) >= _FLOORS[0]).tolist():
        values = ious[number].tolist()
        best = sorted((g for g in objects if values[g] >= _FLOORS[0]), key=lambda g: (values[g], g), reverse=True)
        regular = [g for g in best if not crowd[g]]
        in_crowd = max((values[g] for g in objects if crowd[g]), default=0.0)
        for level, floor in enumerate(_FLOORS):
            free = next((g for g in regular if values[g] >= floor and g not in taken[level]), None)
            if free is not None:
                taken[level].add(free)
                hit[level, number] = True
            elif in_crowd >= floor:
                ignored[level, number] = True

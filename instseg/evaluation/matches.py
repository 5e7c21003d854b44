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
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

from instseg.evaluation import coco
from instseg.evaluation.engine import encode
from instseg.evaluation.kinds import METRIC_KINDS, Kind

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_MAX_DETECTIONS = 100
_PARAMETERS = Params(iouType="bbox")
IOU_THRESHOLDS: Floats = np.asarray(_PARAMETERS.iouThrs, dtype=np.float64)
RECALL_THRESHOLDS: Floats = np.asarray(_PARAMETERS.recThrs, dtype=np.float64)
# an IoU of 1 may come out a little smaller; COCOeval allows as much
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
    """Which detections of one run are right, at each of :data:`IOU_THRESHOLDS`."""

    image_ids: Integers  # (I,) the order of image weights
    categories: tuple[CategoryMatches, ...]  # one entry a category with ground truth or detections


def match(ground_truth: COCO, predictions: coco.Results, kind: Kind) -> Matches:
    """Match predictions to ground truth as COCO does, all object sizes, 100 detections an image and category.

    Args:
        ground_truth: the index of the annotations; kinds of masks make RLE of its segmentations, in place.
        predictions: COCO results without fault, see :func:`instseg.evaluation.coco.check_results`; may be empty.
        kind: its overlap decides.
    """
    metric = METRIC_KINDS[kind]
    if metric.of_masks:
        encode(ground_truth)
    images, categories = (
        {number: index for index, number in enumerate(sorted({entry["id"] for entry in ground_truth.dataset[key]}))}
        for key in ("images", "categories")
    )
    objects: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    positives = np.zeros((len(categories), len(images)))
    for annotation in ground_truth.dataset["annotations"]:
        key = categories[annotation["category_id"]], images[annotation["image_id"]]
        objects[key].append(annotation)
        positives[key] += not annotation.get("iscrowd", 0)

    category = np.asarray([categories[result["category_id"]] for result in predictions], dtype=np.int64)
    image = np.asarray([images[result["image_id"]] for result in predictions], dtype=np.int64)
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
        annotations = objects.get((int(category[start]), int(image[start])))
        if annotations:
            here = np.s_[start : start + size]
            crowd = [annotation.get("iscrowd", 0) for annotation in annotations]
            detected, targets = (
                [ground_truth.annToRLE(entry) if metric.of_masks else entry[metric.needs] for entry in entries]
                for entries in ([predictions[i] for i in order[here]], annotations)
            )
            _assign(metric.overlap(detected, targets, crowd, _FLOORS[0]), crowd, hit[:, here], ignored[:, here])

    matches = []
    for index in sorted({*category.tolist(), *(key[0] for key in objects)}):
        members = np.flatnonzero((category == index) & kept)
        ranked = members[np.argsort(-scores[members], kind="mergesort")]
        hits, ignored_ranks = (tuple(map(np.flatnonzero, marks[:, ranked])) for marks in (hit, ignored))
        matches.append(CategoryMatches(image[ranked], positives[index], hits, ignored_ranks))
    return Matches(np.asarray(list(images), dtype=np.int64), tuple(matches))


def _assign(overlaps: Floats, crowd: Sequence[int], hit: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> None:
    """COCO's greedy assignment for one image and category: the best score first, to the free object of the highest
    overlap, of equal ones the last; else to a crowd region, which ignores it and stays free.

    Args:
        overlaps: (D, G), detections in falling order of score.
        crowd: (G,) 1 for a crowd region.
        hit, ignored: (T, D), set where a detection is right, or neither right nor wrong.
    """
    objects = range(len(crowd))
    taken: list[set[int]] = [set() for _ in _FLOORS]
    for number in np.flatnonzero(overlaps.max(axis=1) >= _FLOORS[0]).tolist():
        values = overlaps[number].tolist()
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

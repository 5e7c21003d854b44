"""One reading of all predictions of a study, which every section draws on.

``predictions.json`` of each run is parsed once and dropped before the next is read, as a run on COCO takes near a
gigabyte. What is kept of it: AP on every resample of the images (8 kilobytes a kind), a mean IoU for each image, AP by
complexity; and of one run of each variant and ground truth, which the panels show, the predictions above
:data:`SCORE`: of 13 heads on COCO's 5,000 validation images some 300 megabytes.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools.coco import COCO

from experiments.report.compare import Scores, add_scores
from experiments.runs.study import Study
from experiments.runs.study_files import PREDICTIONS
from instseg.errors import DataError
from instseg.evaluation import by_group, coco, pairing

SCORE = 0.5
"""Predictions above this score count, here and in the panels."""
THIRDS = ("simple", "middling", "complex")
"""Objects by the complexity of their outline, in thirds of equal number."""
IMAGE = ["ground_truth", "image_id"]
"""Columns that name an image: ids alone repeat between folds and data sets."""
RUN = ["variant", "fold", "seed", "ground_truth"]

Edges = tuple[float, float]


@dataclass
class Predictions:
    """What the predictions of the counted runs say; a run whose files can't be used is left out, with a note.

    Attributes:
        scores: AP on resampled images.
        images: a row a run and held-out image with objects: ``variant, fold, seed, ground_truth, image_id, iou``. The
            last is the mean over the image's objects, crowd regions apart, of the mask IoU with the prediction above
            :data:`SCORE` of the same category that covers them; 0 for a missed one.
        complexity: a row a run: ``variant, fold, seed, ground_truth`` and mask AP in percent of each of
            :data:`THIRDS`, nan where there are no such objects.
        edges: by data set, the two complexities that part its thirds.
        shown: by variant and ground truth, the predictions above :data:`SCORE` of its first run (in the order of folds
            and seeds) by image id.
        notes: a line for each file that can't be used or contradicts another.
    """

    scores: Scores
    images: pd.DataFrame
    complexity: pd.DataFrame
    edges: dict[str, Edges]
    shown: dict[tuple[str, str], dict[int, coco.Results]]
    notes: list[str]


def read(study: Study, resamples: int) -> Predictions:
    """Read the predictions of all counted runs; ``resamples``: bootstrap replicates of AP."""
    runs = study.runs[study.runs["counted"]]
    truths: dict[str, COCO] = {}
    notes: list[str] = []
    for name in runs["ground_truth"].unique():
        try:
            truths[name] = study.files.ground_truth(name)
        except DataError as error:
            notes.append(f"{error}: no interval of the runs that are scored on it, nothing by image or complexity")
    datasets = dict(zip(runs["ground_truth"], runs["dataset"].astype(str), strict=True))
    edges, groups = thirds({name: (truth, datasets[name]) for name, truth in truths.items()})
    scores: Scores = {kind: {} for kind in study.kinds}
    shown: dict[tuple[str, str], dict[int, coco.Results]] = {}
    images, complexity = [], []
    for row in study.counted_rows():
        name, run = row["ground_truth"], {key: row[key] for key in RUN}
        if name not in truths:
            continue
        truth = truths[name]
        try:
            results = study.files.predictions(row["folder"], truth)
        except DataError as error:
            notes.append(f"{error}: no interval of this run, nothing by image or complexity")
            continue
        notes += add_scores(scores, row, truth, results, PREDICTIONS, resamples)
        sure: dict[int, coco.Results] = defaultdict(list)
        for result in results:
            if result["score"] > SCORE:
                sure[result["image_id"]].append(result)
        shown.setdefault((row["variant"], name), sure)
        images += [run | {"image_id": image_id, "iou": iou} for image_id, iou in image_ious(truth, sure).items()]
        aps = by_group.mask_ap(truth, results, groups[name], len(THIRDS))
        complexity.append(run | dict(zip(THIRDS, aps, strict=True)))
    by_image = pd.DataFrame(images, columns=[*RUN, "image_id", "iou"])
    by_third = pd.DataFrame(complexity, columns=[*RUN, *THIRDS])
    return Predictions(scores, by_image, by_third, edges, shown, notes)


def image_ious(truth: COCO, sure: dict[int, coco.Results]) -> dict[int, float]:
    """The mean IoU (see :class:`Predictions`) of each image with objects, by its id; of ``sure`` predictions, those
    above :data:`SCORE`, by image."""
    ious = {}
    for image_id in truth.imgs:
        if objects := objects_of(truth, image_id):
            pairs = pair(sure.get(image_id, []), objects)
            ious[image_id] = sum(iou for _, iou in pairs.values()) / len(objects)
    return ious


def objects_of(truth: COCO, image_id: int) -> list[dict[str, Any]]:
    """The annotations of an image that are no crowd regions."""
    return [annotation for annotation in truth.imgToAnns[image_id] if not annotation.get("iscrowd")]


def pair(predictions: coco.Results, objects: list[dict[str, Any]]) -> dict[int, tuple[int, float]]:
    """:func:`instseg.evaluation.pairing.pair` of one image's predictions and annotations of the same category."""
    predicted, wanted = (np.asarray([entry["category_id"] for entry in part]) for part in (predictions, objects))
    masks, targets = ([entry["segmentation"] for entry in part] for part in (predictions, objects))
    return pairing.pair(masks, targets, predicted[:, None] == wanted)


def thirds(truths: dict[str, tuple[COCO, str]]) -> tuple[dict[str, Edges], dict[str, NDArray[np.int64]]]:
    """The edges of the thirds of each data set, and the third of each annotation of each ground truth; ``truths`` hold
    by name the index of a ground truth, segmentations as RLE, and the data set that it is of."""
    values = {}
    for name, (truth, _) in truths.items():
        objects = [None if each.get("iscrowd") else each["segmentation"] for each in truth.dataset["annotations"]]
        values[name] = np.asarray([math.nan if rle is None else pairing.complexity(rle) for rle in objects])
    edges: dict[str, Edges] = {}
    groups = {}
    for name, (_, dataset) in truths.items():
        if dataset not in edges:
            pooled = np.concatenate([values[other] for other, (_, same) in truths.items() if same == dataset])
            pooled = pooled[~np.isnan(pooled)]
            low, high = np.quantile(pooled, [1 / 3, 2 / 3]).tolist() if len(pooled) else (math.nan, math.nan)
            edges[dataset] = low, high
        third = np.searchsorted(edges[dataset], values[name], side="left")
        groups[name] = np.where(np.isnan(values[name]), by_group.NO_GROUP, third)
    return edges, groups

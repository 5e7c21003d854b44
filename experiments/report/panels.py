"""Panels **image, prediction, ground truth**: what the masks of each variant look like on the same images."""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_tools

from experiments.render.masks import Column, ImageKey, Instances, colour_of, grid, matched_colours
from experiments.report.predictions import SCORE, objects_of, pair
from experiments.report.section import Content, Findings, Section
from instseg.evaluation import coco

IMAGES = 4


def make(findings: Findings) -> Content:
    """``panels.png|pdf`` and ``panels/<variant>.png|pdf``."""
    order = findings.scores.order
    columns = collect(findings)
    text = explanation(columns)
    return Content(
        figure=partial(grid, columns, order, text),
        figures={label: partial(grid, columns, [label], text) for label in order},
        reason="no stored images (ground_truth/*-images.npz) with predictions",
    )


def collect(findings: Findings) -> list[Column]:
    """The stored images to show, those that most variants have first."""
    names = findings.study.runs["ground_truth"].dropna().unique()
    stored = {name: findings.study.files.images(name) for name in names}
    holders = Counter(name for _, name in findings.predictions.shown)
    keys = [(name, image_id) for name, images in stored.items() for image_id in images if holders[name]]
    keys = sorted(keys, key=lambda key: -holders[key[0]])[:IMAGES]
    return [column(findings, key, stored[key[0]][key[1]], findings.scores.order) for key in keys]


def column(findings: Findings, key: ImageKey, image: NDArray[np.uint8], order: list[str], title: str = "") -> Column:
    """One (H, W, 3) image with the predictions of those variants of ``order`` that have a run on it, each of the first
    such run, in the order of folds and seeds."""
    ground_truth, image_id = key
    truth = findings.study.files.ground_truth(ground_truth)
    objects = objects_of(truth, image_id)
    masks = [truth.annToMask(annotation).astype(bool) for annotation in objects]
    instances = Instances(
        np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), dtype=bool),
        _boxes(objects),
        [colour_of(number) for number in range(len(objects))],
    )
    shown = {label: findings.predictions.shown.get((label, ground_truth)) for label in order}
    predictions = {
        label: _prediction(by_image.get(image_id, []), objects, instances)
        for label, by_image in shown.items()
        if by_image is not None
    }
    return Column(key, image, instances, predictions, title)


def explanation(columns: Iterable[Column]) -> str:
    """What a reader must know of panels."""
    text = f"Predictions with a score above {SCORE}"
    if any(instances.iou is not None for column in columns for instances in column.predictions.values()):
        text += "; the number is the mean mask IoU over the image's objects, 0 for one that was missed"
    return text


def _prediction(results: coco.Results, objects: list[dict[str, Any]], truth: Instances) -> Instances:
    """The predictions on one image, the least confident first so that the best are drawn on top."""
    results = sorted(results, key=lambda result: result["score"])
    masks = np.zeros((len(results), *truth.masks.shape[1:]), dtype=bool)
    for mask, result in zip(masks, results, strict=True):
        mask[:] = rle_tools.decode(result["segmentation"])
    pairs = pair(results, objects)
    iou = sum(iou for _, iou in pairs.values()) / len(objects) if objects else None
    return Instances(masks, _boxes(results), matched_colours(len(masks), pairs, truth), iou)


def _boxes(entries: list[dict[str, Any]]) -> NDArray[np.float64]:
    """(N, 4)"""
    return np.asarray([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)


SECTION = Section("panels", make, endings=(), figure="panels", photographs=True)

"""Panels **image, prediction, ground truth**: what the masks of each variant look like on the same images."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from experiments.render.masks import Column, ImageKey, Instances, colour_of, grid, matched_colours
from experiments.report.predictions import SCORE, Predictions, objects_of, pair
from experiments.report.section import Content, Findings, Section
from experiments.runs.study import Study
from experiments.runs.study_files import StudyFiles
from instseg.evaluation import coco

IMAGES = 4


def make(findings: Findings) -> Content:
    """``panels.png|pdf`` and ``panels/<variant>.png|pdf``."""
    order = findings.study.ordered(findings.baseline)
    columns = collect(findings.study, findings.predictions, order)
    text = explanation(columns)
    return Content(
        figure=partial(grid, columns, order, text),
        figures={label: partial(grid, columns, [label], text) for label in order},
        reason="no stored images (ground_truth/*-images.npz) with predictions",
    )


@dataclass
class PanelSource:
    """What columns of panels are made from. Each variant is shown by the first of its runs, in the order of folds and
    seeds, that was scored on the image.

    Attributes:
        files: for the ground truths.
        predictions: those of :class:`experiments.report.predictions.Predictions` that are shown.
        images: (H, W, 3) uint8 each.
    """

    files: StudyFiles
    predictions: dict[tuple[str, str], dict[int, coco.Results]]
    images: dict[ImageKey, NDArray[np.uint8]]

    def column(self, key: ImageKey, order: list[str], title: str = "") -> Column:
        """One image with the predictions of those variants of ``order`` that have a run on it."""
        ground_truth, image_id = key
        image, truth = self.images[key], self.files.ground_truth(ground_truth)
        objects = objects_of(truth, image_id)
        column = Column(key, image, _truth(truth, objects, image.shape[:2]), {}, title)
        for label in order:
            if (label, ground_truth) in self.predictions:
                results = self.predictions[label, ground_truth].get(image_id, [])
                column.predictions[label] = _prediction(results, objects, column)
        return column


def collect(study: Study, predictions: Predictions, order: list[str]) -> list[Column]:
    """The stored images to show, those that most variants have first."""
    names = study.runs["ground_truth"].dropna().unique()
    stored = {name: study.files.images(name) for name in names}
    holders = {name: sum((label, name) in predictions.shown for label in order) for name in names}
    keys = [(name, image_id) for name, images in stored.items() for image_id in images if holders[name]]
    keys = sorted(keys, key=lambda key: -holders[key[0]])[:IMAGES]
    images = {(name, image_id): stored[name][image_id] for name, image_id in keys}
    source = PanelSource(study.files, predictions.shown, images)
    return [source.column(key, order) for key in keys]


def explanation(columns: Iterable[Column]) -> str:
    """What a reader must know of panels."""
    text = f"Predictions with a score above {SCORE}"
    if any(instances.iou is not None for column in columns for instances in column.predictions.values()):
        text += "; the number is the mean mask IoU over the image's objects, 0 for one that was missed"
    return text


def _truth(truth: COCO, objects: list[dict[str, Any]], size: tuple[int, ...]) -> Instances:
    masks = [truth.annToMask(annotation).astype(bool) for annotation in objects]
    return Instances(
        np.stack(masks) if masks else np.zeros((0, *size), dtype=bool),
        np.asarray([annotation["bbox"] for annotation in objects], dtype=np.float64).reshape(-1, 4),
        [colour_of(number) for number in range(len(objects))],
    )


def _prediction(results: coco.Results, objects: list[dict[str, Any]], column: Column) -> Instances:
    """The predictions on one image, the least confident first so that the best are drawn on top."""
    results = sorted(results, key=lambda result: result["score"])
    masks = np.zeros((len(results), *column.image.shape[:2]), dtype=bool)
    for mask, result in zip(masks, results, strict=True):
        mask[:] = rle_tools.decode(result["segmentation"])
    boxes = np.asarray([result["bbox"] for result in results], dtype=np.float64).reshape(-1, 4)
    pairs = pair(results, objects)
    iou = sum(iou for _, iou in pairs.values()) / len(objects) if objects else None
    return Instances(masks, boxes, matched_colours(len(masks), pairs, column.truth), iou)


SECTION = Section("panels", make, endings=(), figure="panels", photographs=True)

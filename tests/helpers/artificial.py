"""Runs made up as matches: detectors whose true quality is known, so that false alarms can be counted."""

from dataclasses import dataclass

import numpy as np

from instseg.evaluation.matches import IOU_THRESHOLDS, CategoryMatches, Matches

Runs = dict[tuple[int, int], Matches]


@dataclass(frozen=True)
class World:
    """How the IoU of a found object comes about; standard deviations of IoU, in hundredths.

    Attributes:
        images: of a test set.
        image: how hard an image is, for every head and seed alike.
        head_image: how a head does on an image, for every seed alike.
        seed: how good one training of a head is, on every image alike.
        fold: the same of the trainings on one fold.
        detection: all the rest.
    """

    images: int = 60
    image: float = 8.0
    head_image: float = 4.0
    seed: float = 1.0
    fold: float = 0.0
    detection: float = 10.0


def heads(
    random: np.random.Generator, world: World, seeds: int, effects: tuple[float, ...] = (0.0, 0.0), folds: int = 1
) -> list[Runs]:
    """The runs of as many heads as ``effects`` has, each that much better than the first by its true mean IoU."""
    found: list[Runs] = [{} for _ in effects]
    for fold in range(folds):
        image = np.repeat(np.arange(world.images), 4)
        category = random.integers(0, 2, len(image))
        shared = random.normal(0, world.image, world.images) + random.normal(0, 5, world.images)
        for runs, effect in zip(found, effects, strict=True):
            mine = shared + random.normal(0, world.head_image, world.images) + random.normal(0, world.fold) + effect
            for seed in range(seeds):
                level = mine + random.normal(0, world.seed)
                iou = 75 + level[image] + random.normal(0, world.detection, len(image))
                runs[fold, seed] = _run(random, world.images, image, category, iou / 100)
    return found


def _run(random: np.random.Generator, images: int, image: np.ndarray, category: np.ndarray, iou: np.ndarray) -> Matches:
    """A run that finds every object with the IoU given, and one thing an image that is none."""
    image_all = np.concatenate([image, np.arange(images)])
    category_all = np.concatenate([category, random.integers(0, 2, images)])
    iou_all = np.concatenate([iou, np.zeros(images)])
    score = iou_all + random.normal(0, 0.3, len(iou_all))
    none = np.zeros(0, dtype=np.int64)
    categories = []
    for number in range(2):
        members = np.flatnonzero(category_all == number)
        ranked = members[np.argsort(-score[members])]
        hits = tuple(np.flatnonzero(iou_all[ranked] >= threshold) for threshold in IOU_THRESHOLDS)
        positives = np.bincount(image[category == number], minlength=images).astype(np.float64)
        categories.append(CategoryMatches(image_all[ranked], positives, hits, (none,) * len(hits)))
    return Matches(np.arange(images), tuple(categories))

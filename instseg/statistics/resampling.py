"""AP on resamples of the images, and differences over repeated runs (seeds, folds).

COCO's matching of detections to ground truth is done once a run (:func:`instseg.evaluation.matches.match`) and does
not change when images are drawn again; only the accumulation does. So AP is accumulated anew under image weights:
weight 2 is the same as having the image twice, weight 0 as not having it. How the errors of images, seeds and folds
make an interval: :mod:`instseg.statistics.estimate`; what is concluded from several: :mod:`instseg.statistics.verdict`.

What the intervals cover, and what they don't:

- They cover the draw of the test images and, where there is more than one run, of the seeds or folds. With one run,
  variation between seeds is not covered at all, and there is no verdict.
- Folds share training images; Nadeau and Bengio's correction is for that, and exact only where folds resemble each
  other as much as their training sets overlap.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from instseg.evaluation.matches import RECALL_THRESHOLDS, CategoryMatches, Floats, Matches
from instseg.statistics.estimate import UNKNOWN, Estimate, Side, estimate
from instseg.statistics.verdict import Difference

RunKey = tuple[int, int]  # (fold, seed)

_ROWS = 250  # resamples held at once


class RunScores(NamedTuple):
    """A number of a run, such as its AP, and what it is on resampled images.

    Attributes:
        values: (1 + resamples,) in percent: on the images as they are, then on each resample.
        images: number of images.
        data: what the run was scored on, such as the name of the ground truth: runs are compared only on the same.
    """

    values: Floats
    images: int
    data: str = ""


Runs = Mapping[RunKey, RunScores]
"""A variant's runs; those of a fold are scored on the same images and the same resamples of them."""


def average_precision(matches: Matches, weights: NDArray[Any] | None = None) -> Floats:
    """AP over IoU 0.50:0.95 with every image counted as often as its weight says.

    As in COCO, AP is the mean over the categories that have ground truth (here: in images of weight > 0).

    Args:
        weights: (B, I) whole image weights, 0 or more, a row a resample; default one row of ones.

    Returns:
        (B,) AP in percent; nan where no image of weight > 0 holds ground truth.
    """
    if weights is None:
        weights = np.ones((1, len(matches.image_ids)), dtype=np.int32)
    # whole numbers of 32 bits are exact and half as much to move
    columns = [np.ascontiguousarray(weights[i : i + _ROWS].T, dtype=np.int32) for i in range(0, len(weights), _ROWS)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = pool.map(lambda category: _category_precision(category, columns), matches.categories)
        table = np.asarray(list(rows)).reshape(-1, len(weights))
    counted = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return 100 * np.where(counted, table, 0.0).sum(axis=0) / counted.sum(axis=0)


def _category_precision(category: CategoryMatches, columns: list[NDArray[np.int32]]) -> Floats:
    """(B,) AP of one category as a fraction, nan where it has no ground truth; of image weights (I, B') that make B
    together."""
    # precision rises at true positives alone, so its envelope needs no other ranks
    ranks = np.unique(np.concatenate(category.hits))
    # the detections between one such rank and the next, counted by image
    stretch = np.searchsorted(ranks, np.arange(len(category.image)))
    inside = stretch < len(ranks)
    shape = len(ranks), len(category.positives)
    ones = np.ones(int(inside.sum()), dtype=np.int32)
    counts = sparse.csr_array((ones, (stretch[inside], category.image[inside])), shape=shape)
    levels = [
        (np.searchsorted(ranks, hits), category.image[ignored], np.searchsorted(ignored, hits))
        for hits, ignored in zip(category.hits, category.ignored, strict=True)
    ]
    parts = []
    for weights in columns:
        positives = category.positives @ weights
        observed = np.cumsum(counts @ weights, axis=0, dtype=np.int32)
        at_ranks = weights[category.image[ranks]]
        total = np.zeros(weights.shape[1])
        for places, ignored_images, before in levels:
            if len(places):
                counted = observed[places]
                if len(ignored_images):
                    passed = np.cumsum(weights[ignored_images], axis=0, dtype=np.int32)
                    counted -= np.concatenate([np.zeros_like(passed[:1]), passed])[before]
                total += _precision(np.cumsum(at_ranks[places], axis=0, dtype=np.int32), counted, positives)
        parts.append(np.where(positives > 0, total / (len(levels) * len(RECALL_THRESHOLDS)), np.nan))
    return np.concatenate(parts)


def _precision(true: NDArray[np.int32], counted: NDArray[np.int32], positives: Floats) -> Floats:
    """(B,) sum of the precisions that COCO reads at its recall thresholds; (N, B) at N true positives."""
    precision = true / (counted + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = true / np.maximum(positives, np.spacing(1))
    # how many thresholds are reached at each hit: all below the nearest one, and that one as rounding decides; COCO
    # reads the envelope once for each threshold that is reached here and not before
    nearest = np.rint(recall * (len(RECALL_THRESHOLDS) - 1)).astype(np.intp)
    reached = nearest + (recall >= RECALL_THRESHOLDS[nearest])
    return np.asarray((np.diff(reached, axis=0, prepend=0) * envelope).sum(axis=0))


def image_weights(count: int, fold: int, resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """(1 + resamples, count) how often each image counts: once, and then as drawn with replacement, the same for
    every run of a fold, which pairs the runs."""
    random = np.random.default_rng([seed, 1, fold])
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])


def score_run(matches: Matches, fold: int, resamples: int, seed: int = 0, data: str = "") -> RunScores:
    """AP of one run on its images and on resamples of them; ``seed`` is the bootstrap's own."""
    images = len(matches.image_ids)
    return RunScores(average_precision(matches, image_weights(images, fold, resamples, seed)), images, data)


def mean_over_runs(runs: Runs) -> Estimate:
    """Mean of a number over at least one run, with its error over images and seeds or folds.

    Where there is more than one fold, folds are the units, with their seeds' mean inside; else seeds are.
    """
    tests = _tests(runs)
    if len(tests) == 1:
        (seeds,) = tests.values()
        return estimate([_side(list(seeds.values()))], _images(tests))
    return estimate([_side([_mean(seeds) for seeds in tests.values()])], _images(tests), len(tests), _overlap(tests))


def differences(variants: Mapping[str, Runs], rivals: Mapping[str, str | None]) -> dict[str, Difference]:
    """Each variant's mean difference to its rival, over the folds and data that both have runs on.

    With several folds, a fold's difference is that of the means over its seeds. With one, seeds that are the same on
    both sides are paired; where one side has more, such as a baseline that is trained more often, all of them count and
    are taken for independent draws.

    Args:
        variants: the runs of each.
        rivals: what each variant is compared with; None or the variant itself: nothing.
    """
    result = {}
    for label, rival in rivals.items():
        runs = variants.get(label, {})
        rival_runs = variants.get(rival, {}) if rival is not None and rival != label else {}
        result[label] = _difference(rival, _tests(runs), _tests(rival_runs))
    return result


Tests = dict[tuple[int, str], dict[int, RunScores]]
"""The runs on each test set, which its fold and data name, by seed."""


def _difference(rival: str | None, runs: Tests, rival_runs: Tests) -> Difference:
    shared = [test for test in runs if test in rival_runs]
    own, other = ({test: tests[test] for test in shared} for tests in (runs, rival_runs))
    if not shared:
        return Difference(rival, UNKNOWN, 0, 0, True)
    count = sum(map(len, own.values()))
    if len(shared) > 1:
        side = _side([_minus(_mean(own[test]), _mean(other[test])) for test in shared])
        estimated = estimate([side], _images(own), len(shared), _overlap(own))
        return Difference(rival, estimated, count, len(shared), True)
    (seeds,), (rival_seeds,) = own.values(), other.values()
    if seeds.keys() == rival_seeds.keys():
        sides = [_side([_minus(seeds[seed], rival_seeds[seed]) for seed in seeds])]
    else:
        sides = [_side(list(seeds.values())), _side(list(rival_seeds.values()), sign=-1)]
    # over one fold among several, an interval leaves out what the others' have
    estimated, comparable = estimate(sides, _images(own)), len(runs) == len(rival_runs) == 1
    return Difference(rival, estimated, count, min(len(seeds), len(rival_seeds)), comparable)


def _tests(runs: Runs) -> Tests:
    tests: Tests = {}
    for (fold, seed), run in sorted(runs.items()):
        tests.setdefault((fold, run.data), {})[seed] = run
    return tests


def _images(tests: Tests) -> int:
    return sum(next(iter(seeds.values())).images for seeds in tests.values())


def _overlap(tests: Tests) -> float:
    """Test images over training images, where the folds are all that there are; of folds that are left out the
    training images would be more, and the ratio smaller."""
    return 1 / (len(tests) - 1)


def _mean(seeds: Mapping[int, RunScores]) -> RunScores:
    runs = list(seeds.values())
    return runs[0]._replace(values=np.mean([run.values for run in runs], axis=0))


def _minus(run: RunScores, other: RunScores) -> RunScores:
    return run._replace(values=run.values - other.values)


def _side(units: list[RunScores], sign: int = 1) -> Side:
    table = np.stack([unit.values for unit in units], axis=1)
    return Side(table[0], table[1:], sign)

"""Is a difference in AP real? AP on resamples of the images, and paired differences over repeated runs (seeds, folds).

COCO's matching of detections to ground truth is done once a run (:func:`instseg.evaluation.matches.match`) and does
not change when images are drawn again; only the accumulation does. So AP is accumulated anew under image weights:
weight 2 is the same as having the image twice, weight 0 as not having it. How the errors of images, seeds and folds
make an interval: :mod:`instseg.statistics.estimate`.

What the intervals cover, and what they don't:

- They cover the draw of the test images and, where there is more than one run, of the seeds or folds. With one run,
  variation between seeds is not covered at all.
- Where seeds differ far more than images alone would have them, two or three seeds give too many false alarms.
- Folds share training images, and what those do to a variant is not covered. Seeds are taken as drawn anew in every
  fold, as the runs' random streams are.
- Each interval is on its own; for several against one baseline see :mod:`instseg.statistics.verdict`.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from instseg.evaluation.matches import RECALL_THRESHOLDS, CategoryMatches, Floats, Matches
from instseg.statistics.estimate import UNKNOWN, Estimate, Spread, between_units, estimate
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


def mean_over_runs(runs: Runs, spread: Spread | None = None) -> Estimate:
    """Mean of a number over at least one run, with its error over images and seeds or folds.

    Where there is more than one fold, folds are the outer units, with their seeds inside; else seeds are.

    Args:
        spread: between seeds or folds; None: estimated from these runs alone.
    """
    keys = sorted(runs)
    table = _table(runs, keys)
    return estimate(table[0], table[1:], *_design(runs, keys), spread)


def differences(variants: Mapping[str, Runs], rivals: Mapping[str, str | None]) -> dict[str, Difference]:
    """Each variant's mean difference to its rival, over the pairs of runs with the same fold, seed and data.

    The spread between seeds or folds is estimated from all variants together that have the same rival and all of these
    runs. For what the error does not cover, see the head of this module.

    Args:
        variants: the runs of each.
        rivals: what each variant is compared with; None or the variant itself: nothing.
    """
    result = {}
    for label, rival in rivals.items():
        runs = variants.get(label, {})
        rival_runs = variants.get(rival, {}) if rival is not None and rival != label else {}
        keys = _shared(runs, rival_runs)
        difference = UNKNOWN
        if keys:
            others = [variants.get(name, {}) for name, other in rivals.items() if other == rival != name]
            alike = [other for other in others if set(keys) <= set(_shared(other, rival_runs))]
            pairs = {key: RunScores(runs[key].values - rival_runs[key].values, runs[key].images) for key in keys}
            difference = mean_over_runs(pairs, _pooled_spread([rival_runs, *alike], keys))
        result[label] = Difference(rival, difference, len(keys), _comparable(keys, rival_runs))
    return result


def _comparable(shared: Collection[RunKey], rival_runs: Collection[RunKey]) -> bool:
    """Whether an interval over the shared runs is of more than one seed, and of more than one fold, where one over all
    runs of the rival would be: else it leaves out a variation that the other variants' intervals have, and a verdict
    from it would not mean the same."""
    folds, rival_folds = ({fold for fold, _ in keys} for keys in (shared, rival_runs))
    return (len(shared) > 1 or len(rival_runs) < 2) and (len(folds) > 1 or len(rival_folds) < 2)


def _shared(runs: Runs, rival_runs: Runs) -> list[RunKey]:
    return sorted(key for key, run in runs.items() if key in rival_runs and rival_runs[key].data == run.data)


def _pooled_spread(variants: Sequence[Runs], keys: list[RunKey]) -> Spread | None:
    """How far seeds or folds lie apart in the difference of two variants, from several variants together, which have
    the runs ``keys``; None where there is a single seed or fold."""
    units, images, folds = _design(variants[0], keys)
    if len(set(units)) < 2:
        return None
    together = np.stack([_table(runs, keys) for runs in variants], axis=-1)
    return between_units(together[0], together[1:], units, images, folds)


def _table(runs: Runs, keys: list[RunKey]) -> Floats:
    """(1 + resamples, len(keys)) the runs' numbers."""
    return np.stack([runs[key].values for key in keys], axis=1)


def _design(runs: Runs, keys: list[RunKey]) -> tuple[list[int], int, int]:
    """The unit of each run, the number of images of all folds together, and that of folds."""
    images = {fold: runs[fold, seed].images for fold, seed in keys}
    return [fold if len(images) > 1 else seed for fold, seed in keys], sum(images.values()), len(images)

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
- Each interval is on its own; for several against one baseline see :func:`instseg.statistics.estimate.holm`.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from instseg.errors import UserError
from instseg.evaluation.matches import RECALL_THRESHOLDS, CategoryMatches, Floats, Matches, match
from instseg.statistics.estimate import Estimate, Spread, between_units, estimate

__all__ = [
    "Matches",
    "PairedDifference",
    "RunKey",
    "average_precision",
    "image_weights",
    "match",
    "over_runs",
    "own_interval",
    "paired_difference",
    "pooled_spread",
    "spread_over_runs",
]

RunKey = tuple[int, int]  # (fold, seed)

_ROWS = 250  # resamples held at once


@dataclass(frozen=True)
class PairedDifference:
    """AP in percent of two variants, over the runs that both have."""

    a: Estimate
    b: Estimate
    difference: Estimate  # a - b
    pairs: int  # (fold, seed) pairs that both have


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

    def one(category: CategoryMatches) -> Floats:
        return _category_precision(category, columns)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        table = np.asarray(list(pool.map(one, matches.categories))).reshape(-1, len(weights))
    counted = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return 100 * np.where(counted, table, 0.0).sum(axis=0) / counted.sum(axis=0)


def _category_precision(category: CategoryMatches, columns: list[NDArray[np.int32]]) -> Floats:
    """(B,) AP of one category as a fraction, nan where it has no ground truth.

    Args:
        columns: image weights, (I, B') each, that make B together.
    """
    # Precision only rises at a true positive, so its envelope needs no other rank.
    ranks = np.unique(np.concatenate(category.hits))
    # detections up to each of those ranks, counted from the one before it
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
    # Thresholds reached at this hit: all below the nearest, which rounding decides. COCO reads the envelope once for
    # each that is reached first here.
    nearest = np.rint(recall * (len(RECALL_THRESHOLDS) - 1)).astype(np.intp)
    reached = nearest + (recall >= RECALL_THRESHOLDS[nearest])
    return np.asarray((np.diff(reached, axis=0, prepend=0) * envelope).sum(axis=0))


@lru_cache(maxsize=512)
def _replicates(matches: Matches, fold: int, resamples: int, seed: int) -> Floats:
    """(1 + resamples,) AP of one run: first as it is, then on resampled images.

    The draw depends on fold and seed only, which pairs the runs. Cached: the baseline meets every variant.
    """
    return average_precision(matches, image_weights(len(matches.image_ids), fold, resamples, seed))


def image_weights(count: int, fold: int, resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """(1 + resamples, count) how often each image counts: once, and then as drawn with replacement, the same for
    every run of a fold."""
    random = np.random.default_rng([seed, 1, fold])
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])


def _table(runs: Mapping[RunKey, Matches], keys: list[RunKey], resamples: int, seed: int) -> Floats:
    """(1 + resamples, len(keys)) AP of the runs: first as they are, then on resampled images."""
    return np.stack([_replicates(runs[key], key[0], resamples, seed) for key in keys], axis=1)


def over_runs(table: Floats, keys: list[RunKey], images: Mapping[int, int], spread: Spread | None = None) -> Estimate:
    """Mean over runs with its error over images and seeds or folds.

    Args:
        table: (1 + resamples, len(keys)) a number of each run: as it is, then on resampled images.
        keys: (fold, seed) of the runs.
        images: number of images of each fold.
        spread: between seeds or folds, as :func:`spread_over_runs` gives it; None: from this table alone.
    """
    return estimate(table[0], table[1:], _units(keys), sum(images.values()), len(images), spread)


def spread_over_runs(tables: list[Floats], keys: list[RunKey], images: Mapping[int, int]) -> Spread | None:
    """How far seeds or folds lie apart in the difference of two variants, from several variants together.

    Args:
        tables: one a variant, as :func:`over_runs` takes it.
        keys, images: as there, of all of them.

    Returns:
        None where there is a single variant, or a single seed or fold.
    """
    if len(tables) < 2 or len(set(_units(keys))) < 2:
        return None
    together = np.stack(tables, axis=-1)
    return between_units(together[0], together[1:], _units(keys), sum(images.values()), len(images))


def _units(keys: list[RunKey]) -> list[int]:
    folds = len({fold for fold, _ in keys}) > 1
    return [fold if folds else run_seed for fold, run_seed in keys]


def _images(runs: Mapping[RunKey, Matches], keys: list[RunKey]) -> dict[int, int]:
    return {fold: len(runs[fold, run_seed].image_ids) for fold, run_seed in keys}


def pooled_spread(variants: Sequence[Mapping[RunKey, Matches]], resamples: int = 1000, seed: int = 0) -> Spread | None:
    """:func:`spread_over_runs` of the AP of several variants that have the same runs by (fold, seed)."""
    keys = sorted(variants[0])
    return spread_over_runs(
        [_table(runs, keys, resamples, seed) for runs in variants], keys, _images(variants[0], keys)
    )


def own_interval(runs: Mapping[RunKey, Matches], resamples: int = 1000, seed: int = 0) -> Estimate:
    """Mean AP of one variant over its runs, with its error over images and seeds or folds.

    Args:
        runs: the variant's matches by (fold, seed), at least one; runs of a fold have the same images.
        resamples, seed: as in :func:`paired_difference`.
    """
    keys = sorted(runs)
    return over_runs(_table(runs, keys, resamples, seed), keys, _images(runs, keys))


def paired_difference(
    runs_a: Mapping[RunKey, Matches],
    runs_b: Mapping[RunKey, Matches],
    resamples: int = 1000,
    seed: int = 0,
    spread: Spread | None = None,
) -> PairedDifference:
    """How much better variant a is than variant b, over the (fold, seed) pairs that both have.

    The value is the plain mean over the pairs. Both variants, and all seeds of a fold, see the same resamples of its
    images. Where there is more than one fold, folds are the outer units, with their seeds inside; else seeds are.
    Resamples without any ground truth are left out. For what the interval does not cover, see the head of this module.

    Args:
        runs_a, runs_b: matches of the two variants by (fold, seed).
        resamples, seed: number of bootstrap replicates, and the bootstrap's own seed.
        spread: between seeds or folds in a difference, where more variants than these tell of it: of
            :func:`pooled_spread`.

    Raises:
        UserError: the variants share no (fold, seed) pair, or a pair was scored on different images.
    """
    keys = sorted(set(runs_a) & set(runs_b))
    if not keys:
        raise UserError("the two variants share no (fold, seed) pair, so they can't be compared")
    for fold, run_seed in keys:
        ids_a, ids_b = runs_a[fold, run_seed].image_ids, runs_b[fold, run_seed].image_ids
        if not np.array_equal(ids_a, ids_b):
            raise UserError(f"fold {fold} seed {run_seed}: the two runs were scored on different images")
    a, b = (_table(runs, keys, resamples, seed) for runs in (runs_a, runs_b))
    images = _images(runs_a, keys)
    of_a, of_b = (over_runs(table, keys, images) for table in (a, b))
    return PairedDifference(of_a, of_b, over_runs(a - b, keys, images, spread), len(keys))

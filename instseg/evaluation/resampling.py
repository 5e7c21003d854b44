"""Is a difference in AP real? Paired bootstrap over images and over repeated runs (seeds, folds).

COCO's matching of detections to ground truth is done once a run and does not change when images are drawn
again; only the accumulation does. So :func:`match` keeps the matches as small arrays, and
:func:`average_precision` accumulates them anew under image weights: weight 2 is the same as having the image
twice, weight 0 as not having it.

What the intervals cover, and what they don't:

- They cover the draw of the test images and, where there is more than one run, of the seeds and folds.
- With few seeds they **understate** the variation between seeds: a bootstrap over n runs sees (n - 1) / n of
  their variance, so two seeds show half of it. With one run, variation between seeds is not covered at all.
- On few images they are too narrow: in a simulation of one run a variant, the intervals of differences held
  the truth in 89 % of cases with 10 images, 93 % with 40. A variant's own interval also sits 1 to 2 AP high.
- Folds share training images, so runs of different folds are not independent.
- Each interval is on its own; with many variants some will miss zero by chance.
"""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg.errors import UserError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
RunKey = tuple[int, int]  # (fold, seed)
Kind = Literal["box", "mask"]

_MAX_DETECTIONS = 100
_CHUNK = 2_000_000  # numbers held at once by a chunk of resamples


@dataclass(frozen=True, eq=False)
class _Category:
    """Matches of one category, its D detections in falling order of score."""

    image: Integers  # (D,) index of each detection's image
    positives: Floats  # (I,) ground truth objects that count, in each image
    hits: tuple[Integers, ...]  # for each IoU threshold, the ranks of the true positives
    ignored: tuple[Integers, ...]  # for each IoU threshold, the ranks of the ignored detections


@dataclass(frozen=True, eq=False)
class Matches:
    """Which detections of one run are right, at each IoU threshold.

    Attributes:
        image_ids: (I,) ids of the images, the order of the weights in :func:`average_precision`.
        categories: one entry a category with ground truth or detections.
        recall_thresholds: (R,) recalls at which precision is read.
    """

    image_ids: Integers
    categories: tuple[_Category, ...]
    recall_thresholds: Floats


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % percentile interval, in percent AP."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """AP in percent of two variants, over the runs that both have."""

    a: Interval
    b: Interval
    difference: Interval  # a - b
    pairs: int  # (fold, seed) pairs that both have


def match(ground_truth: COCO, predictions: list[dict[str, Any]], kind: Kind) -> Matches:
    """Match predictions to ground truth as COCO does, all object sizes, 100 detections an image and category.

    Args:
        ground_truth: the index of the annotations.
        predictions: COCO results with ``image_id, category_id, score, bbox`` and, for masks,
            ``segmentation``; may be empty.
        kind: whose IoU decides, the boxes' or the masks'.
    """
    detected = COCO()
    detected.dataset = {
        "images": ground_truth.dataset["images"],
        "categories": ground_truth.dataset["categories"],
        # Area only matters to COCO's size ranges, and "all" holds every area.
        "annotations": [
            {**prediction, "id": number, "area": 1.0, "iscrowd": 0}
            for number, prediction in enumerate(predictions, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        detected.createIndex()
        evaluator = COCOeval(ground_truth, detected, "bbox" if kind == "box" else "segm")
        evaluator.params.areaRng = [[0, 1e10]]
        evaluator.params.areaRngLbl = ["all"]
        evaluator.params.maxDets = [_MAX_DETECTIONS]
        evaluator.evaluate()
    return collect(evaluator)


def collect(evaluator: COCOeval) -> Matches:
    """The matches of a ``COCOeval`` after its ``evaluate()``: area "all", at most 100 detections."""
    parameters = evaluator._paramsEval
    image_count = len(parameters.imgIds)
    category_count = len(parameters.catIds) if parameters.useCats else 1
    area = parameters.areaRngLbl.index("all")
    categories = []
    for category in range(category_count):
        start = (category * len(parameters.areaRng) + area) * image_count
        entries = evaluator.evalImgs[start : start + image_count]
        if any(entry is not None for entry in entries):
            categories.append(_category(entries, len(parameters.iouThrs)))
    return Matches(
        np.asarray(parameters.imgIds, dtype=np.int64),
        tuple(categories),
        np.asarray(parameters.recThrs, dtype=np.float64),
    )


def _category(entries: list[dict[str, Any] | None], thresholds: int) -> _Category:
    image: list[int] = []
    scores: list[float] = []
    matched = [np.zeros((thresholds, 0), dtype=bool)]
    ignored = [np.zeros((thresholds, 0), dtype=bool)]
    positives = np.zeros(len(entries))
    for index, entry in enumerate(entries):
        if entry is None:
            continue
        found = entry["dtScores"][:_MAX_DETECTIONS]
        image += [index] * len(found)
        scores += found
        matched.append(np.asarray(entry["dtMatches"])[:, : len(found)] != 0)
        ignored.append(np.asarray(entry["dtIgnore"])[:, : len(found)] != 0)
        positives[index] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
    # COCOeval's own order: stable, so ties keep the order of the images.
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="mergesort")
    is_matched = np.concatenate(matched, axis=1)[:, order]
    is_ignored = np.concatenate(ignored, axis=1)[:, order]
    return _Category(
        image=np.asarray(image, dtype=np.int64)[order],
        positives=positives,
        hits=tuple(np.flatnonzero(row) for row in is_matched & ~is_ignored),
        ignored=tuple(np.flatnonzero(row) for row in is_ignored),
    )


def average_precision(matches: Matches, weights: NDArray[Any] | None = None) -> Floats:
    """AP over IoU 0.50:0.95 with every image counted as often as its weight says.

    As in COCO, AP is the mean over the categories that have ground truth (here: in images of weight > 0).

    Args:
        weights: (B, I) non-negative image weights, a row a resample; default one row of ones.

    Returns:
        (B,) AP in percent; nan where no image of weight > 0 holds ground truth.
    """
    if weights is None:
        weights = np.ones((1, len(matches.image_ids)))
    longest = max((len(category.image) for category in matches.categories), default=0)
    rows = max(1, _CHUNK // max(1, longest))
    chunks = []
    for start in range(0, len(weights), rows):
        chunk = np.asarray(weights[start : start + rows], dtype=np.float64)
        per_category = [_category_precision(c, chunk, matches.recall_thresholds) for c in matches.categories]
        table = np.asarray(per_category).reshape(-1, len(chunk))
        counted = ~np.isnan(table)
        total = np.where(counted, table, 0.0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            chunks.append(100 * total / counted.sum(axis=0))
    return np.concatenate(chunks)


def _category_precision(category: _Category, weights: Floats, recalls: Floats) -> Floats:
    """(B,) AP of one category as a fraction; nan where it has no ground truth."""
    positives = weights @ category.positives
    by_detection = weights[:, category.image]
    seen = np.cumsum(by_detection, axis=1)
    total = np.zeros(len(weights))
    for hits, ignored in zip(category.hits, category.ignored, strict=True):
        # Precision only rises at a true positive, so its envelope needs no other rank.
        if not len(hits):
            continue
        true = np.cumsum(by_detection[:, hits], axis=1)
        counted = seen[:, hits]
        if len(ignored):
            passed = np.cumsum(by_detection[:, ignored], axis=1)
            passed = np.concatenate([np.zeros((len(weights), 1)), passed], axis=1)
            counted -= passed[:, np.searchsorted(ignored, hits)]
        precision = true / (counted + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = true / np.maximum(positives, np.spacing(1))[:, None]
        # Recall thresholds first reached at this hit: COCO reads the envelope once for each of them.
        reached = np.searchsorted(recalls, recall, side="right")
        total += (np.diff(reached, axis=1, prepend=0) * envelope).sum(axis=1)
    result = total / (len(category.hits) * len(recalls))
    return np.where(positives > 0, result, np.nan)


@lru_cache(maxsize=512)
def _replicates(matches: Matches, fold: int, resamples: int, seed: int) -> Floats:
    """(1 + resamples,) AP of one run: first as it is, then on resampled images.

    The draw depends on fold and seed only, which pairs the runs. Cached: the baseline meets every variant.
    """
    count = len(matches.image_ids)
    random = np.random.default_rng([seed, 1, fold])
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    return average_precision(matches, np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn]))


def _run_shares(keys: list[RunKey], resamples: int, seed: int) -> Floats:
    """(resamples, len(keys)) share of each run in a replicate: folds are drawn, then seeds within them."""
    random = np.random.default_rng([seed, 0])
    folds = sorted({fold for fold, _ in keys})
    counts = np.zeros((resamples, len(keys)))
    per_fold = random.multinomial(len(folds), np.full(len(folds), 1 / len(folds)), size=resamples)
    for column, fold in enumerate(folds):
        members = np.asarray([index for index, key in enumerate(keys) if key[0] == fold])
        draws = per_fold[:, column] * len(members)
        counts[:, members] = random.multinomial(draws, np.full(len(members), 1 / len(members)))
    return counts / counts.sum(axis=1, keepdims=True)


def _mean_over_runs(
    runs: Mapping[RunKey, Matches], keys: list[RunKey], resamples: int, seed: int
) -> tuple[float, Floats]:
    """Plain mean of AP over the runs, and the same mean in each replicate."""
    table = np.stack([_replicates(runs[key], key[0], resamples, seed) for key in keys], axis=1)
    shares = _run_shares(keys, resamples, seed)
    # A run of share 0 may be nan in this replicate; it must not spoil the others.
    replicates = np.where(shares > 0, table[1:] * shares, 0.0).sum(axis=1)
    return float(table[0].mean()), replicates


def _interval(value: float, replicates: Floats) -> Interval:
    finite = replicates[~np.isnan(replicates)]
    low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (np.nan, np.nan)
    return Interval(value, float(low), float(high))


def own_interval(runs: Mapping[RunKey, Matches], resamples: int = 1000, seed: int = 0) -> Interval:
    """Mean AP of one variant over its runs, with a 95 % interval over images, seeds and folds.

    Args:
        runs: the variant's matches by (fold, seed), at least one; runs of a fold have the same images.
        resamples, seed: as in :func:`paired_difference`.
    """
    return _interval(*_mean_over_runs(runs, sorted(runs), resamples, seed))


def paired_difference(
    runs_a: Mapping[RunKey, Matches],
    runs_b: Mapping[RunKey, Matches],
    resamples: int = 1000,
    seed: int = 0,
) -> PairedDifference:
    """How much better variant a is than variant b, over the (fold, seed) pairs that both have.

    Each replicate draws, with replacement, first folds and seeds within them (where there is more than one),
    then the images of each fold. Both variants, and all seeds of a fold, see the same images. The value is
    the plain mean over the pairs; replicates without any ground truth are left out. For what the interval
    does not cover, see the head of this module.

    Args:
        runs_a, runs_b: matches of the two variants by (fold, seed).
        resamples, seed: number of bootstrap replicates, and the bootstrap's own seed.

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
    value_a, replicates_a = _mean_over_runs(runs_a, keys, resamples, seed)
    value_b, replicates_b = _mean_over_runs(runs_b, keys, resamples, seed)
    difference = _interval(value_a - value_b, replicates_a - replicates_b)
    return PairedDifference(_interval(value_a, replicates_a), _interval(value_b, replicates_b), difference, len(keys))

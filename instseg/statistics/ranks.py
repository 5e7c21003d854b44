"""How sure the order of heads is: probability of being best, intervals of ranks, probability of improvement.

These numbers describe; they are no tests, are not corrected for the number of heads, and give no verdict.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
RESAMPLES = 2000
"""Bootstrap replicates of the probability of improvement."""


class Ranks(NamedTuple):
    """What resampling says of the ranks of V heads; rank 1 is the highest score, and ties have their mean rank.

    Attributes:
        best: (V,) probability of being best; heads that tie for it share it.
        mean, low, high: (V,) of the rank, the latter two as a 95 % interval.
    """

    best: Floats
    mean: Floats
    low: Floats
    high: Floats


class Improvement(NamedTuple):
    """Probability that a run of a head is better than one of its rival, with a 95 % interval that is nan where there is
    nothing to resample."""

    value: float
    low: float
    high: float


def ranks(scores: Floats, seed: int = 0) -> Ranks:
    """Ranks of heads by their mean over units, on resamples of the images and the units (:func:`resampled_means`).

    Args:
        scores: (V, U, 1 + B) of V heads on U units (seeds, or folds), the same units for all: on the images as they
            are, then on B resamples of them. Resamples on which a score is nan are left out.
        seed: the bootstrap's own.
    """
    means = resampled_means(scores, seed)
    by_rank = stats.rankdata(-means, axis=0)
    highest = means == means.max(axis=0)
    low, high = np.quantile(by_rank, [0.025, 0.975], axis=1, method="inverted_cdf")
    return Ranks((highest / highest.sum(axis=0)).mean(axis=1), by_rank.mean(axis=1), low, high)


def resampled_means(scores: Floats, seed: int = 0) -> Floats:
    """(V, B) means over units, on images and units that are drawn again, the same ones for all heads.

    To the mean on the images as they are, two deviations are added:

    - of the units: U of them are drawn with replacement. A mean of U draws from U values has (U - 1) / U of the
      variance of a mean of U units, so its deviation is scaled by sqrt(U / (U - 1)); and as that variance is itself
      estimated from U units, by sqrt((U - 1) / x) with x drawn from chi-squared with U - 1 degrees of freedom, which
      gives Student's tails. Without the latter, one of two equal heads would be called best with a probability above
      97.5 % in 38 % of studies of two seeds, and in 13 % of five; with it in about 5 %, as it should be;
    - of the images: of the mean over all units on a resample of the images. What the images do to each unit by itself
      is in the spread of the units already, as all of it is where units are folds with images of their own. So the
      deviation is scaled by the root of the share of its variance that the units have in common, of all heads together
      (:func:`instseg.statistics.estimate.estimate` takes the same apart).

    What the common training images of folds add is not in it. With a single unit only the images are drawn.

    Args:
        scores, seed: as in :func:`ranks`.
    """
    units = scores.shape[1]
    values, replicates = scores[:, :, 0], scores[:, :, 1:]
    replicates = replicates[:, :, ~np.isnan(replicates).any(axis=(0, 1))]
    by_images = replicates.mean(axis=1) - values.mean(axis=1, keepdims=True)
    if units == 1:
        return np.asarray(values + by_images)
    random, number = np.random.default_rng([seed, 2]), replicates.shape[2]
    drawn = random.multinomial(units, np.full(units, 1 / units), size=number) / units
    scale = np.sqrt(units / random.chisquare(units - 1, size=number))
    by_units = scale * ((values - values.mean(axis=1, keepdims=True)) @ drawn.T)
    common = np.sqrt(_common_share(replicates))
    return np.asarray(values.mean(axis=1, keepdims=True) + by_units + common * by_images)


def _common_share(replicates: Floats) -> float:
    """Of the variance over resamples of the images of the means over units, the share that the units have in common;
    (V, U, B), of differences between heads, as nothing else changes ranks."""
    centred = replicates - replicates.mean(axis=0)
    means = centred.mean(axis=1, keepdims=True)
    of_means = float(means.var(axis=2).sum())
    of_units = float((centred - means).var(axis=2).mean(axis=1).sum()) / (replicates.shape[1] - 1)
    return max(0.0, 1 - of_units / of_means) if of_means > 0 else 0.0


def improvement(runs: Sequence[Floats], rival_runs: Sequence[Floats], seed: int = 0) -> Improvement:
    """The probability that a run of a head is better than a run of its rival on the same test set, the mean over test
    sets (Agarwal et al., *Deep Reinforcement Learning at the Edge of the Statistical Precipice*, NeurIPS 2021).

    On a test set it is the share of all pairs of runs, one of each side, in which the head's is better; ties count one
    half. The interval is the percentile bootstrap's: of test sets where there are several, as elsewhere folds are the
    units, else of the runs of each side. Where all pairs end alike it has no width.

    Args:
        runs: for each test set the scores of the head's runs, (S,).
        rival_runs: the same of its rival, (R,).
        seed: the bootstrap's own.
    """
    random = np.random.default_rng([seed, 3])
    by_test = np.array([_better(own, other) for own, other in zip(runs, rival_runs, strict=True)])
    value = float(by_test.mean())
    if len(by_test) > 1:
        drawn = by_test[random.integers(0, len(by_test), (RESAMPLES, len(by_test)))].mean(axis=1)
    elif len(runs[0]) == len(rival_runs[0]) == 1:
        return Improvement(value, np.nan, np.nan)
    else:
        sides = [side[random.integers(0, len(side), (RESAMPLES, len(side)))] for side in (runs[0], rival_runs[0])]
        drawn = _better(*sides)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Improvement(value, float(low), float(high))


def _better(scores: Floats, rival_scores: Floats) -> Floats:
    """(...) share of pairs of (..., S) and (..., R) in which the first is higher, ties as one half."""
    differences = scores[..., :, None] - rival_scores[..., None, :]
    return np.asarray((0.5 + 0.5 * np.sign(differences)).mean(axis=(-2, -1)))

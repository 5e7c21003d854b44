"""What a study could tell, before it is run: chances of its verdicts, from how a difference between two heads spreads.

The measured difference and the estimates of its error are drawn as they would come out of a study of a given design,
and judged by the suite's own rule (:mod:`instseg.statistics.estimate`, :mod:`instseg.statistics.verdict`): the interval
is Bonferroni's for the number of differences that are judged together. What Holm adds where several heads differ is
left out, so the chances are a little too low there. All that spreads is taken for normally distributed, and folds for
drawn by themselves: where their common training images make them alike, their mean varies more than is drawn here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from instseg.statistics.verdict import ALPHA, MARGIN

Floats = NDArray[np.float64]
_DRAWS = 20_000
_MOST_IMAGES, _MOST_FOLDS = 1_000_000, 1_000


@dataclass(frozen=True)
class Spreads:
    """What a difference between two heads varies by, as standard deviations in AP points.

    Attributes:
        images: over draws of a fold's test images, alike for all seeds.
        training: over seeds, on all test images alike.
        seed_images: over the same draws of images, of each seed by itself.
        training_set: over the training sets of folds, on all test images and seeds alike.
        test_images: of a fold, that ``images`` and ``seed_images`` are for; both fall with the root of their number.
    """

    images: float
    training: float
    seed_images: float = 0.0
    training_set: float = 0.0
    test_images: int = 100

    def variances(self, test_images: int) -> tuple[float, float, float, float]:
        """The squares of images, training, seed_images and training_set, for a fold of so many test images."""
        scale = self.test_images / test_images
        return scale * self.images**2, self.training**2, scale * self.seed_images**2, self.training_set**2

    def of_images(self, test_images: int) -> "Spreads":
        """The same for a fold of so many test images."""
        roots = map(math.sqrt, self.variances(test_images))
        return Spreads(**dict(zip(PARTS, roots, strict=True)), test_images=test_images)


PARTS = tuple(field.name for field in fields(Spreads) if field.name != "test_images")
"""The names of the four spreads, in the order of their variances."""


@dataclass(frozen=True)
class Design:
    """How much a study runs of the two heads of a difference.

    Attributes:
        seeds: in each fold.
        images: test images of a fold.
        folds: their number.
        baseline_seeds: those of the rival where it has others than the head; None: the same seeds, which are paired.
    """

    seeds: int
    images: int
    folds: int = 1
    baseline_seeds: int | None = None

    @property
    def units(self) -> int:
        """Number of folds or, with one fold, of seeds that the error is seen by; below 2 there is no verdict."""
        return self.folds if self.folds > 1 else min(count for count, _ in self.sides())

    def sides(self) -> list[tuple[int, float]]:
        """The seeds of each side, and its share of what the seeds of a difference vary by: unpaired, half each, as if
        the heads' trainings varied alike and by themselves."""
        if self.baseline_seeds in (None, self.seeds):
            return [(self.seeds, 1.0)]
        return [(self.seeds, 0.5), (self.baseline_seeds or 0, 0.5)]


class Chances(NamedTuple):
    """Probabilities of the verdicts; what is left to 1 is undecided."""

    better: float
    worse: float
    equivalent: float


@dataclass(frozen=True)
class Outlook:
    """What may come out of a design.

    Attributes:
        deviations: of the measured difference from the true one, in AP points, of each of many studies.
        half_widths: of the corrected interval in these studies; infinite where there is no verdict.
        margin: AP points within which heads are equivalent.
    """

    deviations: Floats
    half_widths: Floats
    margin: float

    @classmethod
    def of(cls, spreads: Spreads, design: Design, comparisons: int = 1, margin: float = MARGIN) -> "Outlook":
        """Draw 20,000 studies, always the same; ``comparisons``: number of differences that are judged together."""
        if design.units < 2 or design.images < 2:
            return cls(np.zeros(1), np.full(1, math.inf), margin)
        random = np.random.default_rng(0)
        of_folds = _one_fold if design.folds == 1 else _several_folds
        error, squares = of_folds(random, spreads, design, ALPHA / comparisons)
        return cls(error * random.standard_normal(_DRAWS), np.sqrt(squares), margin)

    def chances(self, difference: float) -> Chances:
        """Of the verdicts, where the true difference is so many AP points."""
        low, high = (difference + self.deviations + sign * self.half_widths for sign in (-1, 1))
        equivalent = (-self.margin < low) & (high < self.margin)
        better, worse = (low > 0) & ~equivalent, (high < 0) & ~equivalent
        return Chances(float(better.mean()), float(worse.mean()), float(equivalent.mean()))

    def detectable(self, power: float) -> float:
        """The smallest true difference, in AP points, that gets the verdict better with probability ``power``; infinite
        where none does."""
        # the interval must exclude 0, and not lie inside the margin
        needed = np.maximum(self.half_widths, self.margin - self.half_widths) - self.deviations
        return max(0.0, float(np.quantile(needed, power, method="higher")))


def _one_fold(random: np.random.Generator, spreads: Spreads, design: Design, alpha: float) -> tuple[float, Floats]:
    """Standard error of the mean difference, and drawn squares of the half-width; seeds are the units."""
    images, training, seed_images, _ = spreads.variances(design.images)
    df = design.images - 1
    per_seed = sum(share / seeds for seeds, share in design.sides())
    by_images = _estimates(random, images + seed_images * per_seed, df)
    squares = np.zeros(_DRAWS)
    for seeds, share in design.sides():
        by_images -= _estimates(random, share * seed_images, df * (seeds - 1)) / seeds
        squares += _t_square(alpha, seeds - 1) * _estimates(random, share * (training + seed_images), seeds - 1) / seeds
    squares += _t_square(alpha, df) * np.maximum(by_images, 0)
    return math.sqrt(images + (training + seed_images) * per_seed), squares


def _several_folds(random: np.random.Generator, spreads: Spreads, design: Design, alpha: float) -> tuple[float, Floats]:
    """The same where folds are the units, their seeds' mean inside."""
    images, training, seed_images, training_set = spreads.variances(design.images)
    folds = design.folds
    per_seed = sum(share / seeds for seeds, share in design.sides())
    of_images = images + seed_images * per_seed
    of_fold = of_images + training * per_seed + training_set
    # Nadeau and Bengio's correction, as in the suite's rule
    weight = 1 / folds + 1 / (folds - 1)
    squares = _t_square(alpha, folds - 1) * weight * _estimates(random, of_fold, folds - 1)
    return math.sqrt(of_fold / folds), squares


def _estimates(random: np.random.Generator, variance: float, df: float) -> Floats:
    """Sample variances with so many degrees of freedom."""
    return variance * random.chisquare(df, _DRAWS) / df


def _t_square(alpha: float, df: float) -> float:
    return float(special.stdtrit(df, alpha / 2)) ** 2


def images_needed(
    spreads: Spreads, design: Design, difference: float, power: float, comparisons: int = 1, margin: float = MARGIN
) -> int | None:
    """About the least number of test images of a fold, from the design's own on, with which it tells a true difference
    with probability ``power``; None where no number up to a million does."""

    def tells(images: int) -> bool:
        outlook = Outlook.of(spreads, replace(design, images=images), comparisons, margin)
        return outlook.detectable(power) <= difference

    return _least(tells, design.images, _MOST_IMAGES)


def folds_needed(
    spreads: Spreads, design: Design, difference: float, power: float, comparisons: int = 1, margin: float = MARGIN
) -> int | None:
    """The same of folds, each with as many test images; None where no number up to a thousand does."""

    def tells(folds: int) -> bool:
        outlook = Outlook.of(spreads, replace(design, folds=folds), comparisons, margin)
        return outlook.detectable(power) <= difference

    return _least(tells, design.folds, _MOST_FOLDS)


def _least(tells: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number that tells, up to a hundredth of it too many."""
    if tells(low):
        return low
    if not tells(high):
        return None
    while high - low > max(1, low // 100):
        middle = round(math.sqrt(low * high)) if high > 4 * low else (low + high) // 2
        low, high = (low, middle) if tells(middle) else (middle, high)
    return high

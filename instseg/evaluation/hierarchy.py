"""Errors of means over seeds or folds (outside) and images (inside), and Holm's correction for several of them.

A difference of two heads has an error of its own for the draw of test images, which all seeds share, and one for
the draw of seeds or folds. The bootstrap over images gives the first; the second is what the units (seeds, or folds)
differ by more than the images alone explain. With few units the second is itself uncertain, so the interval is
Student's, with Satterthwaite's degrees of freedom (Biometrics Bulletin, 1946): this is the analysis of variance of
crossed random effects, with the bootstrap in the place of the mean squares of images. A bootstrap over units would
see only (n - 1) / n of their variance and take it for certain. ``results/README.md`` has the false-alarm rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error.

    Attributes:
        value: in percent AP.
        error: standard error; nan where it can't be told.
        freedom: degrees of freedom of Student's t that ``(value - truth) / error`` follows.
    """

    value: float
    error: float
    freedom: float

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """The interval that misses the truth with probability ``alpha``."""
        if math.isnan(self.error) or self.error == 0:
            return self.value + self.error, self.value + self.error
        half = float(stats.t.isf(alpha / 2, self.freedom)) * self.error
        return self.value - half, self.value + half

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.interval()[1]

    @property
    def p(self) -> float:
        """Two-sided p-value of the value 0; below alpha where :meth:`interval` excludes 0."""
        if math.isnan(self.error):
            return math.nan
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))


def estimate(values: Floats, replicates: Floats, units: Sequence[int], images: int, sets: int = 1) -> Estimate:
    """Mean over runs, with the error that images and units give it.

    Args:
        values: (R,) a number of each run.
        replicates: (B, R) the same on B resamples of the images; runs on the same images, on the same resamples.
        units: the seed or fold that each run belongs to: R numbers; runs of a unit are no independent draws.
            With a single unit the error covers the images only.
        images: number of images, all sets together.
        sets: number of sets that images are drawn within.
    """
    names, member, counts = np.unique(np.asarray(units), return_inverse=True, return_counts=True)
    replicates = replicates[~np.isnan(replicates).any(axis=1)]
    mean = float(values.mean())
    freedom = min(images - sets, len(replicates) - 1)
    if freedom < 1:
        return Estimate(mean, math.nan, math.nan)
    # n draws out of n show (n - 1) / n of the variance
    scale = images / (images - sets)
    of_images = scale * float(replicates.mean(axis=1).var(ddof=1))
    number = len(names)
    if number == 1:
        return Estimate(mean, math.sqrt(of_images), freedom)

    share = np.eye(number)[member] / counts[member, None]  # (R, U): mean over each unit's runs
    per_unit = replicates @ share
    # what the units would differ by if only images told them apart
    around = per_unit - per_unit.mean(axis=1, keepdims=True)
    expected = scale * float(around.var(axis=0, ddof=1).mean()) * number / (number - 1)
    seen = float((values @ share).var(ddof=1))
    weight = float(((counts / counts.sum()) ** 2).sum())  # 1 / U where all have as many runs
    variance = of_images + max(0.0, seen - expected) * weight
    spread = of_images**2 / freedom + (seen * weight) ** 2 / (number - 1)
    satterthwaite = variance**2 / spread if spread > 0 else freedom
    return Estimate(mean, math.sqrt(variance), float(np.clip(satterthwaite, min(number - 1, freedom), freedom)))


def holm(p: Sequence[float]) -> list[float]:
    """By how much to multiply each of m p-values so that the chance of any false alarm among them stays below alpha
    (Holm, Scandinavian Journal of Statistics, 1979).

    ``min(1, p * factor)`` is Holm's corrected p-value, and ``estimate.interval(alpha / factor)`` the interval that
    excludes 0 exactly where it is below alpha. The factors lie between 1 and m; nan stays nan and doesn't count.
    """
    factors = [math.nan] * len(p)
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    highest = 0.0
    for rank, (value, index) in enumerate(known):
        highest = max(highest, (len(known) - rank) * value)
        factors[index] = highest / value if value > 0 else float(len(known) - rank)
    return factors

"""Errors of means over seeds or folds (outside) and images (inside).

A difference of two heads has an error of its own for the draw of test images, which all seeds share, and one for
the draw of seeds or folds. The bootstrap over images gives the first; the second is what the units (seeds, or folds)
differ by more than the images alone explain. With few units the second is itself uncertain, so the interval is
Student's, with Satterthwaite's degrees of freedom (Biometrics Bulletin, 1946): this is the analysis of variance of
crossed random effects, with the bootstrap in the place of the mean squares of images. A bootstrap over units would
show only (n - 1) / n of their variance and take it for certain. ``results/README.md`` has the false-alarm rates.

Where several variants are compared with one baseline over the same units, the variance between units is estimated from
all of them together (:func:`between_units`), as Dunnett pools the error of treatments (Journal of the American
Statistical Association, 1955): twelve heads on two seeds have 12 degrees of freedom for it, one head has 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
_ROUNDING = 1e-18
_SAME = 1e-9
"""In percent AP; what is smaller is rounding."""


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error.

    Attributes:
        value: in percent AP.
        error: standard error; nan where it can't be estimated.
        df: degrees of freedom of Student's t that ``(value - truth) / error`` follows.
    """

    value: float
    error: float
    df: float

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """The interval that misses the truth with probability ``alpha``."""
        if self.error == 0:
            exact = 0.0 if abs(self.value) < _SAME else self.value
            return exact, exact
        if math.isnan(self.error):
            return math.nan, math.nan
        half = float(stats.t.isf(alpha / 2, self.df)) * self.error
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
            return 1.0 if abs(self.value) < _SAME else 0.0
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.df))


UNKNOWN = Estimate(math.nan, math.nan, math.nan)
"""Where there is nothing to estimate."""


class Spread(NamedTuple):
    """How far units lie apart in the difference of two variants.

    Attributes:
        observed: variance of the units' differences.
        expected: what it would be if images alone made the units differ.
        df: degrees of freedom of ``observed``.
    """

    observed: float
    expected: float
    df: int


def between_units(values: Floats, replicates: Floats, units: Sequence[int], images: int, sets: int = 1) -> Spread:
    """The spread between units in the difference of any two of several variants, assumed equal for all of them: twice
    the mean square of the interaction of variants and units.

    Args:
        values: (R, H) a number of each run of each variant, two variants or more over two units or more.
        replicates: (B, R, H) the same on B resamples of the images.
        units, images, sets: as for :func:`estimate`.
    """
    share = _share(units)
    replicates = replicates[~np.isnan(replicates).any(axis=(1, 2))]
    df = (values.shape[1] - 1) * (share.shape[1] - 1)
    around = replicates - replicates.mean(axis=0)
    scale = images / (images - sets) * len(around) / max(1, len(around) - 1)

    def squares(runs: Floats) -> Floats:
        table = np.einsum("...rh,ru->...uh", runs, share)
        table = table - table.mean(axis=-1, keepdims=True)
        table = table - table.mean(axis=-2, keepdims=True)
        return np.asarray((table**2).sum(axis=(-1, -2)))

    return Spread(2 * float(squares(values)) / df, 2 * scale * float(squares(around).mean()) / df, df)


def _share(units: Sequence[int]) -> Floats:
    """(R, U): the weight of each run in its unit's mean."""
    names, member, counts = np.unique(np.asarray(units), return_inverse=True, return_counts=True)
    return np.asarray(np.eye(len(names))[member] / counts[member, None])


def estimate(
    values: Floats, replicates: Floats, units: Sequence[int], images: int, sets: int = 1, spread: Spread | None = None
) -> Estimate:
    """Mean over runs, with the error that images and units give it.

    Args:
        values: (R,) a number of each run.
        replicates: (B, R) the same on B resamples of the images; runs on the same images, on the same resamples.
        units: the seed or fold that each run belongs to: R numbers; runs of a unit are no independent draws.
            With a single unit the error covers the images only.
        images: number of images, all sets together.
        sets: number of sets that images are drawn within.
        spread: between units, where it was estimated from more than these values.
    """
    counts = np.unique(np.asarray(units), return_counts=True)[1]
    replicates = replicates[~np.isnan(replicates).any(axis=1)]
    mean = float(values.mean())
    df = min(images - sets, len(replicates) - 1)
    if df < 1:
        return Estimate(mean, math.nan, math.nan)
    # the variance of n draws from n values is (n - 1) / n of the values' own
    scale = images / (images - sets)
    of_images = scale * float(replicates.mean(axis=1).var(ddof=1))
    number = len(counts)
    if number == 1:
        return Estimate(mean, math.sqrt(of_images), df)

    if spread is None:
        share = _share(units)
        per_unit = replicates @ share
        # what the units would differ by if images alone made them differ
        around = per_unit - per_unit.mean(axis=1, keepdims=True)
        expected = scale * float(around.var(axis=0, ddof=1).mean()) * number / (number - 1)
        spread = Spread(float((values @ share).var(ddof=1)), expected, number - 1)
    weight = float(((counts / counts.sum()) ** 2).sum())  # 1 / U where all have as many runs
    variance = of_images + max(0.0, spread.observed - spread.expected) * weight
    square = of_images**2 / df + (spread.observed * weight) ** 2 / spread.df
    satterthwaite = variance**2 / square if square > 0 else df
    if variance < _ROUNDING:
        # heads on the same boxes have the same box AP
        return Estimate(mean, 0.0, df)
    least = min(spread.df, df)
    return Estimate(mean, math.sqrt(variance), float(np.clip(satterthwaite, least, df)))

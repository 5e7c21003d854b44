"""Errors of means over seeds or folds (outside) and images (inside), and intervals that keep their promise.

The error of a difference between two heads has two parts, each estimated by itself:

- what the draw of the test images does to all seeds alike: from the bootstrap over images;
- what the seeds (or folds) differ by: the sample variance of their differences, divided by their number. It holds
  what a seed does and what the images do to it alone, and needs no bootstrap. Folds share training images, so that
  their mean is less certain than their spread says: in place of 1 / folds stands 1 / folds + test images / training
  images (Nadeau and Bengio, *Inference for the Generalization Error*, Machine Learning, 2003).

Each part has its own degrees of freedom: many for images, U - 1 for U seeds or folds. The half-width of the interval is
the root of the sum of (t² · variance) over the parts, with Student's t of the part. Banerjee (*Approximate confidence
interval for linear functions of means of k populations when the population variances are not equal*, Sankhya, 1960)
proved that such an interval holds the truth at least as often as it says, however the parts compare; Satterthwaite's
degrees of freedom, which are more usual, raise up to three times the promised false alarms with two seeds.

Every difference has its own spread: nothing is pooled over heads, as some are hundreds of times as restless as others.
``docs/statistics.md`` has the error rates, and the command that counts them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]
_ROUNDING = 1e-18
_SAME = 1e-9
"""In percent AP; what is smaller is rounding."""
_SMALLEST_P = 1e-15


class Part(NamedTuple):
    """A part of the squared error of a value.

    Attributes:
        variance: its estimate.
        df: degrees of freedom of that estimate.
    """

    variance: float
    df: float


@dataclass(frozen=True)
class Estimate:
    """A value with the parts of its squared error.

    Attributes:
        value: in percent AP.
        parts: independent of each other; none where the error can't be estimated.
    """

    value: float
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, value: float, error: float, df: float) -> "Estimate":
        """A value whose standard error is estimated as a whole, with ``df`` degrees of freedom; nan: not known."""
        return cls(value, () if math.isnan(error) else (Part(error**2, df),))

    @property
    def error(self) -> float:
        """Standard error; nan where it can't be estimated."""
        return math.sqrt(sum(part.variance for part in self.parts)) if self.parts else math.nan

    @property
    def df(self) -> float:
        """Degrees of freedom of the error as a whole, by Satterthwaite; nan where there is no error."""
        square = sum(part.variance**2 / part.df for part in self.parts)
        return self.error**4 / square if square > 0 else min((part.df for part in self.parts), default=math.nan)

    def half_width(self, alpha: float) -> float:
        """Of the interval that misses the truth with probability ``alpha`` or less; nan where it can't be told."""
        if not self.parts:
            return math.nan
        return math.sqrt(sum(float(special.stdtrit(df, alpha / 2)) ** 2 * variance for variance, df in self.parts))

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """The interval that misses the truth with probability ``alpha`` or less."""
        if self.error == 0:
            exact = 0.0 if abs(self.value) < _SAME else self.value
            return exact, exact
        half = self.half_width(alpha)
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
        """Two-sided p-value of the value 0: the alpha whose :meth:`interval` ends at 0, 1e-15 at least."""
        if not self.parts:
            return math.nan
        if self.error == 0:
            return 1.0 if abs(self.value) < _SAME else 0.0
        value = abs(self.value)
        if len(self.parts) == 1:
            return 2 * float(special.stdtr(self.parts[0].df, -value / self.error))

        def beyond(exponent: float) -> float:
            return self.half_width(math.exp(exponent)) - value

        lowest = math.log(_SMALLEST_P)
        if beyond(lowest) <= 0:
            return _SMALLEST_P
        return math.exp(optimize.brentq(beyond, lowest, 0.0, xtol=1e-12))

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """The smallest true difference that would have been told from 0 with this error, at level ``alpha`` with
        probability ``power``."""
        return self.half_width(alpha) + self.half_width(2 * (1 - power))


UNKNOWN = Estimate(math.nan, ())
"""Where there is nothing to estimate."""


class Side(NamedTuple):
    """Values of one or more units (seeds, or folds), whose mean goes into an estimate.

    Attributes:
        values: (U,) a number of each unit.
        replicates: (B, U) the same on B resamples of the images.
        sign: 1, or -1 where the mean is subtracted.
    """

    values: Floats
    replicates: Floats
    sign: int = 1


def estimate(sides: Sequence[Side], images: int, sets: int = 1, shared_training: float = 0.0) -> Estimate:
    """The sum of the sides' means, with the error that images and units give it.

    One side is enough where units are paired: its values then are differences. Two sides are for seeds that are drawn
    for each by itself, such as those of a head and of a baseline that has more of them.

    Args:
        sides: on the same resamples. A side of a single unit says nothing of how units differ.
        images: number of images, all sets together.
        sets: number of sets that images are drawn within; more than one: each unit has a set of its own, so that no
            image moves several units.
        shared_training: by Nadeau and Bengio, test images over training images where units are folds whose training
            sets overlap; 0 where they share nothing.
    """
    value = float(sum(side.sign * side.values.mean() for side in sides))
    total = sum(side.sign * side.replicates.mean(axis=1) for side in sides)
    known = ~np.isnan(np.asarray(total))
    replicates = int(known.sum())
    df = min(images - sets, replicates - 1)
    if df < 1:
        return Estimate(value, ())
    # the variance of n draws from n values is (n - 1) / n of the values' own
    scale = images / (images - sets)
    of_all = scale * float(np.asarray(total)[known].var(ddof=1))
    parts = []
    for side in sides:
        number = len(side.values)
        if number < 2:
            continue
        around = side.replicates[known]
        around = around - around.mean(axis=1, keepdims=True)
        # what the units would differ by if images alone made them differ
        by_images = scale * float(around.var(axis=0, ddof=1).mean()) * number / (number - 1)
        observed = float(side.values.var(ddof=1))
        parts.append(Part(observed * (1 / number + shared_training), number - 1))
        of_all -= by_images / number
    if sets == 1 or not parts:
        parts.insert(0, Part(max(0.0, of_all), df))
    if sum(part.variance for part in parts) < _ROUNDING:
        # heads on the same boxes have the same box AP
        parts = [Part(0.0, df)]
    return Estimate(value, tuple(parts))

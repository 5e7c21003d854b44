"""Slopes of training curves, with errors that know that neighbouring points resemble each other."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from instseg.statistics.estimate import UNKNOWN, Estimate

BLOCKS = 10


def slope(times: ArrayLike, values: ArrayLike) -> Estimate:
    """The slope of a line by least squares through the means of at most ten blocks of neighbouring points.

    Residuals of neighbouring points are alike, and an error that took them for independent would be too small; means of
    blocks are nearly independent where blocks are longer than the memory of the residuals. Ten points or fewer are
    blocks of their own.

    Args:
        times, values: (N,) of a curve, in order; unknown below three points.
    """
    times, values = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(times) < 3:
        return UNKNOWN
    x, y = (
        np.array([part.mean() for part in np.array_split(points, min(BLOCKS, len(points)))])
        for points in (times, values)
    )
    x, y = x - x.mean(), y - y.mean()
    spread = float(x @ x)
    value = float(x @ y) / spread
    residuals = y - value * x
    df = len(x) - 2
    return Estimate.of(value, math.sqrt(float(residuals @ residuals) / df / spread), df)


def mean_over_runs(slopes: Sequence[Estimate]) -> Estimate:
    """The mean of several runs' slopes. Its error comes from the spread between the runs, or from their own errors
    where these are larger; of a single run it is the run's own, and says nothing of other runs."""
    known = [each for each in slopes if not math.isnan(each.error)]
    if not known:
        return UNKNOWN
    values = [each.value for each in known]
    number, mean = len(known), float(np.mean(values))
    within = sum(each.error**2 for each in known) / number**2
    between = float(np.var(values, ddof=1)) / number if number > 1 else 0.0
    if between > within:
        return Estimate.of(mean, math.sqrt(between), number - 1)
    return Estimate.of(mean, math.sqrt(within), sum(each.df for each in known))

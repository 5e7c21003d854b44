"""Slopes of curves: their values by hand, and how often their intervals miss the truth."""

import math

import numpy as np
import pytest

from instseg.statistics.estimate import Estimate
from instseg.statistics.trend import mean_over_runs, slope


def test_a_slope_is_that_of_least_squares_by_hand() -> None:
    found = slope([0, 1, 2, 3], [1.0, 2.0, 2.0, 4.0])
    # residuals 0.1, 0.2, -0.7, 0.4 around 0.9 + 0.9 x; squares of x around its mean add up to 5
    assert found.value == pytest.approx(0.9) and found.df == 2
    assert found.error == pytest.approx(math.sqrt((0.01 + 0.04 + 0.49 + 0.16) / 2 / 5))
    line = slope(range(100), np.arange(100) * 0.5 + 3)
    assert (line.value, line.df) == (pytest.approx(0.5), 8) and line.error == pytest.approx(0, abs=1e-9)
    assert math.isnan(slope([0, 1], [1.0, 2.0]).value)


def _misses(memory: float, runs: int, points: int = 200, tries: int = 1000) -> float:
    """How often the 95 % interval of a flat curve excludes 0, where noise forgets so slowly."""
    random = np.random.default_rng(0)
    count = 0
    for _ in range(tries):
        curves = random.standard_normal((runs, points))
        for i in range(1, points):
            curves[:, i] += memory * curves[:, i - 1]
        count += mean_over_runs([slope(range(points), curve) for curve in curves]).p < 0.05
    return count / tries


@pytest.mark.parametrize(("memory", "runs"), [(0.0, 1), (0.7, 1), (0.0, 3), (0.7, 3)])
def test_intervals_of_flat_curves_miss_0_about_as_often_as_they_say(memory: float, runs: int) -> None:
    assert _misses(memory, runs) < 0.08


def test_runs_that_differ_by_more_than_their_own_errors_widen_the_interval() -> None:
    alike = [Estimate.of(1.0, 0.2, 8), Estimate.of(1.1, 0.2, 8)]
    mean = mean_over_runs(alike)
    assert (mean.value, mean.df) == (pytest.approx(1.05), pytest.approx(16)) and mean.error == pytest.approx(
        0.2 / math.sqrt(2)
    )
    apart = mean_over_runs([*alike, Estimate.of(3.0, 0.2, 8)])
    spread = np.std([1.0, 1.1, 3.0], ddof=1) / math.sqrt(3)
    assert (apart.value, apart.df) == (pytest.approx(1.7), 2) and apart.error == pytest.approx(spread)
    assert math.isnan(mean_over_runs([]).value)

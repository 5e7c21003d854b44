"""Errors, intervals and Holm's correction against numbers worked out by hand and textbook examples."""

import math

import numpy as np
import pytest
from scipy import stats

from instseg.statistics.estimate import Estimate, Spread, between_units, estimate
from instseg.statistics.verdict import holm


def replicates(*columns: tuple[float, ...]) -> np.ndarray:
    return np.asarray(columns, dtype=np.float64).T


def test_one_unit_has_the_error_of_its_images_alone() -> None:
    """Variance of 1, 2, 3 is 1; times 10 / 9 for the draw with replacement; 3 resamples have 2 degrees of freedom."""
    found = estimate(np.array([2.5]), replicates((1, 2, 3)), [0], images=10)
    assert (found.value, found.error**2, found.df) == pytest.approx((2.5, 10 / 9, 2))
    many = replicates(tuple(np.arange(1000.0)))
    assert estimate(np.array([2.5]), many, [0], images=10).df == 9
    assert estimate(np.array([2.5]), many, [0], images=10, sets=2).df == 8


def test_units_by_hand() -> None:
    """Replicates 1, 3, 5 of a unit, a hundred times: variance 800 / 299; draws of 101 images show 100 / 101 of it."""
    moving, steady = (1, 3, 5) * 100, (3, 3, 3) * 100
    unit = 800 / 299 * 1.01
    # what moves both alike is the images' error; the units' values 1 and 5 have variance 8, their mean 4
    alike = estimate(np.array([1.0, 5.0]), replicates(moving, moving), [0, 1], images=101)
    assert (alike.value, alike.error**2) == pytest.approx((3, unit + 4))
    assert alike.df == pytest.approx((unit + 4) ** 2 / (unit**2 / 100 + 4**2 / 1))
    # what moves one alone is in the units' own variance already
    alone = estimate(np.array([1.0, 5.0]), replicates(moving, steady), [0, 1], images=101)
    assert (alone.error**2, alone.df) == pytest.approx((4, 1))
    three = estimate(np.array([1.0, 5.0, 3.0]), replicates(moving, steady, steady), [0, 1, 2], images=101)
    assert (three.error**2, three.df) == pytest.approx((4 / 3, 2))
    # units that differ less than their images explain add nothing
    close = estimate(np.array([3.0, 3.1]), replicates(moving, steady), [0, 1], images=101)
    assert close.error**2 == pytest.approx(unit / 4)


def test_the_spread_of_two_variants_is_that_of_their_difference() -> None:
    random = np.random.default_rng(0)
    values, runs = random.normal(size=(3, 2)), random.normal(size=(80, 3, 2))
    spread = between_units(values, runs, [0, 1, 2], images=50)
    assert (spread.observed, spread.df) == (pytest.approx((values[:, 0] - values[:, 1]).var(ddof=1)), 2)
    alone = estimate(values[:, 0] - values[:, 1], runs[..., 0] - runs[..., 1], [0, 1, 2], images=50)
    given = estimate(values[:, 0] - values[:, 1], runs[..., 0] - runs[..., 1], [0, 1, 2], images=50, spread=spread)
    assert (given.error, given.df) == (pytest.approx(alone.error), pytest.approx(alone.df))


def test_the_spread_of_several_variants_is_their_interaction_with_units() -> None:
    """Three heads on two seeds; the seeds' means differ by 2, which is no interaction. Left over are 1, -1, 0 and
    their opposites: mean square 4 / 2, and twice that in a difference."""
    values = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]) + np.array([[1.0], [-1.0]]) + np.array([30.0, 40.0, 50.0])
    assert between_units(values, np.zeros((20, 2, 3)), [0, 1], images=100) == Spread(pytest.approx(4.0), 0.0, 2)
    # folds with two seeds each count by their means
    folds = np.repeat(values, 2, axis=0) + np.array([[0.5], [-0.5], [0.5], [-0.5]])
    assert between_units(folds, np.zeros((20, 4, 3)), [0, 0, 1, 1], images=100) == Spread(pytest.approx(4.0), 0.0, 2)
    # images that move one head on one seed alone: variance 800 / 299, of which 2/3 · 1/2 is interaction
    moving = np.zeros((300, 2, 3))
    moving[:, 0, 0] = (1, 3, 5) * 100
    found = between_units(values, moving, [0, 1], images=101)
    assert found.expected == pytest.approx(2 * 800 / 299 * 1.01 * (2 / 3) * (1 / 2) / 2)


def test_seeds_of_a_fold_are_no_draws_of_folds() -> None:
    """Four runs, but two folds: the error is that of the two means of folds."""
    steady = np.zeros((50, 4))
    four = estimate(np.array([1.0, 2.0, 5.0, 6.0]), steady, [0, 0, 1, 1], images=100, sets=2)
    two = estimate(np.array([1.5, 5.5]), steady[:, :2], [0, 1], images=100, sets=2)
    assert (four.value, four.error, four.df) == pytest.approx((two.value, two.error, two.df))
    # without noise of images this is Student's t of the two means
    low, high = stats.t.interval(0.95, 1, 3.5, stats.sem([1.5, 5.5]))
    assert (four.low, four.high) == pytest.approx((low, high))


def test_units_of_unequal_size_weigh_by_their_runs() -> None:
    found = estimate(np.array([1.0, 3.0, 6.0]), np.zeros((50, 3)), [0, 0, 1], images=100)
    # means 2 and 6: variance 8, weights 2/3 and 1/3
    assert (found.value, found.error**2) == pytest.approx((10 / 3, 8 * 5 / 9))


def test_p_and_interval_agree() -> None:
    for value, error, df in ((2.0, 1.0, 7.3), (-0.3, 1.5, 1.0), (30.0, 4.0, 999)):
        one = Estimate(value, error, df)
        ends = one.interval(one.p)
        assert min(map(abs, ends)) == pytest.approx(0, abs=1e-9)
        assert one.p == pytest.approx(2 * stats.t.cdf(-abs(value / error), df))
        assert (one.low, one.high) == pytest.approx(stats.t.interval(0.95, df, value, error))


def test_what_can_not_be_told_is_nan_and_never_zero() -> None:
    one_image = estimate(np.array([40.0]), np.full((100, 1), 40.0), [0], images=1)
    one_resample = estimate(np.array([40.0]), np.full((1, 1), 40.0), [0], images=30)
    for found in (one_image, one_resample):
        assert found.value == 40
        assert all(math.isnan(v) for v in (found.error, found.low, found.high, found.p))
    some = np.array([[1.0], [np.nan], [3.0], [2.0]])
    assert estimate(np.array([2.0]), some, [0], images=11).error ** 2 == pytest.approx(1.1)


def test_equal_heads_differ_by_nothing_with_certainty() -> None:
    found = estimate(np.zeros(2), np.zeros((50, 2)), [0, 1], images=20)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    # sums in another order may leave a last digit
    rounded, one = Estimate(1e-14, 0.0, 10), Estimate(1.0, 0.0, 10)
    assert (rounded.low, rounded.high, rounded.p) == (0, 0, 1) and (one.low, one.high, one.p) == (1, 1, 0)


def test_holm_by_the_book() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    corrected = [a * b for a, b in zip(p, holm(p), strict=True)]
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.3]) == [1]
    assert holm([]) == []
    with_gap = holm([0.01, math.nan, 0.04])
    assert with_gap[::2] == pytest.approx([2, 1]) and math.isnan(with_gap[1])
    assert holm([0.0, 0.0, 1.0]) == pytest.approx([3, 2, 1])


def test_a_corrected_interval_excludes_zero_exactly_where_holm_rejects() -> None:
    random = np.random.default_rng(0)
    rejected = 0
    for _ in range(300):
        many = [Estimate(v, 1.0, f) for v, f in zip(random.normal(0, 2, 5), random.uniform(1, 50, 5), strict=True)]
        p = [one.p for one in many]
        # step down by hand
        real = [False] * 5
        for rank, index in enumerate(sorted(range(5), key=lambda i: p[i])):
            if p[index] >= 0.05 / (5 - rank):
                break
            real[index] = True
        intervals = [one.interval(0.05 / factor) for one, factor in zip(many, holm(p), strict=True)]
        assert [low > 0 or high < 0 for low, high in intervals] == real
        assert all(high - low >= one.high - one.low for (low, high), one in zip(intervals, many, strict=True))
        rejected += sum(real)
    assert 100 < rejected < 1000

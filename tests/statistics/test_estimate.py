"""Errors and intervals against numbers worked out by hand and textbook examples."""

import math

import numpy as np
import pytest
from scipy import stats

from instseg.statistics.estimate import UNKNOWN, Estimate, Part, Side, estimate
from instseg.statistics.verdict import holm


def replicates(*columns: tuple[float, ...]) -> np.ndarray:
    return np.asarray(columns, dtype=np.float64).T


def side(values: tuple[float, ...], drawn: np.ndarray, sign: int = 1) -> Side:
    return Side(np.array(values), drawn, sign)


def test_one_unit_has_the_error_of_its_images_alone() -> None:
    """Variance of 1, 2, 3 is 1; times 10 / 9 for the draw with replacement; 3 resamples have 2 degrees of freedom."""
    few = estimate([side((2.5,), replicates((1, 2, 3)))], images=10)
    assert (few.value, few.error**2, few.df) == pytest.approx((2.5, 10 / 9, 2))
    many = side((2.5,), replicates(tuple(np.arange(1000.0))))
    assert estimate([many], images=10).parts[0].df == 9
    assert estimate([many], images=10, sets=2).parts[0].df == 8


def test_parts_by_hand() -> None:
    """Replicates 1, 3, 5 of a unit, a hundred times: variance 800 / 299; draws of 101 images show 100 / 101 of it."""
    moving, steady = (1, 3, 5) * 100, (3, 3, 3) * 100
    unit = 800 / 299 * 1.01
    # what moves both alike is the images' part; the units' values 1 and 5 have variance 8, their mean 4
    alike = estimate([side((1.0, 5.0), replicates(moving, moving))], images=101)
    assert alike.value == 3
    assert alike.parts == (Part(pytest.approx(unit), 100), Part(pytest.approx(4.0), 1))
    # what moves one alone is in the units' own variance already
    alone = estimate([side((1.0, 5.0), replicates(moving, steady))], images=101)
    assert alone.parts == (Part(pytest.approx(0.0, abs=1e-12), 100), Part(pytest.approx(4.0), 1))
    three = estimate([side((1.0, 5.0, 3.0), replicates(moving, steady, steady))], images=101)
    assert three.parts[1] == Part(pytest.approx(4 / 3), 2)


def test_the_half_width_is_banerjee_s() -> None:
    both = Estimate(3.0, (Part(2.0, 100), Part(4.0, 1)))
    for alpha in (0.05, 0.05 / 12):
        by_hand = math.sqrt(stats.t.isf(alpha / 2, 100) ** 2 * 2 + stats.t.isf(alpha / 2, 1) ** 2 * 4)
        assert both.half_width(alpha) == pytest.approx(by_hand)
        assert both.interval(alpha) == pytest.approx((3 - by_hand, 3 + by_hand))
    assert both.error**2 == pytest.approx(6)
    assert both.df == pytest.approx(36 / (4 / 100 + 16 / 1))
    # with 80 % chance a draw lies less than t(0.2) errors below
    assert both.detectable(0.05) == pytest.approx(
        both.half_width(0.05) + math.sqrt(stats.t.isf(0.2, 100) ** 2 * 2 + stats.t.isf(0.2, 1) ** 2 * 4)
    )


def test_folds_without_noise_of_images_are_nadeau_and_bengio_s_t_test() -> None:
    """Five folds of a k-fold split: variance times 1/5 + 1/4."""
    values = (1.0, 2.0, 2.5, 0.5, 1.5)
    folds = estimate([side(values, np.zeros((50, 5)))], images=100, sets=5, shared_training=1 / 4)
    error = math.sqrt(np.var(values, ddof=1) * (1 / 5 + 1 / 4))
    assert (folds.low, folds.high) == pytest.approx(stats.t.interval(0.95, 4, 1.5, error))
    # noise of the images is in the spread of folds that have images of their own
    noisy = estimate([side(values, np.random.default_rng(0).normal(size=(50, 5)))], images=100, sets=5)
    assert noisy.parts == (Part(pytest.approx(np.var(values, ddof=1) / 5), 4),)
    # what shares nothing is the plain paired t-test
    plain = estimate([side(values, np.zeros((50, 5)))], images=100, sets=5)
    assert plain.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_two_sides_are_draws_of_their_own() -> None:
    """Seeds 1, 3 of a head and 0, 1, 2 of the baseline: variances 2 / 2 and 1 / 3."""
    sides = [side((1.0, 3.0), np.zeros((50, 2))), side((0.0, 1.0, 2.0), np.zeros((50, 3)), sign=-1)]
    apart = estimate(sides, images=100)
    assert apart.value == 1
    assert apart.parts[1:] == (Part(pytest.approx(1.0), 1), Part(pytest.approx(1 / 3), 2))
    # images that move both sides alike cancel
    moving = np.random.default_rng(0).normal(size=(200, 1))
    together = [each._replace(replicates=each.replicates + moving[:50]) for each in sides]
    assert estimate(together, images=100).parts[0].variance == pytest.approx(0, abs=1e-12)


def test_p_and_interval_agree() -> None:
    for value, error, df in ((2.0, 1.0, 7.3), (-0.3, 1.5, 1.0), (30.0, 4.0, 999)):
        single = Estimate.of(value, error, df)
        assert min(map(abs, single.interval(single.p))) == pytest.approx(0, abs=1e-9)
        assert single.p == pytest.approx(2 * stats.t.cdf(-abs(value / error), df))
        assert (single.low, single.high) == pytest.approx(stats.t.interval(0.95, df, value, error))
    for value in (0.5, -4.0, 100.0):
        both = Estimate(value, (Part(1.0, 50), Part(0.5, 2)))
        assert min(map(abs, both.interval(both.p))) == pytest.approx(0, abs=1e-6)
    assert Estimate(1e9, (Part(1.0, 50), Part(0.5, 50))).p == 1e-15
    assert Estimate(0.0, (Part(1.0, 50), Part(0.5, 2))).p == 1


def test_what_can_not_be_told_is_nan_and_never_zero() -> None:
    one_image = estimate([side((40.0,), np.full((100, 1), 40.0))], images=1)
    one_resample = estimate([side((40.0,), np.full((1, 1), 40.0))], images=30)
    for unknown in (one_image, one_resample):
        assert unknown.value == 40
        assert all(math.isnan(v) for v in (unknown.error, unknown.low, unknown.high, unknown.p, unknown.df))
    assert math.isnan(UNKNOWN.detectable(0.05))
    some = np.array([[1.0], [np.nan], [3.0], [2.0]])
    assert estimate([side((2.0,), some)], images=11).error ** 2 == pytest.approx(1.1)


def test_equal_heads_differ_by_nothing_with_certainty() -> None:
    equal = estimate([side((0.0, 0.0), np.zeros((50, 2)))], images=20)
    assert (equal.value, equal.low, equal.high, equal.p) == (0, 0, 0, 1)
    # sums in another order may leave a last digit
    rounded, certain = Estimate.of(1e-14, 0.0, 10), Estimate.of(1.0, 0.0, 10)
    assert (rounded.low, rounded.high, rounded.p) == (0, 0, 1)
    assert (certain.low, certain.high, certain.p) == (1, 1, 0)


def test_holm_by_the_book() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    corrected = [a * b for a, b in zip(p, holm(p), strict=True)]
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.3]) == [1]
    assert holm([]) == []
    with_gap = holm([0.01, math.nan, 0.04])
    assert with_gap[::2] == pytest.approx([2, 1]) and math.isnan(with_gap[1])
    assert holm([0.0, 0.0, 1.0]) == pytest.approx([3, 2, 1])


def test_an_interval_by_holm_excludes_zero_exactly_where_holm_rejects() -> None:
    random = np.random.default_rng(0)
    rejected = 0
    for _ in range(300):
        many = [
            Estimate(value, (Part(0.7, 80), Part(0.3, df)))
            for value, df in zip(random.normal(0, 3, 5), random.uniform(2, 50, 5), strict=True)
        ]
        p = [each.p for each in many]
        # step down by hand
        rejections = [False] * 5
        for rank, index in enumerate(sorted(range(5), key=lambda i: p[i])):
            if p[index] >= 0.05 / (5 - rank):
                break
            rejections[index] = True
        intervals = [each.interval(0.05 / factor) for each, factor in zip(many, holm(p), strict=True)]
        assert [low > 0 or high < 0 for low, high in intervals] == rejections
        rejected += sum(rejections)
    assert 100 < rejected < 1200

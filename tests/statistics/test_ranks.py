"""Ranks on resamples by hand, their spread against the errors of verdicts, and how sure they are of equal heads."""

import numpy as np
import pytest

from instseg.statistics.estimate import Side, estimate
from instseg.statistics.ranks import RESAMPLES, Improvement, improvement, ranks, resampled_means


def test_ranks_of_one_unit_are_those_on_the_resamples_of_the_images() -> None:
    scores = np.array(
        [
            [[40.0, 41, 39, 42, 40]],
            [[38.0, 42, 38, 40, 40]],
            [[30.0, 31, 30, 30, 30]],
        ]
    )
    found = ranks(scores)
    # best are the second, the first, the first, and the two at once
    assert found.best == pytest.approx([2.5 / 4, 1.5 / 4, 0])
    assert found.mean == pytest.approx([(2 + 1 + 1 + 1.5) / 4, (1 + 2 + 2 + 1.5) / 4, 3])
    assert found.low.tolist() == [1, 1, 3] and found.high.tolist() == [2, 2, 3]
    without_truth = np.insert(scores, 2, np.nan, axis=2)
    assert ranks(without_truth).best.tolist() == found.best.tolist()


def test_units_are_drawn_for_all_heads_alike() -> None:
    # what the units add is the same for both, and the second is always one behind
    units = np.array([30.0, 50, 40])[None, :, None] + np.zeros((2, 3, 101))
    found = ranks(units - np.array([0.0, 1])[:, None, None])
    assert found.best.tolist() == [1, 0] and found.high.tolist() == [1, 2]
    means = resampled_means(units)
    assert means[0] == pytest.approx(means[1]) and means[0].std() > 3


def artificial(random: np.random.Generator, units: int, by_seed: float, common: float, own: float, resamples: int):
    """(2, U, 1 + B) of two heads with deviations of each unit, of the images to all units, and to each by itself."""
    scores = 50 + random.normal(0, by_seed, (2, units, 1)) + np.zeros((2, units, 1 + resamples))
    scores += random.normal(0, common, (2, 1, 1)) + random.normal(0, own, (2, units, 1))
    scores[:, :, 1:] += random.normal(0, common, (2, 1, resamples)) + random.normal(0, own, (2, units, resamples))
    return scores


@pytest.mark.parametrize(
    ("by_seed", "common", "own"), [(1.0, 0, 2.0), (1.0, 0.5, 0.0), (1.0, 0.5, 2.0), (0.0, 0.7, 0.0)]
)
def test_the_spread_of_means_is_the_error_that_verdicts_have(by_seed: float, common: float, own: float) -> None:
    """Folds, whose images are their own; seeds that share all that images do; and what is between."""
    random, units = np.random.default_rng(1), 20
    ratios = []
    for _ in range(60):
        scores = artificial(random, units, by_seed, common, own, 400)
        difference = scores[0] - scores[1]
        error = estimate([Side(difference[:, 0], difference[:, 1:].T)], images=10_000).error
        means = resampled_means(scores)
        ratios.append((means[0] - means[1]).var() / error**2)
    # Student's variance is larger by (U - 1) / (U - 3)
    expected = 19 / 17 if by_seed else 1
    assert np.mean(ratios) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("units", [2, 3, 5])
def test_one_of_two_equal_heads_is_seldom_called_surely_best(units: int) -> None:
    random, studies = np.random.default_rng(units), 500
    sure = 0
    for seed in range(studies):
        scores = artificial(random, units, 1.0, 0.0, 0.0, 400)
        sure += max(ranks(scores, seed).best) > 0.975
    assert sure / studies < 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)
    # and not because nothing ever is
    scores[0] += 40 * (4 if units == 2 else 1)
    assert ranks(scores).best[0] > 0.95


def test_the_probability_of_improvement_by_hand() -> None:
    first, second = [np.array([1.0, 2, 3])], [np.array([2.0, 2])]
    # of six pairs two are better, two worse, and two ties
    assert improvement(first, second).value == pytest.approx(0.5)
    both = improvement([*first, np.array([5.0])], [*second, np.array([4.0, 6, 3, 1])])
    assert both.value == pytest.approx((0.5 + 0.75) / 2)
    # of two test sets one is drawn twice in half of the resamples
    assert (both.low, both.high) == pytest.approx((0.5, 0.75))
    assert improvement(second, first).value == pytest.approx(0.5)


def test_runs_of_a_single_test_set_are_drawn_on_each_side() -> None:
    own, other = np.array([1.0, 3]), np.array([2.0, 4])
    found = improvement([own], [other])
    assert found.value == pytest.approx(0.25)
    # 1 against 2 and 4 gives nothing; 3, drawn twice (1/4), against 2, drawn twice (1/4), all
    assert (found.low, found.high) == (0, 1)
    assert improvement([own], [other], seed=3) == pytest.approx(found)
    single = improvement([own[:1]], [other[:1]])
    assert single.value == 0 and np.isnan(single.low) and np.isnan(single.high)
    assert improvement([own + 9], [other]) == Improvement(1, 1, 1)
    many = improvement([np.arange(20.0)], [np.arange(20.0)])
    assert many.value == 0.5 and many.high - many.low == pytest.approx(2 * 1.96 * np.sqrt(2 * 20 / 12) / 20, rel=0.1)
    assert RESAMPLES >= 1000

"""Expected best of k trials against all subsets, intervals against planted spreads, and the order of heads."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from instseg.statistics.budget import best_trial, budget_curve, expected_best, order_stability


def test_the_expected_best_is_the_mean_over_all_subsets() -> None:
    scores = np.array([[41.2, 44.0, 39.5, 44.0, 12.0], [3.0, 1.0, 2.0, 5.0, 4.0]])
    by_hand = [[np.mean([max(s) for s in combinations(row, k)]) for k in range(1, 6)] for row in scores]
    assert expected_best(scores) == pytest.approx(np.array(by_hand))


def test_it_is_unbiased_where_draws_with_replacement_are_not() -> None:
    """The best of five standard normal scores is 1.16296 in expectation (tables of order statistics)."""
    scores = np.random.default_rng(0).normal(50, 1, (40_000, 6))
    five = expected_best(scores)[:, 4].mean() - 50
    assert five == pytest.approx(1.16296, abs=0.02)
    # Dodge et al.: the empirical distribution function to the power of k
    share = np.diff((np.arange(7) / 6) ** 5)
    assert (np.sort(scores) @ share).mean() - 50 < 1.16296 - 0.1


def test_a_trial_that_diverged_is_the_worst() -> None:
    scores = np.array([np.nan, 40.0, 44.0])
    assert expected_best(scores) == pytest.approx([28, (40 + 44 + 44) / 3, 44])
    assert expected_best(np.full(3, np.nan)) == pytest.approx([0, 0, 0])
    assert best_trial(np.array([[np.nan, 0.0, np.nan], [np.nan] * 3, [1.0, 2.0, 2.0]])).tolist() == [1, 0, 1]


def test_over_folds_the_interval_is_students() -> None:
    scores = np.array([[40.0, 42.0], [43.0, 41.0], [50.0, 47.0]])
    curve = budget_curve(scores)
    best = [42, 43, 50]
    assert curve.values == pytest.approx([np.mean(scores), 45])
    assert curve.by_fold[:, 1] == pytest.approx(best)
    assert (curve.low[1], curve.high[1]) == pytest.approx(stats.t.interval(0.95, 2, 45, stats.sem(best)))


def test_with_one_fold_the_trials_are_drawn_again() -> None:
    scores = np.random.default_rng(1).normal(40, 3, (1, 12))
    curve = budget_curve(scores)
    # of one trial: the interval of a mean
    half = (curve.high[0] - curve.low[0]) / 2
    assert half == pytest.approx(1.96 * scores.std() / np.sqrt(12), rel=0.1)
    # no resample has a better trial
    assert curve.high[-1] == curve.values[-1] == scores.max() and curve.low[-1] < scores.max()
    assert budget_curve(scores).low.tolist() == curve.low.tolist() != budget_curve(scores, seed=1).low.tolist()


def test_five_percent_of_the_intervals_over_folds_miss_the_truth() -> None:
    random, studies = np.random.default_rng(2), 2000
    # best of 3 of 6 independent trials, on folds that differ
    truth = 0.84628
    missed = 0
    for _ in range(studies):
        curve = budget_curve(random.normal(0, 1, (5, 6)) + random.normal(0, 1, (5, 1)) + 50)
        missed += not curve.low[2] <= 50 + truth <= curve.high[2]
    assert abs(missed / studies - 0.05) < 3 * np.sqrt(0.05 * 0.95 / studies)


def test_the_order_and_its_leader() -> None:
    curves = {"fcn": [40.0, 41, 42, 43], "unet": [38.0, 41.5, 41, 44], "smp": [30.0, 31, 32, 33]}
    stability = order_stability({name: np.array(curve) for name, curve in curves.items()})
    assert stability.leaders == ["fcn", "unet", "fcn", "unet"] and stability.last_change == 4
    # one pair of three in the reverse order
    assert stability.tau == pytest.approx([1 / 3, 1, 1 / 3, 1])
    steady = order_stability({"fcn": np.array([1.0, 2, 3]), "unet": np.array([0.0, 1, 2])})
    assert steady.last_change == 1 and steady.leaders == ["fcn"] * 3
    assert np.isnan(order_stability({"a": np.ones(2), "b": np.ones(2)}).tau).all()

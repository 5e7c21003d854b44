"""What is concluded from a difference, and when nothing is."""

import math

import numpy as np
import pytest
from scipy import stats

from instseg.statistics.estimate import UNKNOWN, Estimate
from instseg.statistics.resampling import RunScores, differences
from instseg.statistics.verdict import NO_INTERVAL, Comparison, Difference, judge


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.1, 2.0), "better"),
        ((-2.0, -0.1), "worse"),
        ((-1.2, 0.5), "undecided"),
        ((-0.9, 0.9), "equivalent"),
        # it excludes 0, and what it shows is less than the margin
        ((0.2, 0.8), "equivalent"),
        ((0.2, 1.0), "better"),
        ((0.0, 0.0), "equivalent"),
        (NO_INTERVAL, None),
    ],
)
def test_the_corrected_interval_and_the_margin_decide(interval: tuple[float, float], verdict: str | None) -> None:
    assert Comparison("unet", "fcn", "mask", "AP", corrected_interval=interval).verdict == verdict


def test_a_wider_margin_makes_more_equivalent() -> None:
    comparison = Comparison("unet", "fcn", "mask", "AP", corrected_interval=(-1.2, 0.5), margin=2.0)
    assert comparison.verdict == "equivalent" and not comparison.is_told_apart


def test_one_training_gives_no_verdict() -> None:
    comparison = Comparison("unet", "fcn", "mask", "AP", corrected_interval=(3.0, 5.0), trainings=1)
    assert comparison.verdict is None and not comparison.is_told_apart
    images = Difference("fcn", Estimate.of(4.0, 0.1, 50), 1, 1, True)
    alone = judge({"unet": images}, "mask", "AP")["unet"]
    # the interval over images is shown, and no more
    assert alone.is_corrected and alone.verdict is None and math.isnan(alone.detectable)


def test_differences_are_judged_together_and_those_that_are_not_comparable_apart() -> None:
    measured = {
        "fcn": Difference(None, UNKNOWN, 0, 0, True),
        "far": Difference("fcn", Estimate.of(5.0, 1.0, 100), 3, 3, True),
        "near": Difference("fcn", Estimate.of(2.3, 1.0, 100), 3, 3, True),
        "same": Difference("fcn", Estimate.of(0.0, 0.0, 100), 3, 3, True),
        "one fold": Difference("fcn", Estimate.of(50.0, 0.0, 100), 2, 2, False),
        "one seed": Difference("fcn", Estimate.of(50.0, 0.0, 100), 1, 1, True),
    }
    judged = judge(measured, "mask", "AP")
    assert [judged[name].verdict for name in measured] == [None, "better", "better", "equivalent", None, None]
    # three are judged: Bonferroni's interval of the second includes 0, Holm's does not
    near = judged["near"]
    assert near.corrected_p == pytest.approx(2 * near.p) and 3 * near.p > 0.05
    assert near.corrected_interval == pytest.approx(stats.t.interval(1 - 0.05 / 2, 100, 2.3, 1.0))
    assert judged["far"].corrected_interval == pytest.approx(stats.t.interval(1 - 0.05 / 3, 100, 5.0, 1.0))
    assert judged["far"].detectable == pytest.approx(stats.t.isf(0.05 / 6, 100) + stats.t.isf(0.2, 100))
    for name in ("one fold", "one seed"):
        assert judged[name].exists and math.isnan(judged[name].corrected_p) and not judged[name].is_corrected
    assert not judged["fcn"].exists


def test_equivalence_is_corrected_for_all_differences() -> None:
    """Holm's factor of the largest p-value is small, so it would let too many claims of equivalence pass."""
    measured = {str(i): Difference("fcn", Estimate.of(0.1, 0.4, 1000), 3, 3, True) for i in range(3)}
    assert Estimate.of(0.1, 0.4, 1000).high < 1
    assert all(each.verdict == "undecided" for each in judge(measured, "mask", "AP").values())


def scores(level: float, seeds: int, data: str = "", folds: int = 1) -> dict[tuple[int, int], RunScores]:
    return {
        (fold, seed): RunScores(np.full(21, level + seed), 10, data) for fold in range(folds) for seed in range(seeds)
    }


def test_runs_on_other_data_are_not_compared() -> None:
    runs = {"fcn": scores(30, 2, "a"), "unet": scores(35, 2, "a"), "other": scores(40, 2, "b")}
    measured = differences(runs, {"fcn": "fcn", "unet": "fcn", "other": "fcn", "absent": "fcn"})
    assert [each.runs for each in measured.values()] == [0, 2, 0, 0]
    assert measured["unet"].estimate.value == 5 and measured["unet"].comparable
    assert math.isnan(measured["other"].estimate.value)


def test_equal_seeds_are_paired_and_more_seeds_of_the_baseline_all_count() -> None:
    paired = differences({"fcn": scores(30, 3), "unet": scores(35, 3)}, {"unet": "fcn"})["unet"]
    # the seeds differ by as much on both sides
    assert (paired.estimate.value, paired.estimate.error, paired.units) == (5, 0, 3)
    more = differences({"fcn": scores(30, 5), "unet": scores(35, 3)}, {"unet": "fcn"})["unet"]
    # seeds 0, 1, 2 against 0 to 4: means 36 and 32, variances 1 / 3 and 2.5 / 5
    assert (more.estimate.value, more.runs, more.units) == (4, 3, 3)
    assert [tuple(part) for part in more.estimate.parts[1:]] == [(pytest.approx(1 / 3), 2), (pytest.approx(0.5), 4)]
    # in several folds they are in the fold's mean
    folds = differences({"fcn": scores(30, 5, folds=4), "unet": scores(35, 3, folds=4)}, {"unet": "fcn"})["unet"]
    assert (folds.estimate.value, folds.runs, folds.units) == (4, 12, 4)


@pytest.mark.parametrize(
    ("keys", "rival_keys", "comparable", "units"),
    [
        ([(0, 0)], [(0, 0)], True, 1),
        ([(0, 0)], [(0, 0), (0, 1)], True, 1),
        ([(0, 0), (0, 1)], [(0, 0), (0, 1), (1, 0)], False, 2),
        ([(0, 0), (1, 0)], [(0, 0), (0, 1), (1, 0)], True, 2),
    ],
)
def test_one_fold_among_more_is_not_comparable(
    keys: list[tuple[int, int]], rival_keys: list[tuple[int, int]], comparable: bool, units: int
) -> None:
    runs = {"fcn": rival_keys, "unet": keys}
    by_variant = {name: {key: RunScores(np.ones(5), 10) for key in own} for name, own in runs.items()}
    difference = differences(by_variant, {"fcn": None, "unet": "fcn"})["unet"]
    assert (difference.comparable, difference.units) == (comparable, units)

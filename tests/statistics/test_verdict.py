"""What is concluded from a difference, and when nothing is."""

import math

import numpy as np
import pytest

from instseg.statistics.estimate import UNKNOWN, Estimate
from instseg.statistics.resampling import RunScores, differences
from instseg.statistics.verdict import NO_INTERVAL, Comparison, Difference, judge


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.1, 2.0), "better"), ((-2.0, -0.1), "worse"), ((-1.0, 1.0), "undecided"), (NO_INTERVAL, None)],
)
def test_the_corrected_interval_decides(interval: tuple[float, float], verdict: str | None) -> None:
    assert Comparison("unet", "fcn", "mask", "AP", corrected_interval=interval).verdict == verdict


def test_differences_are_judged_together_and_those_that_are_not_comparable_apart() -> None:
    measured = {
        "fcn": Difference(None, UNKNOWN, 0, True),
        "far": Difference("fcn", Estimate(5.0, 1.0, 100), 3, True),
        "near": Difference("fcn", Estimate(2.1, 1.0, 100), 3, True),
        "same": Difference("fcn", Estimate(0.0, 0.0, 100), 3, True),
        "single": Difference("fcn", Estimate(50.0, 0.0, 100), 1, False),
    }
    judged = judge(measured, "mask", "AP")
    assert [judged[name].verdict for name in measured] == [None, "better", "undecided", "undecided", None]
    assert [judged[name].is_real for name in measured] == [None, True, False, False, None]
    # on its own the difference would be real: three comparable ones, of which this is the second
    assert judged["near"].interval[0] > 0 and judged["near"].corrected_p == pytest.approx(2 * judged["near"].p)
    single = judged["single"]
    assert single.exists and single.pairs == 1 and math.isnan(single.corrected_p)
    assert not judged["fcn"].exists


def test_runs_on_other_data_are_no_pair() -> None:
    scores = {
        name: {(0, seed): RunScores(np.full(21, level + seed), 10, data) for seed in (0, 1)}
        for name, level, data in (("fcn", 30.0, "a"), ("unet", 35.0, "a"), ("other", 40.0, "b"))
    }
    measured = differences(scores, {"fcn": "fcn", "unet": "fcn", "other": "fcn", "absent": "fcn"})
    assert [each.pairs for each in measured.values()] == [0, 2, 0, 0]
    assert measured["unet"].estimate.value == 5 and measured["unet"].comparable
    assert math.isnan(measured["other"].estimate.value)


@pytest.mark.parametrize(
    ("keys", "rival_keys", "comparable"),
    [
        ([(0, 0)], [(0, 0)], True),
        ([(0, 0)], [(0, 0), (0, 1)], False),
        ([(0, 0), (0, 1)], [(0, 0), (0, 1), (1, 0)], False),
        ([(0, 0), (1, 0)], [(0, 0), (0, 1), (1, 0)], True),
    ],
)
def test_one_seed_or_fold_among_more_is_not_comparable(
    keys: list[tuple[int, int]], rival_keys: list[tuple[int, int]], comparable: bool
) -> None:
    runs = {"fcn": rival_keys, "unet": keys}
    scores = {name: {key: RunScores(np.ones(5), 10) for key in own} for name, own in runs.items()}
    assert differences(scores, {"fcn": None, "unet": "fcn"})["unet"].comparable == comparable

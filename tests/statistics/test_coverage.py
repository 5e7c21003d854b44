"""How often heads that are no different are called different, and how often a planted difference is seen."""

import math

import numpy as np
import pytest
from artificial import World, heads
from matched_runs import paired_difference

from instseg.statistics.estimate import Estimate
from instseg.statistics.simulation import RULES, ArtificialStudy, Tuning, rates, with_restless_head


def at_most(rate: float, wanted: float, studies: int) -> bool:
    """Whether a rate is no higher than wanted, up to its sampling error."""
    return rate <= wanted + 3 * math.sqrt(wanted * (1 - wanted) / studies)


@pytest.mark.parametrize(("folds", "seeds"), [(1, 2), (1, 3), (1, 5), (3, 1), (5, 2)])
@pytest.mark.parametrize(("head", "ratio"), [(1, 1), (1, 400), (0, 25)])
def test_false_alarms_stay_below_what_is_promised(folds: int, seeds: int, head: int, ratio: float) -> None:
    study = with_restless_head(
        ArtificialStudy(effects=(0.0,) * 4, folds=folds, seeds=seeds, training_images=0.5 if folds > 1 else 0.0),
        head,
        ratio,
    )
    counted = rates(study, 80)["own"]
    # the heads of a study share a baseline, so there are as many independent draws as studies
    assert at_most(counted.own, 0.05, 80)
    assert at_most(counted.any_told_apart, 0.05, 80)


def test_where_trainings_decide_the_rate_is_five_percent() -> None:
    """Student's t then is exact."""
    study = ArtificialStudy(effects=(0.0,), seeds=3, image=0.01, own_image=0.01, training=1.0)
    rate = rates(study, 1200)["own"].own
    assert abs(rate - 0.05) <= 3 * math.sqrt(0.05 * 0.95 / 1200)
    folds = ArtificialStudy(effects=(0.0,), folds=5, seeds=1, image=0.01, own_image=0.01, training=0, training_images=1)
    # Nadeau and Bengio's correction, where folds resemble each other as it has it
    rate = rates(folds, 600)["own"].own
    assert abs(rate - 0.05) <= 3 * math.sqrt(0.05 * 0.95 / 600)


def test_a_pooled_or_moderated_spread_breaks_the_promise_for_a_restless_head() -> None:
    study = with_restless_head(ArtificialStudy(seeds=3), 1, 100)
    counted = rates(study, 150, RULES)
    assert at_most(counted["own"].any_told_apart, 0.05, 150)
    assert counted["pooled"].told_apart[0] > 0.12 and counted["moderated"].told_apart[0] > 0.05


def test_one_training_gives_no_verdict() -> None:
    counted = rates(ArtificialStudy(effects=(50.0,), seeds=1), 10)["own"]
    assert counted.better[0] == counted.undecided[0] == 0 and counted.own == 1


def test_planted_differences_are_seen() -> None:
    counted = rates(ArtificialStudy(effects=(6.0, -6.0, 0.0), seeds=5), 60)["own"]
    assert counted.better[0] > 0.8 and counted.worse[1] > 0.8
    assert counted.worse[0] == counted.better[1] == 0


def test_more_seeds_of_the_baseline_help() -> None:
    few = ArtificialStudy(effects=(2.5,), seeds=3, image=0.1, own_image=0.1)
    more = ArtificialStudy(effects=(2.5,), seeds=3, baseline_seeds=9, image=0.1, own_image=0.1)
    powers = [rates(study, 200)["own"].better[0] for study in (few, more)]
    assert powers[1] > powers[0] + 0.1
    assert at_most(rates(ArtificialStudy(effects=(0.0,), seeds=3, baseline_seeds=9), 200)["own"].own, 0.05, 200)


def test_equivalence_is_seen_and_seldom_claimed_wrongly() -> None:
    calm = {"seeds": 10, "image": 0.15, "own_image": 0.1, "training": 0.15}
    equal = rates(ArtificialStudy(effects=(0.0,) * 3, **calm), 60)["own"]
    assert equal.equivalent.mean() > 0.9
    at_margin = rates(ArtificialStudy(effects=(1.0,) * 3, **calm), 200)["own"]
    assert at_most(at_margin.any_equivalent, 0.05, 200)
    assert rates(ArtificialStudy(effects=(2.0,) * 3, **calm), 60)["own"].better.mean() > 0.9


def test_tuned_heads_have_the_settings_that_won_in_their_fold() -> None:
    def settings(tuning: Tuning | None) -> np.ndarray:
        return ArtificialStudy(folds=5, tuning=tuning)._settings(np.random.default_rng(0))

    # without noise all heads choose the best trial
    exact = settings(Tuning(validation=0.0))
    assert exact.shape == (9, 5) and np.ptp(exact) == 0
    assert np.ptp(settings(None)) == 0
    assert np.ptp(settings(Tuning(validation=2.0)), axis=1).max() > 0
    first = settings(Tuning(validation=2.0, choice="first fold"))
    assert np.ptp(first, axis=1).max() == 0 and np.ptp(first[:, 0]) > 0


def alarms(estimates: list[Estimate], shift: float = 0) -> float:
    """Share of the intervals that exclude 0, were all values that much higher."""
    return float(np.mean([each.low + shift > 0 or each.high + shift < 0 for each in estimates]))


def ap_differences(world: World, seeds: int, studies: int, better: float = 0.0, folds: int = 1) -> list[Estimate]:
    """Of artificial runs, by AP through and through."""
    random = np.random.default_rng([seeds, world.images, round(10 * world.seed)])
    estimates = []
    for _ in range(studies):
        baseline, head = heads(random, world, seeds, (0.0, better), folds)
        estimates.append(paired_difference(head, baseline, 200).estimate)
    return estimates


def test_ap_of_artificial_runs() -> None:
    world = World(images=30)
    assert at_most(alarms(ap_differences(world, 2, 80)), 0.05, 80)
    planted = ap_differences(world, 5, 20, better=15)
    assert all(each.value > 0 for each in planted) and alarms(planted) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_ap_of_many_artificial_runs(seeds: int) -> None:
    studies = 1000
    estimates = ap_differences(World(seed=0.0 if seeds == 1 else 1.0), seeds, studies)
    assert at_most(alarms(estimates), 0.05, studies)
    # a difference of 15 AP, far beyond the images' error: what few seeds can't see
    assert alarms(estimates, shift=15) > {1: 0.99, 2: 0.1, 3: 0.6, 5: 0.97}[seeds]


@pytest.mark.slow
@pytest.mark.parametrize("images", [10, 20, 40, 80])
def test_ap_of_small_test_sets(images: int) -> None:
    studies = 1000
    assert at_most(alarms(ap_differences(World(images=images, seed=0.0), 1, studies)), 0.05, studies)


@pytest.mark.slow
def test_ap_of_folds() -> None:
    studies = 300
    estimates = ap_differences(World(images=30, fold=0.5), 2, studies, folds=5)
    assert at_most(alarms(estimates), 0.05, studies)
    assert alarms(estimates, shift=10) > 0.9


def test_all_rules_are_for_folds_too() -> None:
    counted = rates(ArtificialStudy(effects=(0.0,) * 3, folds=3, seeds=1, training_images=0.5), 20, RULES)
    assert counted.keys() == RULES.keys()
    # what one rule pools from several heads has more degrees of freedom, and so narrower intervals
    assert counted["pooled"].own >= counted["own"].own

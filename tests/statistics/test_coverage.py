"""How often heads that are no different are called different, and how often a planted difference is found."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from artificial import World, heads
from matched_runs import paired_difference

from instseg.statistics.estimate import Estimate, between_units, estimate
from instseg.statistics.verdict import holm

IMAGES, RESAMPLES = 50, 200
Noise = tuple[float, float, float]


def alarms(found: Iterable[Estimate], shift: float = 0) -> float:
    """Share of the intervals that exclude 0, were all values that much higher."""
    return float(np.mean([one.low + shift > 0 or one.high + shift < 0 for one in found]))


def within(rate: float, studies: int, errors: float = 3) -> bool:
    """Whether a false-alarm rate is 5 % up to its sampling error."""
    return abs(rate - 0.05) <= errors * math.sqrt(0.05 * 0.95 / studies)


def made_up(noise: Noise, seeds: int, studies: int, heads: int = 1, folds: int = 1) -> list[list[Estimate]]:
    """Differences of heads to one baseline, none of them real, drawn from the normal distribution.

    Args:
        noise: standard deviation, in the mean of a fold's images, of what all seeds share, of what is a seed's own in
            each image, and of what is a seed's own in all images alike.
    """
    random = np.random.default_rng([seeds, folds, *(round(100 * one) for one in noise)])
    weights = random.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=RESAMPLES).T / IMAGES
    units = [fold if folds > 1 else seed for fold in range(folds) for seed in range(seeds)]

    def scores() -> np.ndarray:
        """(folds, seeds, images)"""
        shared, own, seed = (
            one * math.sqrt(IMAGES) * random.normal(size=(folds, *s))
            for one, s in zip(noise, ((1, IMAGES), (seeds, IMAGES), (seeds, 1)), strict=True)
        )
        return shared + own + seed / math.sqrt(IMAGES)

    found = []
    for _ in range(studies):
        baseline = scores() if heads > 1 else 0.0
        study = []
        for _ in range(heads):
            runs = (scores() - baseline).reshape(-1, IMAGES)
            study.append(estimate(runs.mean(axis=1), (runs @ weights).T, units, IMAGES * folds, folds))
        found.append(study)
    return found


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_five_percent_false_alarms(seeds: int) -> None:
    studies = 1500
    # with one seed only images can be told; else both, as large as each other in the mean of two seeds
    noise = (1.0, 0.0, 0.0) if seeds == 1 else (1.0, 1.0, 1.0)
    found = [study[0] for study in made_up(noise, seeds, studies)]
    assert within(alarms(found), studies)
    assert alarms(found, shift=8) > (0.85 if seeds == 2 else 0.98)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_that_differ_far_more_than_images_explain(seeds: int) -> None:
    studies = 1500
    found = [study[0] for study in made_up((0.01, 0.01, 1.0), seeds, studies)]
    assert within(alarms(found), studies)


def test_one_seed_covers_images_only() -> None:
    """Seeds that vary as much as images are not seen: |N(0, 2)| beyond 1.96 has a chance of 17 %."""
    rate = alarms(study[0] for study in made_up((1.0, 0.0, 1.0), 1, 1000))
    assert 0.13 < rate < 0.22


def test_the_price_of_two_seeds() -> None:
    """At its worst, seeds three times as variable as images: more false alarms than promised, yet not twice."""
    rates = [alarms(s[0] for s in made_up((1.0, 1.0, math.sqrt(3)), seeds, 1500)) for seeds in (2, 3, 5)]
    assert 0.04 < rates[0] < 0.09
    assert all(rate < 0.075 for rate in rates[1:])


def test_folds_are_drawn_with_their_images() -> None:
    found = [study[0] for study in made_up((1.0, 0.5, 0.5), 2, 600, folds=5)]
    assert within(alarms(found), 600)


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    studies = made_up((1.0, 0.5, 0.5), 3, 500, heads=6)
    alone = np.mean([alarms(study) > 0 for study in studies])
    corrected = [
        any(one.p * factor < 0.05 for one, factor in zip(study, holm([one.p for one in study]), strict=True))
        for study in studies
    ]
    assert alone > 0.12
    assert np.mean(corrected) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(studies))


def many_heads(
    share: float, seeds: int, heads: int, better: float = 0.0, restless: dict[int, float] | None = None
) -> list[Estimate]:
    """Differences of heads to the first one, the spread between seeds pooled; ``share`` of the variance of one seed's
    difference, 1, is the seed's, the rest the images'. The second head is better by so many of its deviations. The
    seeds of restless heads, by number, lie so many times as far apart."""
    random = _RANDOM
    weights = random.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=RESAMPLES) / IMAGES
    image, seed = math.sqrt((1 - share) / 4 * IMAGES), math.sqrt(share / 2)
    runs = image * random.normal(size=(heads, 1, IMAGES)) + image * random.normal(size=(heads, seeds, IMAGES))
    times = np.ones((heads, 1, 1))
    for head, more in (restless or {}).items():
        times[head] = more
    runs = runs + seed * times * random.normal(size=(heads, seeds, 1))
    runs[1] += better
    units, values, drawn = list(range(seeds)), runs.mean(axis=2).T, np.einsum("hui,bi->buh", runs, weights)
    spread = between_units(values, drawn, units, IMAGES)
    return [
        estimate(values[:, i] - values[:, 0], drawn[..., i] - drawn[..., 0], units, IMAGES, spread=spread)
        for i in range(1, heads)
    ]


_RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_many_heads_tell_together_how_seeds_differ(share: float) -> None:
    """Two seeds; a head alone would raise the alarm twice as often where seeds decide, and see half as much."""
    studies = [many_heads(share, seeds=2, heads=9) for _ in range(250)]
    assert 0.02 < np.mean([alarms(one) for one in studies]) < 0.08
    family = np.mean([min(p * f for p, f in zip(ps, holm(ps), strict=True)) < 0.05 for ps in map(_p, studies)])
    assert family < 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(studies))
    found = np.mean([many_heads(share, seeds=2, heads=9, better=3.0)[0].low > 0 for _ in range(100)])
    assert found > 0.8


def test_the_price_of_a_restless_baseline() -> None:
    """It is in every difference, and as one of many tells little of how seeds spread: twice the promised alarms."""
    studies = [many_heads(0.55, seeds=2, heads=13, restless={0: 2.0}) for _ in range(250)]
    assert 0.07 < np.mean([alarms(one) for one in studies]) < 0.15


def _p(found: list[Estimate]) -> list[float]:
    return [one.p for one in found]


def differences(world: World, seeds: int, studies: int, better: float = 0.0, folds: int = 1) -> list[Estimate]:
    """Of artificial runs, by AP through and through."""
    random = np.random.default_rng([seeds, world.images, round(10 * world.seed)])
    found = []
    for _ in range(studies):
        baseline, head = heads(random, world, seeds, (0.0, better), folds)
        found.append(paired_difference(head, baseline, RESAMPLES).estimate)
    return found


def test_ap_of_artificial_runs() -> None:
    world = World(images=30)
    assert alarms(differences(world, 2, 80)) <= 0.15
    found = differences(world, 3, 20, better=15)
    assert all(one.value > 0 for one in found) and alarms(found) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_ap_of_many_artificial_runs(seeds: int) -> None:
    studies = 1000
    found = differences(World(seed=0.0 if seeds == 1 else 1.0), seeds, studies)
    assert within(alarms(found), studies)
    # a difference of 15 AP; two seeds are known not to find it always
    assert alarms(found, shift=15) > {1: 0.99, 2: 0.6, 3: 0.85, 5: 0.97}[seeds]


@pytest.mark.slow
@pytest.mark.parametrize("images", [10, 20, 40, 80])
def test_ap_of_small_test_sets(images: int) -> None:
    studies = 1000
    assert within(alarms(differences(World(images=images, seed=0.0), 1, studies)), studies)


@pytest.mark.slow
def test_ap_of_folds() -> None:
    studies = 300
    found = differences(World(images=30, fold=0.5), 2, studies, folds=5)
    assert alarms(found) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert alarms(found, shift=10) > 0.95

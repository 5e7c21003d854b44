"""Promised chances against those of whole studies, drawn by themselves and judged by the suite's own functions."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from instseg.statistics.pilot import from_pilot
from instseg.statistics.power import Design, Outlook, Spreads, images_needed
from instseg.statistics.resampling import RunKey, RunScores, differences
from instseg.statistics.verdict import Difference, judge

RESAMPLES, STUDIES = 120, 800
Runs = dict[RunKey, RunScores]


def rival_and_heads(random: np.random.Generator, spreads: Spreads, design: Design, heads: int = 1) -> dict[str, Runs]:
    """The runs of a rival, ``fcn``, and of heads that are no better. Half of each variance of a difference is the
    head's, half the rival's, whose share is that of all its differences, as in a study."""
    images, folds = design.images, design.folds
    by_image, training, own, training_set = (math.sqrt(variance / 2) for variance in spreads.variances(images))
    drawn = random.multinomial(images, np.full(images, 1 / images), size=(folds, RESAMPLES)) / images
    weights = np.concatenate([np.full((folds, 1, images), 1 / images), drawn], axis=1)
    variants = {}
    for name in ("fcn", *map(str, range(heads))):
        seeds = design.seeds if name != "fcn" else design.baseline_seeds or design.seeds
        runs = 50 + training * random.normal(size=(folds, seeds, 1)) + training_set * random.normal(size=(folds, 1, 1))
        runs = runs + by_image * math.sqrt(images) * random.normal(size=(folds, 1, images))
        runs = runs + own * math.sqrt(images) * random.normal(size=(folds, seeds, images))
        values = np.einsum("fsi,fbi->fsb", runs, weights)
        variants[name] = {(f, s): RunScores(values[f, s], images) for f in range(folds) for s in range(seeds)}
    return variants


def studies(spreads: Spreads, design: Design, comparisons: int) -> list[dict[str, Difference]]:
    random = np.random.default_rng([design.seeds, design.folds])
    drawn = (rival_and_heads(random, spreads, design, comparisons) for _ in range(STUDIES))
    return [differences(variants, dict.fromkeys(variants, "fcn")) for variants in drawn]


def realised(drawn: list[dict[str, Difference]], better: float) -> Counter[str | None]:
    """How often the first head gets each verdict where it is so much better, and the others are not."""
    verdicts: Counter[str | None] = Counter()
    for study in drawn:
        first = study["0"].estimate
        moved = {**study, "0": study["0"]._replace(estimate=replace(first, value=first.value + better))}
        verdicts[judge(moved, "mask", "AP")["0"].verdict] += 1 / STUDIES
    return verdicts


WORLDS = [
    (Spreads(0.5, 0.6), Design(2, 40), 1),
    (Spreads(0.3, 0.3, 0.4, 0.0, 60), Design(3, 60), 2),
    (Spreads(1.0, 0.2, 0.2, 0.0, 30), Design(5, 60), 1),
    (Spreads(0.3, 1.5, 0.2, 0.0, 40), Design(4, 40), 3),
    (Spreads(0.4, 0.8, 0.3, 0.0, 40), Design(3, 40, baseline_seeds=5), 1),
    (Spreads(1.0, 0.5, 0.3, 0.4, 30), Design(1, 30, folds=5), 1),
    (Spreads(0.5, 1.0, 0.0, 1.2, 30), Design(2, 30, folds=5), 2),
]


@pytest.mark.parametrize(("spreads", "design", "comparisons"), WORLDS, ids=str)
def test_studies_keep_what_is_promised(spreads: Spreads, design: Design, comparisons: int) -> None:
    outlook, drawn = Outlook.of(spreads, design, comparisons), studies(spreads, design, comparisons)
    detectable = outlook.detectable(0.8)
    assert realised(drawn, detectable)["better"] == pytest.approx(0.8, abs=0.05)
    assert realised(drawn, detectable / 2)["better"] == pytest.approx(outlook.chances(detectable / 2).better, abs=0.05)
    equal, chances = realised(drawn, 0), outlook.chances(0)
    assert equal["equivalent"] == pytest.approx(chances.equivalent, abs=0.05)
    assert equal["better"] + equal["worse"] == pytest.approx(chances.better + chances.worse, abs=0.02)


def test_without_spread_all_beyond_the_margin_is_told() -> None:
    outlook = Outlook.of(Spreads(0, 0), Design(2, 10), margin=0.5)
    assert outlook.chances(0.51) == (1, 0, 0) and outlook.chances(-0.51) == (0, 1, 0)
    assert outlook.chances(0.49) == (0, 0, 1)
    assert outlook.detectable(0.8) == 0.5


def test_one_seed_promises_nothing() -> None:
    for design in (Design(1, 100), Design(3, 100, baseline_seeds=1), Design(3, 1)):
        outlook = Outlook.of(Spreads(0.1, 0.1), design)
        assert outlook.chances(50) == (0, 0, 0) and outlook.detectable(0.8) == math.inf
    assert Outlook.of(Spreads(0.1, 0.1), Design(1, 100, folds=2)).detectable(0.8) < math.inf


def test_more_of_anything_tells_more() -> None:
    spreads = Spreads(1.0, 1.0, 0.5, 0.5)

    def detectable(*design: int, comparisons: int = 1) -> float:
        return Outlook.of(spreads, Design(*design), comparisons).detectable(0.8)

    assert detectable(2, 100) > detectable(3, 100) > detectable(5, 100) > detectable(5, 400)
    assert detectable(2, 100, 2) > detectable(2, 100, 5)
    assert detectable(3, 100, 1, 9) < detectable(3, 100, 1, 4)
    assert detectable(3, 100, comparisons=2) > detectable(3, 100)
    outlook = Outlook.of(spreads, Design(5, 100))
    assert outlook.detectable(0.9) > outlook.detectable(0.8)
    assert outlook.chances(outlook.detectable(0.8)).better == pytest.approx(0.8, abs=1e-3)


def test_known_variances_give_the_textbook_s_power() -> None:
    """With endless images and seeds 1.96 + 0.84 standard errors are told with probability 0.8."""
    outlook = Outlook.of(Spreads(0.0, 10.0), Design(400, 1000), margin=1e-9)
    assert outlook.detectable(0.8) == pytest.approx(2.8016 * 10 / 20, rel=0.02)
    outlook = Outlook.of(Spreads(2.0, 0.0, test_images=1000), Design(2, 4000), margin=1e-9)
    assert outlook.detectable(0.8) == pytest.approx(2.8016 * 1.0, rel=0.02)


def test_images_needed() -> None:
    spreads = Spreads(1.0, 0.1, test_images=50)
    needed = images_needed(spreads, Design(5, 50), 1.5, 0.8)
    assert needed is not None and 100 < needed < 400
    assert Outlook.of(spreads, Design(5, needed)).detectable(0.8) <= 1.5
    assert Outlook.of(spreads, Design(5, round(0.95 * needed))).detectable(0.8) > 1.5
    assert images_needed(spreads, Design(5, 50), 20, 0.8) == 50
    # seeds that vary so much are no matter of images
    assert images_needed(Spreads(1.0, 5.0), Design(3, 50), 1.5, 0.8) is None


def test_a_pilot_s_spreads_by_hand() -> None:
    """Two seeds with differences 1 and 4: 4.5 between them. Their bootstrap replicates differ from 1 and 4 by a + b and
    a - b; the four (a, b) have the sample variances 4 / 3 and 1 / 3."""
    a, b = np.array([1.0, 1.0, -1.0, -1.0]), np.array([0.5, -0.5, 0.5, -0.5])
    images = 5
    zero = RunScores(np.zeros(5), images)
    head = {
        (0, 0): RunScores(np.concatenate([[1.0], 1 + a + b]), images),
        (0, 1): RunScores(np.concatenate([[4.0], 4 + a - b]), images),
        (0, 2): RunScores(np.full(5, 99.0), images),
    }
    pilot = from_pilot(head, {(0, 0): zero, (0, 1): zero})
    assert pilot is not None and (pilot.seed_df, pilot.fold_df, pilot.runs) == (1, 0, 2)
    scale = 5 / 4
    own = scale * 2 * (1 / 3)  # what a seed does alone: twice the variance of half the seeds' difference
    assert pilot.spreads.seed_images**2 == pytest.approx(own)
    assert pilot.spreads.images**2 == pytest.approx(scale * 4 / 3 - own / 2)
    assert pilot.spreads.training**2 == pytest.approx(4.5 - own)
    assert (pilot.spreads.training_set, pilot.spreads.test_images) == (0, 5)


def test_a_single_pair_is_no_pilot() -> None:
    run = RunScores(np.arange(5.0), 9)
    assert from_pilot({(0, 0): run}, {(0, 0): run}) is None
    assert from_pilot({(0, 0): run, (0, 1): run}, {(0, 2): run}) is None
    other = run._replace(data="other")
    assert from_pilot({(0, 0): run, (0, 1): run}, {(0, 0): other, (0, 1): other}) is None


def test_pilots_find_the_spreads_that_they_are_drawn_with() -> None:
    spreads, design = Spreads(1.0, 2.0, 0.8, 3.0, 30), Design(3, 30, folds=5)
    random = np.random.default_rng(2)
    found = []
    for _ in range(150):
        variants = rival_and_heads(random, spreads, design)
        pilot = from_pilot(variants["0"], variants["fcn"])
        assert pilot is not None and (pilot.seed_df, pilot.fold_df, pilot.runs) == (10, 4, 15)
        found.append(pilot.spreads.variances(30))
    assert np.mean(found, axis=0) == pytest.approx(spreads.variances(30), rel=0.15)


def test_one_seed_a_fold_promises_nothing_of_more_seeds() -> None:
    variants = rival_and_heads(np.random.default_rng(3), Spreads(1.0, 2.0, 0.8, 1.0, 30), Design(1, 30, folds=5))
    pilot = from_pilot(variants["0"], variants["fcn"])
    assert pilot is not None and (pilot.seed_df, pilot.fold_df) == (0, 4)
    assert (pilot.spreads.training, pilot.spreads.seed_images) == (0, 0) and pilot.spreads.training_set > 0

"""Plans: what is planned, what a pilot tells, the answer, and freezing it."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import apps
import pytest
from composition import composed
from synthetic import make_run, make_study

from experiments.config.apps import GivenSpreads, Plan
from experiments.config.run import Config
from experiments.plan import job
from experiments.plan.outlooks import Outlooks, outlooks
from experiments.plan.pilot import read_pilot
from experiments.plan.planned import Planned, planned
from experiments.plan.text import text
from experiments.report.section import Findings
from experiments.runs.plan_file import read_plan
from experiments.runs.study import read
from instseg.errors import UserError
from instseg.statistics.pilot import from_pilot
from instseg.statistics.power import Design, Outlook, Spreads

GIVEN = GivenSpreads(images=0.5, training=0.8)


composed_once = cache(composed)


def configs(folder: Path, *overrides: str, heads: tuple[str, ...] = ("fcn", "unet"), seeds: int = 3) -> list[Config]:
    of_heads = (composed_once(f"head={head}", "evaluation.resamples=100", *overrides) for head in heads)
    return [replace(config, seed=seed, results_dir=str(folder)) for config in of_heads for seed in range(seeds)]


def study_of(folder: Path, *overrides: str, **more: Any) -> Planned:
    return planned(configs(folder, *overrides, **more))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    make_study(folder / "pilot", {"fcn": 2.0, "unet": 0.8}, seeds=3, images=12, speed=False)
    return folder


def with_pilot(results: Path, *overrides: str, options: Plan | None = None, **more: Any) -> Outlooks:
    study = study_of(results, *overrides, **more)
    return outlooks(study, read_pilot(results / "pilot", study), options or Plan(images=12))


def test_a_study_compares_all_variants_with_its_baseline_or_what_it_names(tmp_path: Path) -> None:
    study = study_of(tmp_path, heads=("fcn", "unet", "unet_no_skip"), seeds=2)
    assert study.pairs == [("unet", "fcn"), ("unet_no_skip", "fcn")]
    assert (study.folds, study.seeds) == (1, 2)
    assert study.runs() == {name: {"0": [0, 1]} for name in ("fcn", "unet", "unet_no_skip")}
    assert study.settings["iterations"] == 700 and "schedule.lr" in study.settings
    named = "study.contrasts=[{variant:unet,rival:unet_no_skip},{variant:unet,rival:hourglass}]"
    study = study_of(tmp_path, named, heads=("fcn", "unet", "unet_no_skip"), seeds=2)
    assert study.pairs == [("unet", "unet_no_skip")]
    assert study.notes == [
        "contrast unet against hourglass is left out: the planned runs don't have both, in one recipe"
    ]


def test_labels_are_those_that_the_report_will_have(tmp_path: Path) -> None:
    baseline = "study.baseline='unet(depth=2)'"
    of_depths = [
        *configs(tmp_path, "head.options.depth=1", baseline, heads=("unet",)),
        *configs(tmp_path, "head.options.depth=2", baseline, heads=("unet",)),
        *configs(tmp_path, "control=pull", baseline, heads=("hourglass",)),
    ]
    study = planned(of_depths)
    assert study.pairs == [("unet(depth=1)", "unet(depth=2)"), ("fcn_pull_of_hourglass", "unet(depth=2)")]


def test_nothing_to_compare_is_named(tmp_path: Path, refused: Any) -> None:
    refused(lambda: study_of(tmp_path, heads=("fcn",)), "nothing to compare", "baseline fcn", error=UserError)


def test_a_pilot_s_spreads_are_those_of_its_paired_runs(results: Path) -> None:
    found = with_pilot(results)
    scores = Findings(read(results / "pilot"), "fcn", 100).predictions.scores["mask"]
    expected = from_pilot(scores["unet"], scores["fcn"])
    assert expected is not None and found.expected[0].pilot == expected
    assert expected.seed_df == 2 and expected.spreads.test_images == 12
    assert found.expected[0].spreads.variances(12) == pytest.approx(expected.spreads.variances(12))
    # four times as many images halve what they do
    larger = with_pilot(results, options=Plan(images=48)).expected[0].spreads
    assert larger.images == pytest.approx(expected.spreads.images / 2) and larger.training == expected.spreads.training
    given = with_pilot(results, options=Plan(images=48, spread=GivenSpreads(images=0.25))).expected[0].spreads
    assert (given.images, given.training) == (0.25, expected.spreads.training)


def test_comparisons_that_the_pilot_lacks_take_its_others(results: Path) -> None:
    found = with_pilot(results, heads=("fcn", "unet", "smp"))
    unet, smp = found.expected
    assert (smp.variant, smp.pilot) == ("smp", None) and unet.pilot is not None
    assert smp.spreads.variances(12) == pytest.approx(unet.spreads.variances(12))
    assert "no two pilot runs of smp against fcn" in text(found)
    # none of the planned ones: the pilot's own differences to its baseline
    assert with_pilot(results, heads=("fcn", "smp")).expected[0].spreads.variances(12) == pytest.approx(
        unet.spreads.variances(12)
    )


def test_hours_are_those_of_the_pilot_s_runs(results: Path, tmp_path: Path) -> None:
    study = study_of(results, heads=("fcn", "unet", "smp"), seeds=4)
    pilot = read_pilot(results / "pilot", study)
    # each made-up run took 15.25 seconds, and two go side by side
    assert pilot.seconds(study, 4, None) == pytest.approx(3 * 4 * 15.25 / 2)
    assert pilot.seconds(study, 4, 10) == pytest.approx((2 * 4 + 10) * 15.25 / 2)
    frozen = study_of(results, "protocol=frozen_core", heads=("fcn", "unet"))
    assert math.isnan(pilot.seconds(frozen, 4, None))
    for variant in ("fcn", "unet"):
        for seed in (0, 1):
            provenance = {"wall_seconds": 100.0 + seed, "device": "a"}
            make_run(tmp_path / "core", variant, 2, seed=seed, images=5, protocol="frozen_core", provenance=provenance)
    # passes of 100 and 101 seconds, in which all heads are trained
    assert read_pilot(tmp_path / "core", frozen).seconds(frozen, 4, None) == pytest.approx(4 * 100.5 / 2)


def test_the_answer_is_the_first_design_that_is_enough(tmp_path: Path) -> None:
    options = Plan(detect=2.0, spread=GIVEN, images=60)
    found = outlooks(study_of(tmp_path), None, options)
    spreads = Spreads(0.5, 0.8, test_images=60)
    by_seeds = {seeds: Outlook.of(spreads, Design(seeds, 60)).detectable(0.8) for seeds in range(2, 11)}
    assert {row.seeds: row.detectable[0] for row in found.rows} == by_seeds
    needed = min(seeds for seeds, detectable in by_seeds.items() if detectable <= 2)
    shown = text(found)
    assert f"detect=2 with power=0.8 needs {needed} seeds." in shown
    assert f"With 3 seeds, as planned, differences of {by_seeds[3]:.1f} AP can be told." in shown
    assert "given spreads: images 0.5, training 0.8" in shown and "hours are not known" in shown
    assert max(map(len, shown.split("note:")[0].splitlines())) <= 120
    chance = Outlook.of(spreads, Design(3, 60)).chances(2).better
    assert f"{100 * chance:.0f} %" in shown


def test_images_that_limit_are_named_with_how_many_it_takes(tmp_path: Path) -> None:
    found = outlooks(study_of(tmp_path), None, Plan(spread=GivenSpreads(images=2.0, training=0.1), images=50))
    shown = text(found)
    assert "no number of seeds up to 10 will do for unet against fcn." in shown
    images = found.images_needed(0)
    assert images is not None and images > 200 and f"With 10 seeds it would take about {images:,} test images" in shown
    found = outlooks(study_of(tmp_path), None, Plan(spread=GivenSpreads(images=2.0, training=9.0), images=50))
    assert "More test images alone would not help" in text(found)


def test_folds_that_limit_are_named_with_how_many_it_takes(tmp_path: Path) -> None:
    in_folds = [config for fold in (0, 1, 2) for config in configs(tmp_path, f"dataset.fold={fold}")]
    found = outlooks(planned(in_folds), None, Plan(spread=GivenSpreads(1.0, 0.1, 0.1, 1.0), images=50))
    assert [row.seeds for row in found.rows] == list(range(1, 11))
    needed = found.folds_needed(0)
    assert needed is not None and f"With 10 seeds it would take about {needed} folds" in text(found)
    of_folds = Outlook.of(found.expected[0].spreads, Design(10, 50, needed))
    assert (
        of_folds.detectable(0.8)
        <= 1
        < Outlook.of(found.expected[0].spreads, Design(10, 50, needed - 1)).detectable(0.8)
    )


def test_what_is_affordable(results: Path) -> None:
    each = 2 * 15.25 / 2 / 3600
    shown = text(with_pilot(results, options=Plan(images=12, hours=5.5 * each)))
    assert "With 5 seeds, for which hours=" in shown
    assert "is not enough for 2 seeds" in text(with_pilot(results, options=Plan(images=12, hours=each)))
    assert "spreads of training are rough: with 2 degrees of freedom" in shown
    assert "the pilot's runs differ from the planned ones in iterations" in shown


def test_a_plan_is_frozen_once_and_before_the_first_run(results: Path, tmp_path: Path, refused: Any) -> None:
    def found(*overrides: str, **more: Any) -> Outlooks:
        return outlooks(study_of(tmp_path, *overrides, **more), None, Plan(spread=GIVEN, images=60))

    shown = job.freeze(found())
    plan = read_plan(tmp_path / "quick")
    assert plan is not None and plan.hash() in shown
    assert plan.run_names() == {(name, 0, seed) for name in ("fcn", "unet") for seed in range(3)}
    assert plan.promises[0].detectable == pytest.approx(found().as_planned.detectable[0], abs=1e-3)
    assert plan.promises[0].spreads == {"images": 0.5, "training": 0.8, "seed_images": 0, "training_set": 0}
    make_run(tmp_path / "quick", "fcn", 2.0, images=5)
    assert "stands" in job.freeze(found())
    assert read_plan(tmp_path / "quick") == plan
    for other in (found(seeds=4), found("study.margin=2"), found("schedule.iterations=5")):
        refused(lambda other=other: job.freeze(other), tmp_path / "quick" / "plan.json", "delete it", error=UserError)
    (tmp_path / "quick" / "plan.json").unlink()
    refused(lambda: job.freeze(found()), "has begun without a plan", "study.name=ANOTHER", error=UserError)


def test_the_app_plans_by_given_spreads_and_freezes(tmp_path: Path) -> None:
    keys = (f"results_dir={tmp_path}", "spread.images=0.5", "spread.training=0.8", "seed=0,1", "freeze=true")
    done = apps.run("plan", "detect=2", "head=fcn,unet", "head.lr_mult=1.0", *keys)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("study quick: 4 runs, 2 variants, 2 seeds, 1 fold of 60 test images\n")
    assert (tmp_path / "quick" / "plan.json").is_file()
    assert "holds another plan" in apps.only_error(apps.run("plan", *keys))


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ("study=quik", "did you mean 'quick'"),
        ("results_dir=nowhere", "give pilot=STUDY, or spread.images=AP and spread.training=AP"),
        ("pilot=nowhere results_dir=nowhere", "no study folder nowhere/nowhere"),
        ("detect=-1", "detect=-1: must be above 0"),
    ],
)
def test_wrong_uses_are_one_line(keys: str, part: str) -> None:
    assert part in apps.only_error(apps.run("plan", *keys.split()))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (Plan(power=1.5), "power=1.5: must be a probability"),
        (Plan(power=math.nan), "power=nan: must be a probability"),
        (Plan(detect=math.inf), "detect=inf: must be above 0"),
        (Plan(hours=0.0), "hours=0: must be above 0"),
        (Plan(spread=GivenSpreads(training=-1.0)), "spread.training=-1: must be a standard deviation"),
        (Plan(max_seeds=1), "max_seeds=1: must be 2 or more"),
        (Plan(images=1), "images=1: must be 2 or more"),
        (Plan(pilot="a/b"), "pilot=a/b: must be the name"),
    ],
)
def test_wrong_values_are_named(options: Plan, part: str, refused: Any) -> None:
    refused(options.check, part, error=UserError)

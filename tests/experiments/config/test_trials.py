"""Trials of a tuning: which points, and what a trial is."""

import math
from dataclasses import replace

import pytest
from composition import composed

from experiments.config import checks, trials
from experiments.config.groups import TuningSpace
from instseg.errors import UserError


def test_the_points_fill_the_space_and_a_smaller_budget_has_the_first_of_them() -> None:
    space = TuningSpace()
    points = trials.points(space, 63)
    assert trials.points(space, 7) == points[:7]
    assert trials.points(space, 0) == []
    for key in trials.MULTIPLES:
        low, high = getattr(space, key)
        shares = sorted(math.log(point[key] / low) / math.log(high / low) for point in points)
        # Sobol's sequence leaves no gap: the 63 points and the origin lie one in each 64th
        assert all(abs(share - (i + 1) / 64) < 0.01 for i, share in enumerate(shares))
    counts = [sum(point["norm"] == norm for point in points) for norm in space.norms]
    assert max(counts) - min(counts) <= 2


def test_the_first_trial_is_the_head_itself_and_all_heads_have_the_same_points() -> None:
    fcn = composed("study=pennfudan_small", "head=fcn")
    boundary = composed("study=pennfudan_small", "head=unet", "head.loss_weight=2.0", "head.lr_mult=3")
    own = {"lr_mult": 1.0, "decay_mult": 1.0, "loss_weight": 1.0, "norm": "none"}
    assert trials.settings(fcn)[0] == own
    settings = trials.settings(boundary)
    assert settings[0] == {**own, "lr_mult": 3.0, "loss_weight": 2.0}
    assert len(settings) == fcn.tuning == 4
    for first, second in zip(trials.settings(fcn)[1:], settings[1:], strict=True):
        assert second["norm"] == first["norm"]
        assert second["loss_weight"] == pytest.approx(2 * first["loss_weight"], rel=1e-3)
        assert second["lr_mult"] == pytest.approx(3 * first["lr_mult"], rel=1e-3)


def test_a_trial_learns_from_a_part_of_the_training_images_of_its_fold() -> None:
    config = composed("study=pennfudan_small", "head=unet", "seed=3", "dataset.fold=2")
    settings = trials.settings(config)[2]
    trial = trials.trial(config, settings, trials.fold_of_choice(config))
    assert (trial.dataset.fold, trial.dataset.inner_parts, trial.seed, trial.tuning) == (2, 5, 0, 0)
    assert trial.head.options["norm"] == settings["norm"] and trial.head.lr_mult == settings["lr_mult"]
    assert trial.folder().is_relative_to(config.study_folder() / "tuning" / "runs")
    # its core has not seen the validation images either
    assert trial.core_run().dataset.inner_parts == 5
    # and all trials share it
    other = trials.trial(composed("study=pennfudan_small", "head=fcn", "dataset.fold=2"), trials.settings(config)[3], 2)
    assert other.core_run().folder() == trial.core_run().folder()
    config.tuning_space.choice = "first_fold"
    config.tuning_space.iterations = 7
    assert trials.fold_of_choice(config) == 0
    assert trials.trial(config, settings, 0).schedule.iterations == 7


def test_a_tuned_head_is_the_run_of_its_settings() -> None:
    config = composed("study=pennfudan_small", "head=unet")
    with pytest.raises(ValueError, match="tuned first"):
        config.hash()
    chosen = trials.with_settings(config, {"lr_mult": 2.0, "decay_mult": 0.5, "loss_weight": 1.5, "norm": "batch"})
    tuned = replace(chosen, head=replace(chosen.head, tuned={"trial": 3}))
    given = ("head.lr_mult=2", "head.decay_mult=0.5", "head.loss_weight=1.5", "head.options.norm=batch", "tuning=0")
    assert tuned.hash() == composed("study=pennfudan_small", "head=unet", *given).hash()
    assert tuned.settings()["tuning"] == 4


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("tuning=-1", ["tuning=-1", "0 or more"]),
        ("tuning_space.lr_mult=[2,1]", ["tuning_space.lr_mult=[2.0, 1.0]", "[low,high]"]),
        ("tuning_space.loss_weight=[1]", ["tuning_space.loss_weight", "[low,high]"]),
        ("tuning_space.norms=[]", ["tuning_space.norms", "at least one"]),
        ("tuning_space.norms=[bacth]", ["tuning_space.norms", "'bacth'", "batch"]),
        ("tuning_space.choice=once", ["tuning_space.choice", "'once'"]),
        ("tuning_space.score=ap", ["tuning_space.score", "mask_AP"]),
        ("tuning_space.inner_parts=1", ["tuning_space.inner_parts=1", "2 or more"]),
        ("core_head=unett", ["core_head", "'unett'", "unet"]),
        ("core_head=unet", ["core_head=unet", "frozen_core"]),
    ],
)
def test_wrong_spaces_are_named(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        checks.check(composed(override))
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_trials_may_be_of_a_fixed_length_where_runs_end_on_a_plateau() -> None:
    plateau = ("schedule.until=plateau", "schedule.decay=cosine", "schedule.iterations=900", "tuning=2")
    config = composed(*plateau, "tuning_space.iterations=300")
    trial = trials.trial(config, trials.settings(config)[1], 0)
    assert (trial.schedule.until, trial.schedule.iterations) == ("iterations", 300)
    config = composed(*plateau)
    trial = trials.trial(config, trials.settings(config)[1], 0)
    assert (trial.schedule.until, trial.schedule.iterations) == ("plateau", 900)

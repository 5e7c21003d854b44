"""``control=pull``: an FCN that pulls at the pyramid as hard as another head, found by short runs."""

import json
import math
from pathlib import Path
from typing import Any

import apps
import pytest
import torch
from composition import composed

from experiments.config import control
from experiments.config.run import Config
from experiments.runs import end_to_end, pull_control
from experiments.runs.pull_control import FirstPart, first_part, next_weight, resolved
from instseg.errors import UserError
from instseg.training.loop import train

TINY = (*apps.TINY, "schedule.iterations=31", "schedule.warmup=4", "runtime.evaluate_every=0")


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Any:
    yield
    torch.use_deterministic_algorithms(False)


def _config(folder: Path, *overrides: str) -> Config:
    return composed(*TINY, f"results_dir={folder}", "head=unet", "control=pull", "head.loss_weight=2.5", *overrides)


def _content(folder: Path) -> dict[str, Any]:
    """What each short run measured, by the weight of its loss."""
    content = {}
    for path in folder.glob("quick/pull/runs/*/pull.json"):
        lines = (path.parent / "config.yaml").read_text().splitlines()
        (weight,) = (line.split(": ")[1] for line in lines if line.startswith("  loss_weight: "))
        content[path.parent.name.split("-")[0], float(weight)] = json.loads(path.read_text())
    return content


@pytest.mark.parametrize("protocol", ["end_to_end", "frozen_core"])
def test_the_control_pulls_as_its_head_does_in_every_run_of_the_study(tmp_path: Path, protocol: str) -> None:
    config = resolved(_config(tmp_path, f"protocol={protocol}", "seed=1"))
    head = config.head
    assert (head.variant, head.name, config.control) == ("fcn_pull_of_unet", "fcn", "none")
    assert (head.options["convs"], head.options["width"], head.options["norm"]) == (4, None, "batch")
    assert head.control_of["variant"] == "unet" and head.control_of["by"] == "pull"
    assert head.control_of["options"]["loss_weight"] == 2.5
    assert abs(head.control_of["found"] / head.control_of["wanted"] - 1) <= 0.05
    # the FCN with a weight of 1 does not pull so hard
    content = _content(tmp_path)
    assert content["unet", 2.5]["pull_mask"] == head.control_of["wanted"]
    assert content["fcn", head.loss_weight]["pull_mask"] == head.control_of["found"]
    assert content["fcn", 1.0]["pull_mask"] < 0.8 * head.control_of["wanted"]
    assert all(each["iterations"] == 4 for each in content.values())
    # short runs are of seed 0 and fold 0, and are not done again
    names = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("quick/pull/runs/*/*")}
    assert all("-f0-s0-" in path.name for path in tmp_path.glob("quick/pull/runs/*"))
    other = resolved(_config(tmp_path, f"protocol={protocol}", "seed=2", "dataset.fold=3"))
    assert other.head == head and (other.seed, other.dataset.fold) == (2, 3)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("quick/pull/runs/*/*")} == names
    by_head = resolved(_config(tmp_path, f"protocol={protocol}", "control=none", "head.control=pull"))
    assert by_head.head == head
    # a core is the study's own
    assert len(list(tmp_path.glob("quick/cores/runs/*"))) == (protocol == "frozen_core")
    assert not (tmp_path / "quick" / "pull" / "cores").exists()
    # the run itself is that of the FCN with this weight
    assert (
        config.hash()
        == composed(*TINY, "seed=1", f"protocol={protocol}", f"head.loss_weight={head.loss_weight}").hash()
    )


def test_a_short_run_is_the_beginning_of_the_whole_one(tmp_path: Path) -> None:
    config = _config(tmp_path, "runtime.log_every=1")
    resolved(config)
    whole = composed(*TINY, f"results_dir={tmp_path / 'whole'}", "head=unet", "head.loss_weight=2.5")
    end_to_end.run(whole)
    (short,) = tmp_path.glob("quick/pull/runs/unet-*/metrics.jsonl")
    lines = (whole.folder() / "metrics.jsonl").read_text().splitlines()
    assert short.read_text().splitlines() == [line for line in lines if "eval" not in line][:4]


def test_a_broken_short_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resolved(_config(tmp_path / "whole")).head
    batches = end_to_end.training_batches

    class Killed(Exception):
        pass

    def until_three(*arguments: Any) -> Any:
        for i, batch in enumerate(batches(*arguments)):
            if i == 3:
                raise Killed
            yield batch

    monkeypatch.setattr(end_to_end, "training_batches", until_three)
    with pytest.raises(Killed):
        resolved(_config(tmp_path / "cut"))
    assert not list(tmp_path.glob("cut/quick/pull/runs/*/pull.json"))
    assert len(list(tmp_path.glob("cut/quick/pull/runs/*/checkpoint.pt"))) == 1
    monkeypatch.setattr(end_to_end, "training_batches", batches)
    starts = []

    def noted(*arguments: Any, **options: Any) -> Any:
        results = train(*arguments, **options)
        starts.append(results[0].start)
        return results

    monkeypatch.setattr(pull_control, "train", noted)
    assert resolved(_config(tmp_path / "cut")).head == whole
    assert starts[0] == 2 and set(starts[1:]) == {0}


def test_rates_are_those_of_the_whole_schedule() -> None:
    whole = composed(*TINY, "schedule.decay=cosine", "schedule.warmup=6").schedule
    part = FirstPart(**{**vars(whole), "iterations": first_part(whole.iterations)}, whole=whole)
    assert part.iterations == 4
    assert [part.lr_at(i) for i in range(4)] == [whole.lr_at(i) for i in range(4)]


def test_the_next_weight_is_exact_where_the_pull_is_a_power_of_the_weight() -> None:
    assert next_weight([(1.0, 2.0)], wanted=6.0) == 3.0
    trials = [(1.0, 2.0), (3.0, 2.0 * 3**0.8)]
    assert 2.0 * next_weight(trials, wanted=5.0) ** 0.8 == pytest.approx(5.0, rel=1e-3)
    # a slope of chance is not followed
    assert next_weight([(1.0, 2.0), (1.01, 1.9)], wanted=3.8) == pytest.approx(2.02)


def test_where_nothing_matches_the_nearest_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_control, "_pull", lambda config, head: 1.0 if head.name == "fcn" else 2.0)
    with pytest.raises(UserError, match=r"within 5% of unet; the nearest, head.loss_weight=1, has 0.500 of its pull"):
        resolved(_config(tmp_path))


def test_what_has_no_control_is_named(tmp_path: Path) -> None:
    for overrides in (["head=fcn"], ["head=fcn", "head.options.width=8"], ["head=fcn", "head_norm=batch"]):
        with pytest.raises(UserError, match="fcn is its own control"):
            resolved(_config(tmp_path, *overrides))
    with pytest.raises(UserError, match="did you mean 'pull'"):
        resolved(_config(tmp_path, "control=pul"))
    with pytest.raises(UserError, match=r"only experiments\.sweep and"):
        control.resolved(_config(tmp_path))
    with pytest.raises(UserError, match="a head without a pull"):
        resolved(_config(tmp_path, "head.loss_weight=0"))
    assert not (tmp_path / "quick" / "runs").exists()


def test_other_controls_are_found_as_before(tmp_path: Path) -> None:
    config = _config(tmp_path, "control=params")
    assert resolved(config) == control.resolved(config)
    plain = _config(tmp_path, "control=none")
    assert resolved(plain) is plain


def test_errors_of_a_short_run_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"control=pull: .*training is not finite at iteration"):
        resolved(_config(tmp_path / "diverged", "schedule.lr=1e30", "schedule.warmup=0", "schedule.optimizer=sgd"))

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(end_to_end, "first_models", full)
    with pytest.raises(UserError, match="out of memory"):
        resolved(_config(tmp_path / "full"))


def test_a_sweep_takes_the_control_beside_the_head(tmp_path: Path) -> None:
    arguments = [*TINY, f"results_dir={tmp_path}", "head=unet", "control=none,pull", "evaluation.speed=false"]
    swept = apps.run("sweep", *arguments, "head.loss_weight=2.5")
    assert swept.returncode == 0, swept.stderr[-3000:]
    assert {folder.name.split("-")[0] for folder in apps.folders(tmp_path)} == {"unet", "fcn_pull_of_unet"}
    assert "control=pull of unet: the FCN with loss_weight=1 has 0." in swept.stderr
    (run,) = tmp_path.glob("quick/runs/fcn_pull_of_unet-*")
    of = json.loads((run / "result.json").read_text())["head"]["control_of"]
    assert of["by"] == "pull" and math.isclose(of["found"], of["wanted"], rel_tol=0.05)
    error = apps.only_error(apps.run("train", *arguments[:-2], "head=fcn", "control=pull"))
    assert "fcn is its own control" in error

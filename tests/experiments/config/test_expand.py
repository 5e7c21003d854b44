"""Sweeps as Hydra writes them: which runs come out, in which order."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_module

from experiments.config.expand import combinations, is_for_runs, take_for_runs
from instseg.errors import UserError


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        yield


def test_the_last_key_changes_fastest_and_the_command_line_replaces_a_study_s_values() -> None:
    study = {"seed": "0,1", "head": "fcn,unet"}
    assert combinations(study, []) == [
        ["seed=0", "head=fcn"],
        ["seed=0", "head=unet"],
        ["seed=1", "head=fcn"],
        ["seed=1", "head=unet"],
    ]
    # a key keeps its place
    assert combinations(study, ["schedule.lr=0.1,0.2", "seed=7"]) == [
        ["seed=7", f"head={head}", f"schedule.lr={lr}"] for head in ("fcn", "unet") for lr in (0.1, 0.2)
    ]
    assert combinations({"seed": 3}, []) == [["seed=3"]]


@pytest.mark.parametrize(
    ("override", "runs"),
    [
        ("seed=range(0,3)", ["seed=0", "seed=1", "seed=2"]),
        ("seed=choice(4,2)", ["seed=4", "seed=2"]),
        ("trunk=glob(resnet*_detectron2)", ["trunk=resnet101_detectron2", "trunk=resnet50_detectron2"]),
        ("trunk.weights='a,b.pth',null", ["trunk.weights='a,b.pth'", "trunk.weights=null"]),
        ("dataset.min_size=[1,2]", ["dataset.min_size=[1,2]"]),
        ("dataset.min_size=[1,2],[3]", ["dataset.min_size=[1,2]", "dataset.min_size=[3]"]),
        ("results_dir='a b'", ["results_dir='a b'"]),
        ("+study.more={a: 1}", ["+study.more={a: 1}"]),
        ("~augmentation", ["~augmentation"]),
    ],
)
def test_every_way_of_writing_a_sweep(override: str, runs: list[str]) -> None:
    assert combinations({}, [override]) == [[run] for run in runs]


@pytest.mark.parametrize("override", ["seed=range(0,0)", "head=glob(nothing*)", "seed=interval(0,1)"])
def test_a_sweep_without_values_is_an_error(override: str, refused: Any) -> None:
    refused(lambda: combinations({}, [override]), override, error=UserError)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("head=fcn", False),
        ("head=fcn,unet", True),
        ("head.options.depth=2", True),
        ("seed=1", False),
        ("hydra.sweeper.params.seed=1", False),
    ],
)
def test_what_a_study_s_own_sweep_does_not_hang_on_is_for_the_runs(override: str, expected: bool) -> None:
    assert is_for_runs(override) is expected


@pytest.mark.parametrize(
    ("arguments", "for_runs", "left"),
    [
        (["study=quick", "seed=0,1", "head.options.depth=1"], ["seed=0,1", "head.options.depth=1"], ["study=quick"]),
        (["-m", "seed=0,1", "detect=2", "spread.images=1"], ["seed=0,1"], ["detect=2", "spread.images=1"]),
        # Hydra prints something, and needs all
        (["--cfg", "job", "schedule.lr=1"], [], ["--cfg", "job", "schedule.lr=1"]),
    ],
)
def test_what_is_for_runs_alone_is_taken_off_the_command_line(
    arguments: list[str], for_runs: list[str], left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["app", *arguments])
    assert take_for_runs(["detect", "spread"]) == for_runs
    assert sys.argv == ["app", *left]

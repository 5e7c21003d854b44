"""The table of how long variants were trained, and which were still rising."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic

from experiments.report import build, trained
from experiments.report.trained import Trend
from experiments.runs.study import read
from instseg.statistics.estimate import Estimate

END = 1000


def _log(run: Path, loss: Any, score: Any = None, *, every: int = 20, scored: int = 50, noise: float = 0.0) -> None:
    """Write a log of curves, functions of the iteration; the loss in two parts."""
    random = np.random.default_rng(int(run.name.rsplit("-", 1)[1], 16))
    lines: list[dict[str, Any]] = []
    for iteration in range(10, END + 1, 10):
        if iteration % every == 0:
            value = loss(iteration) * (1 + noise * random.standard_normal())
            lines.append({"iteration": iteration, "lr": 0.1, "loss": 9.0 - iteration / END, "pull_mask": iteration})
            lines[-1] |= {"loss_mask": 0.75 * value, "loss_mask_point": 0.25 * value, "loss_box_reg": iteration}
        if score is not None and iteration % scored == 0:
            value = score(iteration) + noise * random.standard_normal()
            lines.append({"iteration": iteration, "eval": {"box_AP": 1.0, "mask_AP": value}})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _run(study: Path, variant: str, seed: int = 0, **trained: Any) -> Path:
    extra = {"trained": trained, "settings": {"schedule.until": "plateau"}} if trained else {}
    return synthetic.make_run(study, variant, 2.0, seed=seed, images=4, iterations=END, **extra)


def _trend(study: Path, label: str) -> Trend:
    (trend,) = trained.trends(read(study), [label])
    return trend


def test_slopes_are_those_that_were_planted_in_readable_units(tmp_path: Path) -> None:
    for seed in (0, 1):
        _log(_run(tmp_path, "fcn", seed), lambda i: 1.0, lambda i: 30 + 0.004 * i)
        _log(_run(tmp_path, "unet", seed), lambda i: 2 - i / END)
    score = _trend(tmp_path, "fcn")
    assert score.measure == "mask AP" and score.is_rising
    assert score.slope.value == pytest.approx(4.0) and score.change == pytest.approx(0.8)
    loss = _trend(tmp_path, "unet")
    # from 1.18 to 1, of which the mean of the logged points is 1.09
    assert loss.measure == "mask loss" and loss.is_rising
    assert loss.slope.value == pytest.approx(-10 / 1.09) and loss.change == pytest.approx(-20 / 1.09)


@pytest.mark.parametrize(
    ("score", "noise", "rising"),
    [
        (lambda i: 30 + 0.01 * i, 0.05, True),
        # flat behind 800, whatever came before
        (lambda i: 30 + 0.01 * min(i, 800), 0.05, False),
        # for certain, and negligible: 0.2 points in the last fifth
        (lambda i: 30 + 0.001 * i, 0.0, False),
        (lambda i: 30 - 0.01 * i, 0.05, False),
        # much, and not for certain
        (lambda i: 30 + 0.004 * i, 3.0, False),
    ],
)
def test_rising_needs_an_interval_without_0_and_a_change_that_counts(
    tmp_path: Path, score: Any, noise: float, rising: bool
) -> None:
    for seed in range(3):
        _log(_run(tmp_path, "fcn", seed), lambda i: 1.0, score, noise=noise)
    assert _trend(tmp_path, "fcn").is_rising is rising


@pytest.mark.parametrize(
    ("loss", "rising"),
    [(lambda i: 1 - i / 2000, True), (lambda i: 1 - i / 20000, False), (lambda i: 1 + i / 900, False)],
)
def test_without_enough_scores_it_is_the_loss_that_tells(tmp_path: Path, loss: Any, rising: bool) -> None:
    _log(_run(tmp_path, "fcn"), loss, lambda i: 0.1 * i, scored=100)
    trend = _trend(tmp_path, "fcn")
    assert trend.measure == "mask loss" and trend.is_rising is rising


def test_until_a_plateau_the_slope_is_of_what_comes_before_the_tail(tmp_path: Path) -> None:
    def loss(iteration: int) -> float:
        return 1.0 if iteration <= 800 else 1.0 - (iteration - 800) / 400

    ended = {"iterations": 960, "tail_start": 800, "limit_reached": False}
    _log(_run(tmp_path, "fcn", **ended), loss)
    _log(_run(tmp_path, "fcn", seed=1, **ended | {"iterations": END, "tail_start": 833, "limit_reached": True}), loss)
    trend = _trend(tmp_path, "fcn")
    assert (trend.trained, trend.limits_reached, trend.until_plateau) == ([960, 1000], 1, True)
    assert abs(trend.change) < 8
    text = build.build(tmp_path, "fcn", 20)
    assert "980 (960–1,000)" in text and "1 of 2" in text
    assert "iterations are the limit" in (tmp_path / "ap.md").read_text()
    row = pd.read_csv(tmp_path / "trained.csv").iloc[0]
    assert (row["iterations"], row["trained_mean"], row["limit_reached"]) == (1000, 980, 1)


def test_the_table_of_ap_names_the_heads_that_were_still_rising_and_is_silent_where_none_was(tmp_path: Path) -> None:
    flat, rising = (lambda i: 1.0), (lambda i: 2 - i / END)
    for seed in (0, 1):
        _log(_run(tmp_path, "fcn", seed), flat)
        _log(_run(tmp_path, "unet", seed), rising)
    text = build.build(tmp_path, "fcn", 20)
    sentence = "Still rising when training stopped: unet."
    assert sentence in text and sentence in (tmp_path / "ap.md").read_text()
    table = pd.read_csv(tmp_path / "trained.csv").set_index("variant")
    assert table["still_rising"].to_dict() == {"fcn": False, "unet": True}
    assert table.loc["unet", "measure"] == "mask loss" and pd.isna(table.loc["unet", "limit_reached"])
    for run in tmp_path.glob("runs/unet-*"):
        _log(run, flat)
    text = build.build(tmp_path, "fcn", 20)
    assert "ising when" not in text + (tmp_path / "ap.md").read_text()
    for run in tmp_path.glob("runs/*"):
        (run / "metrics.jsonl").unlink()
    text = build.build(tmp_path, "fcn", 20)
    assert "skipped: slopes when training stopped" in text
    assert pd.read_csv(tmp_path / "trained.csv")["still_rising"].isna().all()


def test_without_an_interval_nothing_is_said() -> None:
    unknown = Trend("fcn", 10, [10], False, 0, "mask AP", Estimate.of(3.0, float("nan"), 1), 3.0)
    assert unknown.is_rising is None and trained.caption([unknown]) == ""


def test_runs_until_a_plateau_have_one_label_however_long_they_were_trained(tmp_path: Path) -> None:
    for seed, iterations in enumerate((500, 700)):
        _run(tmp_path, "fcn", seed, iterations=iterations, tail_start=400, limit_reached=False)
    _run(tmp_path, "unet", iterations=600, tail_start=500, limit_reached=False)
    study = read(tmp_path)
    assert study.variants == ["fcn", "unet"] and study.rival_of("unet", "fcn") == "fcn"
    settings = {"schedule.until": "plateau", "schedule.plateau_check": 50}
    synthetic.make_run(tmp_path, "hourglass", 2.0, images=4, settings=settings)
    synthetic.make_run(tmp_path, "hourglass", 2.0, images=4)
    assert read(tmp_path).variants == ["fcn", "hourglass", "hourglass(schedule.until=plateau)", "unet"]

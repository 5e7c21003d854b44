"""What the report says of tuning: numbers against hand-computed ones, and everything that may be missing."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tuning_files
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from scipy import stats
from synthetic import make_study

from experiments.report import ap, tuning
from experiments.report.build import build
from experiments.report.section import Content, Findings
from experiments.report.tuning_file import read_tuning
from experiments.runs.study import read
from instseg.errors import UserError

SCORES: dict[str, list[list[float | None]]] = {
    "unet": [[40.0, 44.0, 38.0, 41.0], [42.0, None, 46.0, 43.0], [39.0, 40.0, 45.0, 44.0]],
    "fcn": [[43.0, 42.0, 41.0, 40.0], [44.0, 43.0, 42.0, 41.0], [42.0, 41.0, 40.0, 39.0]],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = {"fcn": 2.0, "unet": 1.0}
    return make_study(tmp_path_factory.mktemp("results") / "tuned", noise, folds=2, seeds=1, images=5, speed=False)


def made(folder: Path, scores: Any = SCORES, **changes: Any) -> Content:
    tuning_files.write(folder, scores, **changes)
    return tuning.make(Findings(read(folder), "fcn", 20, tuning=read_tuning(folder)))


def test_the_table_has_the_numbers_computed_by_hand(folder: Path) -> None:
    table = made(folder).table
    assert table is not None
    frame = table.numbers.set_index("variant")
    assert list(frame.index) == ["fcn", "unet"]
    unet = frame.loc["unet"]
    scores = [[score or 0.0 for score in fold] for fold in SCORES["unet"]]
    assert (unet["folds"], unet["trials"], unet["diverged"]) == (3, 4, 1)
    assert unet["untuned"] == pytest.approx((40 + 42 + 39) / 3)
    assert [name for name in frame if name.startswith("best_of") and name[-1].isdigit()] == [
        "best_of_1",
        "best_of_2",
        "best_of_4",
    ]
    for k in (1, 2, 4):
        by_fold = [np.mean([max(subset) for subset in combinations(fold, k)]) for fold in scores]
        assert unet[f"best_of_{k}"] == pytest.approx(np.mean(by_fold))
        low, high = stats.t.interval(0.95, 2, np.mean(by_fold), stats.sem(by_fold))
        assert (unet[f"best_of_{k}_low"], unet[f"best_of_{k}_high"]) == pytest.approx((max(low, 0), min(high, 100)))
    # trials 1, 2 and 2 were the best
    assert unet[["norm_none", "norm_group", "norm_batch"]].tolist() == [0, 1, 2]
    assert {fold: each["lr_mult"] for fold, each in json.loads(unet["chosen"]).items()} == {"0": 2, "1": 3, "2": 3}
    assert frame.loc["fcn", ["norm_none", "norm_group", "norm_batch"]].tolist() == [3, 0, 0]


def test_people_read_the_same_numbers(folder: Path) -> None:
    content = made(folder)
    assert content.table is not None
    content.table.write(folder / "tuning", "md", "tex")
    text = (folder / "tuning.md").read_text()
    row = content.table.numbers.set_index("variant").loc["unet"]
    assert f"{row['best_of_2']:.1f} [{row['best_of_2_low']:.1f}, {row['best_of_2_high']:.1f}]" in text
    assert "0: 2 / 1 / 1 / group, 1: 3 / 1 / 1 / batch, 2: 3 / 1 / 1 / batch" in text
    assert "0/1/2" in text and "over folds; of each variant by itself" in text and "counts as 0" in text
    shown, what, order = content.text
    assert f"{row['best_of_4']:.1f}" in shown and "[" not in shown
    assert "expected best of k trials" in what and "in each fold" in what
    assert "Kendall's tau to that of all 4 trials: -1.00 with 1" in order
    assert order.endswith("unet leads from 2 trials on, before that fcn")
    assert max(map(len, "\n".join(content.text).splitlines())) <= 120


def test_the_leader_may_be_the_same_throughout(folder: Path) -> None:
    # equal numbers of both heads have no order
    lines = made(folder, {"fcn": [[40.0, 41.0]], "unet": [[30.0, 31.0]]}).text
    assert lines[-1].endswith("fcn leads with any number of trials")
    assert len(made(folder, {"fcn": [[40.0, 41.0]]}).text) == 2


def test_with_one_fold_the_interval_says_what_it_does_not_cover(folder: Path) -> None:
    table = made(folder, {name: folds[:1] for name, folds in SCORES.items()}, choice="first_fold").table
    assert table is not None
    assert "of trials drawn again (other folds and validation images are not covered)" in table.note
    row = table.numbers.set_index("variant").loc["unet"]
    assert row["best_of_1_low"] < row["best_of_1"] < row["best_of_1_high"] and row["best_of_4_high"] == 44


def test_folds_without_all_trials_are_left_out_and_named(folder: Path) -> None:
    scores = {"fcn": SCORES["fcn"], "unet": [*SCORES["unet"][:2], [39.0]], "smp": [[30.0]]}
    content = made(folder, scores)
    assert content.table is not None
    assert content.table.numbers.set_index("variant")["folds"].to_dict() == {"fcn": 3, "unet": 2}
    smp, unet = content.notes
    assert smp == "tuning.json: smp has not all 4 trials of fold 0 yet; the fold is left out"
    assert "unet has not all 4 trials of fold 2" in unet
    nothing = made(folder, {"fcn": [[40.0, 41.0], [40.0]]}, budget=3)
    assert nothing.table is None and nothing.skipped == [
        "tuning: tuning.json has no variant with all 3 trials of a fold"
    ]


def test_the_figure_has_a_panel_a_variant_with_its_line_band_and_untuned_score(folder: Path) -> None:
    random = np.random.default_rng(0)
    names = ["fcn", *(f"a_rather_long_name_of_a_head_{n}" for n in range(13))]
    content = made(folder, {name: random.normal(40, 2, (3, 6)).tolist() for name in names})
    assert content.table is not None and content.figure is not None
    figure = content.figure()
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 14
    frame = content.table.numbers
    for axes, (_, row) in zip(panels, frame.iterrows(), strict=True):
        assert axes.get_title().replace("\n", "") == row["variant"]
        curve = max(axes.get_lines(), key=lambda line: line.get_linewidth())
        assert np.asarray(curve.get_ydata())[[0, 1, 3, 5]] == pytest.approx(row[[f"best_of_{k}" for k in (1, 2, 4, 6)]])
        (band,) = axes.collections
        ends = band.get_paths()[0].vertices
        assert (ends[:, 1].min(), ends[:, 1].max()) == pytest.approx(
            (min(row[f"best_of_{k}_low"] for k in (1, 2, 4, 6)), max(row[f"best_of_{k}_high"] for k in (1, 2, 4, 6))),
            abs=0.7,
        )
        # the baseline is in every panel, the others are grey
        assert "#000000" in [to_hex(line.get_color()) for line in axes.get_lines()]
        assert any(np.ptp(line.get_ydata()) == 0 and line.get_ydata()[0] == row["untuned"] for line in axes.get_lines())
    boxes = [axes.title.get_window_extent() for axes in panels]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert max(figure.get_size_inches()) * 150 <= 2400


@pytest.mark.parametrize(
    ("choice", "folds", "part"),
    [
        (
            "each_fold",
            2,
            "anew in each fold, on images held out of the training images; intervals cover that folds chose",
        ),
        (
            "each_fold",
            1,
            "anew in each fold, on images held out of the training images; intervals take the settings as",
        ),
        (
            "first_fold",
            2,
            "in the first fold, for all folds, on images held out of the training images; intervals take",
        ),
    ],
)
def test_the_note_of_ap_names_the_budget_and_what_intervals_cover(
    tmp_path: Path, choice: str, folds: int, part: str
) -> None:
    study = make_study(tmp_path / "x", {"fcn": 2.0, "unet": 1.0}, folds=folds, images=4, speed=False)
    assert "tuned" not in str(ap.make(Findings(read(study), "fcn", 20)).table)
    tuning_files.write(study, SCORES, choice=choice)
    table = ap.make(Findings(read(study), "fcn", 20, tuning=read_tuning(study))).table
    assert table is not None and f"Each head was tuned with 4 trials, {part}" in table.note
    tuning_files.write(study, {"fcn": SCORES["fcn"]}, choice=choice.replace("_", " "))
    table = ap.make(Findings(read(study), "fcn", 20, tuning=read_tuning(study))).table
    assert table is not None and f"Each head but unet was tuned with 4 trials, {part}" in table.note


def test_a_study_is_built_with_its_tuning_and_without(tmp_path: Path) -> None:
    study = make_study(tmp_path / "x", {"fcn": 2.0, "unet": 1.0}, folds=2, seeds=1, images=4, speed=False)
    path = tuning_files.write(study, SCORES)
    files = [study / f"tuning.{ending}" for ending in ("csv", "md", "tex")]
    files += [study / f"budget.{ending}" for ending in ("png", "pdf")]
    assert "Kendall's tau" in build(study, "fcn", 20)
    assert all(path.stat().st_size > 100 for path in files)
    path.unlink()
    text = build(study, "fcn", 20)
    assert not any(path.exists() for path in files) and "tuning" not in text and "budget" not in text


DAMAGED: dict[str, Any] = {
    "not JSON": lambda content: "{",
    "no object": lambda content: [],
    "no budget": lambda content: {key: value for key, value in content.items() if key != "budget"},
    "budget of 0": lambda content: content | {"budget": 0},
    "another choice": lambda content: content | {"choice": "last fold"},
    "no space": lambda content: content | {"space": None},
    "a score that is no number": lambda content: content | {"trials": [content["trials"][0] | {"score": "high"}]},
    "no settings": lambda content: content | {"trials": [content["trials"][0] | {"settings": 3}]},
    "a trial twice": lambda content: content | {"trials": content["trials"] * 2},
    "a trial beyond the budget": lambda content: content | {"budget": 2},
    "a choice of no trial": lambda content: content | {"trials": content["trials"][:1]},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: str, refused: Any) -> None:
    content = DAMAGED[damage](tuning_files.content(SCORES))
    path = tmp_path / "tuning.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    refused(lambda: read_tuning(tmp_path), f"{path} is damaged", "delete it and sweep again", error=UserError)

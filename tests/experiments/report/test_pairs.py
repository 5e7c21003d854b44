"""All pairs of variants: judged together, a matrix that says the same both ways, letters, and a heat map."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic import make_run, make_study

from experiments.config.groups import Contrast
from experiments.report import pairs
from experiments.report.section import Content, Findings
from experiments.runs.study import read
from instseg.statistics.resampling import RunScores, differences
from instseg.statistics.verdict import Comparison

NOISE = {"fcn": 2.0, "near": 1.99, "far": 0.7}
RESTLESS = (1.4, 2.6, 2.2)
"""Noise of a variant whose seeds differ."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = make_study(tmp_path_factory.mktemp("results") / "pairs", NOISE, seeds=3, images=12, speed=False)
    for seed, noise in enumerate(RESTLESS):
        make_run(study, "restless", noise, seed=seed, images=12)
    return study


def made(folder: Path, *named: Contrast, margin: float = 1.0) -> Content:
    return pairs.make(Findings(read(folder), "fcn", 100, contrasts=named, margin=margin))


def test_all_pairs_are_judged_together(folder: Path) -> None:
    findings = Findings(read(folder), "fcn", 100)
    table = pairs.make(findings).table
    assert table is not None
    frame = table.numbers
    means = read(folder).runs.groupby("variant")["mask_AP"].mean().sort_values(ascending=False)
    best_first = list(means.index)
    expected = [[a, b] for i, a in enumerate(best_first) for b in best_first[i + 1 :]]
    assert frame[["variant", "rival"]].to_numpy().tolist() == expected
    scores = findings.predictions.scores["mask"]
    for _, row in frame.iterrows():
        assert row["mask_AP_diff"] == pytest.approx(means[row["variant"]] - means[row["rival"]])
        measured = differences(scores, {row["variant"]: row["rival"]})[row["variant"]].estimate
        assert (row["mask_AP_diff_p"], row["mask_AP_diff_low"]) == (measured.p, measured.low)
        low, high = row["mask_AP_diff_corrected_low"], row["mask_AP_diff_corrected_high"]
        within = low > -1 and high < 1
        says = "equivalent" if within else "better" if low > 0 else "worse" if high < 0 else "undecided"
        assert row["mask_AP_verdict"] == says
    p = frame["mask_AP_diff_p"].sort_values()
    corrected = np.minimum(1, np.maximum.accumulate(p.to_numpy() * [6, 5, 4, 3, 2, 1]))
    assert frame.loc[p.index, "mask_AP_diff_p_holm"].to_numpy() == pytest.approx(corrected)
    assert set(frame["mask_AP_verdict"]) == {"better", "undecided"}


def test_the_matrix_says_the_same_both_ways(folder: Path) -> None:
    table = made(folder).table
    assert table is not None
    rows = table.text.set_index("")
    order, opposite = list(rows["variant"]), {">": "<", "<": ">", "=": "=", "?": "?"}
    csv = table.numbers.set_index(["variant", "rival"])
    for i, row in enumerate(order, 1):
        for j, column in enumerate(order, 1):
            cell = rows.loc[str(i), str(j)]
            if i == j:
                assert cell == "–"
                continue
            value, symbol = cell.split()
            other, turned = rows.loc[str(j), str(i)].split()
            assert (float(value), symbol) == (-float(other), opposite[turned])
            shared = set(rows.loc[str(i), "letters"]) & set(rows.loc[str(j), "letters"])
            assert bool(shared) == (symbol in "=?")
            if i < j:
                assert value == f"{csv.loc[(row, column), 'mask_AP_diff']:+.1f}"
                assert pairs.SYMBOLS[csv.loc[(row, column), "mask_AP_verdict"]] == symbol


def test_a_wide_margin_makes_heads_equivalent(folder: Path) -> None:
    table = made(folder, margin=1000).table
    assert table is not None and set(table.numbers["mask_AP_verdict"]) == {"equivalent"}
    assert set(table.text["letters"]) == {"a"}


def test_people_read_the_same_numbers(folder: Path) -> None:
    content = made(folder)
    assert content.table is not None and content.figure is not None
    first = content.table.numbers.iloc[0]
    markdown, latex = content.table.markdown(), content.table.latex().split("\n", 1)[1]
    assert f"{first['mask_AP_diff']:+.1f} {pairs.SYMBOLS[first['mask_AP_verdict']]}" in markdown
    assert "All 6 pairs are judged together" in markdown
    assert "$>$" in latex and " > " not in latex
    lines = "\n".join(content.text).splitlines()
    assert max(map(len, lines)) <= 120
    counts = {line.split()[0]: line.split()[-4:] for line in lines[2:6]}
    verdicts = content.table.numbers.groupby("variant")["mask_AP_verdict"].value_counts()
    assert counts["far"] == [str(verdicts["far"].get(word, 0)) for word in pairs.SYMBOLS]
    named = made(folder, Contrast("far", "fcn")).table
    assert named is not None and named.note.endswith("those here are exploratory.")


def test_the_heat_map_shows_each_verdict() -> None:
    judged = [
        Comparison("a", "b", "mask", "AP", 2.0, corrected_interval=(1.5, 2.5)),
        Comparison("a", "c", "mask", "AP", 2.5, corrected_interval=(-1.0, 6.0)),
        Comparison("b", "c", "mask", "AP", 0.5, corrected_interval=(0.2, 0.8)),
        Comparison("a", "d", "mask", "AP", 3.0, trainings=1),
    ]
    matrix = pairs.arrange("abcd", judged)
    # d has no verdict, and shares no letter with anyone
    assert matrix.letters == {"a": "a", "b": "b", "c": "ab"}
    figure = pairs.heat_map(matrix)
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    texts = {each.get_text(): each.get_fontweight() for each in figure.axes[0].texts}
    weights = {"+2.0 >": "bold", "-2.0 <": "bold", "+2.5 ?": "normal", "+0.5 =": "normal", "+3.0": "normal"}
    assert weights.items() <= texts.items() and "–" in texts
    shown = figure.axes[0].images[0]
    assert shown.get_clim() == (-3.0, 3.0) and shown.get_array()[1, 0] == -2
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a  1", "b  2", "c  3", "d  4"]
    assert pairs.heat_map(pairs.arrange("ab", judged[:1])) is None


def test_one_training_gives_no_table(tmp_path: Path) -> None:
    content = made(make_study(tmp_path, {"fcn": 2.0, "unet": 1.0, "other": 3.0}, seeds=1, images=4, speed=False))
    assert content.table is None and content.figure is None and not content.text
    assert content.skipped == ["pairs: no two variants have two trainings or more to compare, and one gives no verdict"]


def test_a_variant_with_one_training_among_more_has_no_letter(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"fcn": 2.0, "unet": 1.0, "single": 3.0}, seeds=2, images=4, speed=False)
    (gone,) = study.glob("runs/single-*-f0-s1-*")
    shutil.rmtree(gone)
    content = made(study)
    assert content.table is not None
    rows = content.table.text.set_index("variant")
    assert rows.loc["single", "letters"] == "–" and "–" not in rows.drop(index="single")["letters"].tolist()
    assert content.notes == ["pairs: 2 of 3 pairs of variants share too few runs for a verdict"]
    assert content.table.numbers["mask_AP_verdict"].notna().sum() == 1
    assert "All 1 pairs" in content.table.note


def test_variants_that_differ_in_more_than_the_head_are_no_pair(tmp_path: Path) -> None:
    for variant, rate in (("fcn", 0.1), ("unet", 0.1), ("slow", 0.2)):
        for seed in range(2):
            make_run(tmp_path, variant, 1.0 + rate, seed=seed, images=4, settings={"schedule.lr": rate})
    table = made(tmp_path).table
    assert table is not None and len(table.numbers) == 1
    assert sorted(table.text["variant"]) == ["fcn", "unet"]
    for path in tmp_path.glob("runs/unet-*"):
        shutil.rmtree(path)
    assert made(tmp_path).skipped == ["pairs: no two variants differ in the head alone"]


@pytest.mark.parametrize("pair", [("few", "many"), ("many", "few")])
def test_runs_of_one_fold_against_more_are_not_judged_in_either_direction(pair: tuple[str, str]) -> None:
    random = np.random.default_rng(0)
    folds = {"few": 1, "many": 2}
    scores = {
        label: {
            (fold, seed): RunScores(random.normal(40, 1, 50), 10, str(fold)) for fold in range(n) for seed in (0, 1)
        }
        for label, n in folds.items()
    }
    (comparison,) = pairs.compare(scores, [pair], 1.0)
    assert comparison.exists and comparison.verdict is None

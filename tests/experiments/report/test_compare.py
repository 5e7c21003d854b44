"""Several variants against one baseline: corrected intervals, and the verdicts that they give."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import ap_frame, compared, make_run, make_study

from experiments.report import ap, build, cost
from experiments.report import compare as module
from experiments.report.section import Findings
from experiments.runs.study import read
from instseg.evaluation import coco
from instseg.evaluation.coco import KINDS
from instseg.evaluation.engine import ENGINES

NOISE = {"fcn": 2.0, "far": 0.7, "near": 1.9, "same": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("results") / "many", NOISE, seeds=3, images=15, speed=False)


def test_the_differences_of_a_kind_are_corrected_together(folder: Path) -> None:
    frame = ap_frame(read(folder), "fcn", 100).set_index("variant")
    for kind in KINDS:
        p = frame[f"{kind}_AP_diff_p"].drop("fcn").sort_values()
        corrected = np.minimum(1, np.maximum.accumulate(p.to_numpy() * [3, 2, 1]))
        assert frame.loc[p.index, f"{kind}_AP_diff_p_holm"].to_numpy() == pytest.approx(corrected)
        assert frame.loc["far", f"{kind}_AP_verdict"] == "better"
        # the predictions of two heads of equal noise are the same
        assert frame.loc["same", f"{kind}_AP_diff"] == 0 and frame.loc["same", f"{kind}_AP_verdict"] == "equivalent"
        assert pd.isna(frame.loc["fcn", f"{kind}_AP_verdict"]) and math.isnan(frame.loc["fcn", f"{kind}_AP_diff_p"])
        for variant in p.index:
            row = frame.loc[variant]
            low, high = row[f"{kind}_AP_diff_corrected_low"], row[f"{kind}_AP_diff_corrected_high"]
            word = (
                "equivalent" if low > -1 and high < 1 else "better" if low > 0 else "worse" if high < 0 else "undecided"
            )
            assert row[f"{kind}_AP_verdict"] == word
            assert low <= row[f"{kind}_AP_diff_low"] <= row[f"{kind}_AP_diff_high"] <= high
        far = frame.loc["far"]
        assert far[f"{kind}_AP_diff_corrected_low"] < far[f"{kind}_AP_diff_low"]
        near = frame.loc["near"]
        assert near[f"{kind}_AP_diff_detectable"] > (near[f"{kind}_AP_diff_high"] - near[f"{kind}_AP_diff_low"]) / 2


def test_tables_speak_the_verdicts_and_say_what_they_mean(folder: Path) -> None:
    findings = Findings(read(folder), "fcn", 100)
    frame, content = ap.numbers(findings.scores), ap.make(findings)
    assert content.table is not None
    content.table.write(folder / "ap", "csv", "md", "tex")
    for name, dash in (("ap.md", "–"), ("ap.tex", "--")):
        text = (folder / name).read_text()
        rows = {variant: [line for line in text.splitlines() if f"{variant} " in line] for variant in NOISE}
        assert all("] better" in line for line in rows["far"]) and len(rows["far"]) == len(KINDS)
        assert all("+0.0 [+0.0, +0.0] equivalent" in line for line in rows["same"])
        assert all(f" {dash} " in line for line in rows["fcn"][-len(KINDS) :])
        assert "equivalent: it lies within ±1 AP" in text
    assert "".join(content.text).count("] better") == sum((frame[f"{k}_AP_verdict"] == "better").sum() for k in KINDS)


def test_a_margin_decides_what_is_equivalent(folder: Path) -> None:
    frame = ap.numbers(Findings(read(folder), "fcn", 100, margin=50.0).scores).set_index("variant")
    assert set(frame["mask_AP_verdict"].drop("fcn")) == {"equivalent"}


def _drop(folder: Path, variant: str, *runs: str) -> None:
    for run in runs:
        (path,) = folder.glob(f"runs/{variant}-*-{run}-*")
        shutil.rmtree(path)


def test_a_variant_of_fewer_seeds_is_compared_with_all_of_the_baseline_s(tmp_path: Path) -> None:
    lacking = make_study(tmp_path / "lacking", NOISE, seeds=4, images=15, speed=False)
    _drop(lacking, "near", "f0-s2", "f0-s3")
    frame = ap_frame(read(lacking), "fcn", 100).set_index("variant")
    for kind in KINDS:
        near, means = frame.loc["near"], frame[f"{kind}_AP_mean"]
        assert near[f"{kind}_AP_diff"] == pytest.approx(means["near"] - means["fcn"])
        assert near[f"{kind}_AP_diff_n"] == 2 and frame.loc["far", f"{kind}_AP_diff_n"] == 4
        assert pd.notna(near[f"{kind}_AP_verdict"])


@pytest.mark.parametrize(
    ("seeds", "folds", "missing"), [(2, 1, ("f0-s1",)), (2, 2, ("f1-s0", "f1-s1")), (1, 2, ("f1-s0",))]
)
def test_a_variant_of_a_single_seed_or_fold_among_more_gets_no_verdict(
    seeds: int, folds: int, missing: tuple[str, ...], tmp_path: Path
) -> None:
    folder = make_study(tmp_path / "x", NOISE, seeds=seeds, folds=folds, images=15, speed=False)
    _drop(folder, "far", *missing)
    study = read(folder)
    frame = ap_frame(study, "fcn", 100)
    by_variant = frame.set_index("variant")
    far = by_variant.loc["far"]
    for kind in KINDS:
        assert far[f"{kind}_AP_diff"] > 5
        assert pd.isna(far[f"{kind}_AP_verdict"]) and math.isnan(far[f"{kind}_AP_diff_corrected_low"])
        # nor does it make the others' test a stricter one
        p = by_variant[f"{kind}_AP_diff_p"].drop(["fcn", "far"]).sort_values()
        corrected = np.minimum(1, np.maximum.accumulate(p.to_numpy() * [2, 1]))
        assert by_variant.loc[p.index, f"{kind}_AP_diff_p_holm"].to_numpy() == pytest.approx(corrected)
    (note,) = [note for note in study.notes if "no verdict" in note]
    assert note.startswith("runs of one fold of far" if len(missing) == 2 else "one training of far")
    shown = ap.text(compared(study, "fcn", 100), "fcn").to_string()
    assert f"{far['mask_AP_diff']:+.1f} [" not in shown and f"{far['mask_AP_diff']:+.1f}" in shown
    # and the figure can be drawn
    build.build(folder, "fcn", 50)


def test_own_intervals_stay_within_0_and_100(tmp_path: Path) -> None:
    frame = ap_frame(read(make_study(tmp_path / "x", {"fcn": 0.05, "bad": 9.0}, seeds=2, images=4)), "fcn", 50)
    low, high = frame["mask_AP_low"].min(), frame["mask_AP_high"].max()
    assert low >= 0 and high <= 100


def _change(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


@pytest.mark.parametrize("engine", ENGINES)
def test_ap_that_differences_are_of_is_that_of_the_runs(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object of id 0, crowd regions, and a head that rates its masks."""
    monkeypatch.setattr(module, "AP_TOLERANCE", 1e-9)
    runs = [make_run(tmp_path, variant, 2.0, images=8) for variant in ("fcn", "mask_scoring")]
    (path,) = (tmp_path / "ground_truth").glob("*.json")

    def crowds(truth: dict[str, Any]) -> None:
        for number, annotation in enumerate(truth["annotations"]):
            annotation.update(id=number, iscrowd=int(number % 5 == 4))

    def rated(found: coco.Results) -> None:
        for number, result in enumerate(found):
            result["mask_score"] = result["score"] * (number % 3)

    _change(path, crowds)
    _change(runs[1] / "predictions.json", rated)
    truth = json.loads(path.read_text())
    scored = []
    for run in runs:
        found = json.loads((run / "predictions.json").read_text())
        metrics = {kind: coco.metrics(coco.evaluate(truth, found, kind, engine)) for kind in KINDS}
        _change(run / "result.json", lambda result, metrics=metrics: result.update(metrics=metrics))
        scored.append({kind: metrics[kind]["AP"] for kind in KINDS})
    assert scored[0]["box"] == scored[1]["box"] and scored[0]["mask"] != scored[1]["mask"]
    study = read(tmp_path)
    row = ap_frame(study, "fcn", 20).set_index("variant").loc["mask_scoring"]
    assert [note.split(":")[0] for note in study.notes] == ["one training of mask_scoring to compare with fcn"]
    for kind in KINDS:
        assert row[f"{kind}_AP_diff"] == pytest.approx(scored[1][kind] - scored[0][kind], abs=1e-9)


def test_predictions_that_fit_no_ground_truth_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, "fcn", 1.0, images=4)
    _change(run / "predictions.json", lambda found: found[1].update(category_id=8))
    study = read(tmp_path)
    frame = ap_frame(study, "fcn", 20)
    assert math.isnan(frame.loc[0, "mask_AP_low"])
    (note,) = study.notes
    assert (
        note.startswith(f"{run / 'predictions.json'}: result 1 (image 1): is of category 8") and "no interval" in note
    )


def _summary(folder: Path) -> str:
    findings = Findings(read(folder), "fcn", 20, speed=json.loads((folder / "speed.json").read_text()))
    table = cost.summarize(findings).table
    assert table is not None
    return table.markdown()


def _without_boundary(folder: Path, pattern: str) -> None:
    for path in folder.glob(f"runs/{pattern}/result.json"):
        _change(path, lambda result: result["metrics"].pop("boundary") and None)
        path.with_name("true_boxes.json").unlink()


def test_studies_of_before_boundary_ap_have_no_rows_of_it(tmp_path: Path) -> None:
    study = make_study(tmp_path / "old", {"fcn": 2.0, "unet": 1.0}, images=5)
    _without_boundary(study, "*")
    text = build.build(study, "fcn", 20)
    assert not [line for line in text.splitlines() if re.match("note: (?!disagreement|two trainings)", line)]
    files = ("ap.csv", "ap.md", "ap.tex", "runs.md")
    assert "boundary" not in text.split("written to")[0] + "".join((study / name).read_text() for name in files)
    assert "boundary" not in _summary(study)


def test_runs_of_before_boundary_ap_beside_others(tmp_path: Path) -> None:
    study = make_study(tmp_path / "mixed", {"fcn": 2.0, "unet": 1.0}, images=5)
    _without_boundary(study, "fcn-*")
    text = build.build(study, "fcn", 20)
    assert "note: 2 of 4 runs have no boundary AP" in text
    frame = ap_frame(read(study), "fcn", 20).set_index("variant")
    assert math.isnan(frame.loc["fcn", "boundary_AP_low"]) and frame.loc["unet", "boundary_AP_high"] > 0
    assert frame["boundary_AP_diff"].isna().all() and frame.loc["unet", "mask_AP_diff"] > 0
    head, _, *lines = _summary(study).splitlines()
    columns = [cell.strip() for cell in head.split("|")]
    assert columns[2:6] == ["box AP", "mask AP", "boundary AP", "Δ mask AP [95 %]"]
    fcn, unet = ([cell.strip() for cell in line.split("|")] for line in lines)
    row = frame.loc["unet"]
    assert unet[4] == f"{row['boundary_AP_mean']:.1f} ± {row['boundary_AP_std']:.1f}" and fcn[4] == "–"

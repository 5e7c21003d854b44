"""Comparisons that are named beforehand are judged together and by themselves."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import make_run, make_study

from experiments.config.groups import Contrast
from experiments.report import ap, contrasts
from experiments.report.build import build
from experiments.report.section import Content, Findings
from experiments.runs.study import read
from instseg.evaluation.coco import KINDS
from instseg.statistics.resampling import differences

NOISE = {"fcn": 2.0, "near": 1.9, "far": 0.7, "other": 1.4}
NAMED = (Contrast("far", "near", "Is far better?"), Contrast("near", "fcn", "And near?"), Contrast("far", "other"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("results") / "named", NOISE, seeds=3, images=12, speed=False)


def made(folder: Path, *named: Contrast) -> Content:
    return contrasts.make(Findings(read(folder), "fcn", 100, contrasts=named))


def test_contrasts_are_paired_differences_corrected_among_themselves(folder: Path) -> None:
    table = made(folder, *NAMED).table
    assert table is not None
    frame = table.numbers
    assert frame[["variant", "rival"]].to_numpy().tolist() == [["far", "near"], ["near", "fcn"], ["far", "other"]]
    scores = Findings(read(folder), "fcn", 100).predictions.scores
    for kind in KINDS:
        for _, row in frame.iterrows():
            both = {label: scores[kind][label] for label in (row["variant"], row["rival"])}
            expected = differences(both, {row["variant"]: row["rival"]})[row["variant"]]
            assert (row[f"{kind}_AP_diff"], row[f"{kind}_AP_diff_p"]) == (expected.estimate.value, expected.estimate.p)
            assert (row[f"{kind}_AP_diff_low"], row[f"{kind}_AP_diff_n"]) == (expected.estimate.low, 3)
        p = frame[f"{kind}_AP_diff_p"].sort_values()
        corrected = np.minimum(1, np.maximum.accumulate(p.to_numpy() * [3, 2, 1]))
        assert frame.loc[p.index, f"{kind}_AP_diff_p_holm"].to_numpy() == pytest.approx(corrected)
    assert frame.loc[0, "mask_AP_verdict"] == "better" and frame.loc[0, "mask_AP_diff"] > 5
    # the smaller family is judged less strictly
    alone = made(folder, NAMED[1]).table
    assert alone is not None
    assert alone.numbers.loc[0, "mask_AP_diff_p_holm"] == frame.loc[1, "mask_AP_diff_p"]


def test_people_read_the_same_numbers_before_all_else(folder: Path) -> None:
    named = [{"variant": each.variant, "rival": each.rival, "question": each.question} for each in NAMED]
    (folder / "study.json").write_text(json.dumps({"baseline": "fcn", "resamples": 50, "contrasts": named}))
    text = build(folder, "fcn", 50)
    frame = pd.read_csv(folder / "contrasts.csv")
    row = frame.loc[0]
    cell = "{:+.1f} [{:+.1f}, {:+.1f}] better".format(
        *(row[f"mask_AP_diff{end}"] for end in ("", "_corrected_low", "_corrected_high"))
    )
    markdown = (folder / "contrasts.md").read_text()
    assert cell in markdown and cell in text and cell in (folder / "contrasts.tex").read_text()
    assert "Is far better?" in markdown and "exploratory" in markdown
    heading = text.split("\n\n")[1].splitlines()[0].split()
    assert heading[:5] == ["variant", "rival", "Δ", "mask", "AP"]
    note = (folder / "ap.md").read_text().splitlines()[-1]
    assert note.endswith("named beforehand are in contrasts.md; the differences here are exploratory.")
    assert max(map(len, text.split("written to")[0].splitlines())) <= 120


def test_a_study_that_names_none_says_nothing(folder: Path) -> None:
    content = made(folder)
    assert content.table is None and not content.text and not content.notes
    table = ap.make(Findings(read(folder), "fcn", 20)).table
    assert table is not None and "exploratory" not in table.note


def test_names_that_no_run_has_are_a_note(folder: Path) -> None:
    content = made(folder, Contrast("far", "absent"), Contrast("missing", "fcn"), NAMED[0])
    assert content.table is not None and len(content.table.numbers) == 1
    assert content.notes == [
        "contrast far against absent: absent has no finished run",
        "contrast missing against fcn: missing has no finished run",
    ]
    alone = made(folder, Contrast("far", "absent"))
    assert alone.table is None and not alone.text and len(alone.notes) == 1


def test_variants_that_are_not_comparable_are_a_note(tmp_path: Path) -> None:
    for depth in (1, 2):
        make_run(tmp_path, "unet", 1.0, images=4, options={"depth": depth})
    make_run(tmp_path, "fcn", 1.0, images=4, settings={"schedule.lr": 0.1})
    make_run(tmp_path, "slow", 1.0, images=4, settings={"schedule.lr": 0.2})
    make_run(tmp_path, "elsewhere", 1.0, images=5, settings={"schedule.lr": 0.1})
    notes = made(tmp_path, Contrast("unet", "fcn"), Contrast("fcn", "slow"), Contrast("fcn", "elsewhere")).notes
    assert notes == [
        "contrast unet against fcn: unet is the name of several variants: unet(depth=1), unet(depth=2)",
        "contrast fcn against slow: they differ in schedule.lr: the difference would not be the head's alone",
        "contrast fcn against elsewhere: no runs have the same fold and ground truth",
    ]
    labels = made(tmp_path, Contrast("unet(depth=1)", "unet(depth=2)")).table
    assert labels is not None and labels.numbers.loc[0, "mask_AP_diff"] == 0


def test_boxes_that_are_the_same_have_no_column(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"fcn": 2.0, "unet": 1.0}, images=5, speed=False)
    for path in study.glob("runs/unet-*/predictions.json"):
        (rival,) = study.glob(f"runs/fcn-{path.parent.name.split('-', 1)[1][:16]}*/predictions.json")
        results = json.loads(path.read_text())
        for result, other in zip(results, json.loads(rival.read_text()), strict=True):
            result["bbox"] = other["bbox"]
        path.write_text(json.dumps(results))
    table = made(study, Contrast("unet", "fcn")).table
    assert table is not None
    assert "mask_AP_diff" in table.numbers and "boundary_AP_diff" in table.numbers
    assert "box_AP_diff" not in table.numbers and "Δ box AP [95 %]" not in table.text

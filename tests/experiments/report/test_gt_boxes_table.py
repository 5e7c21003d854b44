"""The table of masks in ground-truth boxes, and the differences in it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from experiments.report import build
from experiments.report import gt_boxes as section
from experiments.runs.study import Study, read
from instseg.evaluation import gt_boxes


def _study(folder: Path, lifts: dict[str, float]) -> Path:
    study = synthetic.make_study(folder / "study", dict.fromkeys(lifts, 2.0), images=12)
    for path in study.glob("runs/*/result.json"):
        result = json.loads(path.read_text())
        truth = json.loads((study / result["ground_truth"]).read_text())
        random = np.random.default_rng([result["seed"], result["fold"]])
        ious = random.uniform(0.3, 0.7, len(gt_boxes.objects(truth))) + lifts[result["variant"]]
        path.with_name("true_boxes.json").write_text(
            json.dumps({"mask_iou": ious.tolist(), "boundary_iou": (ious / 2).tolist()})
        )
    return study


def compare_boxes(study: Study, resamples: int) -> pd.DataFrame:
    """What ``gt_boxes.csv`` holds; notes are added to the study's."""
    numbers, _, notes = section.compare(study, synthetic.compared(study, "fcn", resamples), resamples)
    study.notes += notes
    return numbers


def test_a_lift_of_every_object_is_the_difference(tmp_path: Path) -> None:
    folder = _study(tmp_path, {"fcn": 0.0, "unet": 0.1, "same": 0.0})
    study = read(folder)
    found = compare_boxes(study, 50).set_index("variant")
    assert found.loc["unet", "diff"] == pytest.approx(10.0)
    assert found.loc["unet", "diff_low"] == pytest.approx(10.0) == pytest.approx(found.loc["unet", "diff_high"])
    assert list(found.loc[["unet", "same"], "verdict"]) == ["better", "equivalent"]
    assert found.loc["same", "diff"] == pytest.approx(0.0, abs=1e-12)
    assert pd.isna(found.loc["fcn", "diff"]) and pd.isna(found.loc["fcn", "verdict"])
    assert found.loc["unet", "mask_IoU_mean"] == pytest.approx(found.loc["fcn", "mask_IoU_mean"] + 10)
    np.testing.assert_allclose(found["boundary_IoU_mean"], found["mask_IoU_mean"] / 2)


def test_a_variant_of_one_seed_among_two_gets_no_verdict(tmp_path: Path) -> None:
    folder = _study(tmp_path, {"fcn": 0.0, "unet": 0.1, "other": 0.1})
    (gone,) = folder.glob("runs/unet-*-f0-s1-*")
    shutil.rmtree(gone)
    study = read(folder)
    found = compare_boxes(study, 50).set_index("variant")
    assert found.loc["unet", "diff_n"] == 1
    assert pd.isna(found.loc["unet", "verdict"]) and pd.isna(found.loc["unet", "diff_corrected_low"])
    # nor is the other's test a stricter one for it
    assert (
        found.loc["other", "verdict"] == "better" and found.loc["other", "diff_p_holm"] == found.loc["other", "diff_p"]
    )
    assert any("no verdict on masks in ground-truth boxes" in note for note in study.notes)


def test_the_mean_is_over_objects_and_not_over_images(tmp_path: Path) -> None:
    folder = _study(tmp_path, {"fcn": 0.0})
    study = read(folder)
    each = []
    for name in study.runs["folder"]:
        scored = json.loads((folder / "runs" / name / "true_boxes.json").read_text())["mask_iou"]
        each.append(100 * float(np.mean(scored)))
    found = compare_boxes(study, 20)
    assert found["mask_IoU_mean"].item() == pytest.approx(np.mean(each))
    assert found["n"].item() == len(each)


def test_the_report_shows_it_and_leaves_out_what_is_damaged(tmp_path: Path) -> None:
    folder = _study(tmp_path, {"fcn": 0.0, "unet": 0.1})
    (folder / "true_boxes.csv").write_text("as the table was named in earlier versions")
    text = build.build(folder, "fcn", 20)
    assert not (folder / "true_boxes.csv").exists()
    assert "+10.0 [+10.0, +10.0] better" in text and (folder / "gt_boxes.tex").exists()
    for path in folder.glob("runs/unet-*/true_boxes.json"):
        path.write_text(json.dumps({"mask_iou": [0.5], "boundary_iou": [0.5]}))
    text = build.build(folder, "fcn", 20)
    assert "true_boxes.json: mask_iou has 1 numbers; the ground truth has" in text
    assert list(pd.read_csv(folder / "gt_boxes.csv")["variant"]) == ["fcn"]
    for path in folder.glob("runs/*/true_boxes.json"):
        path.unlink()
    text = build.build(folder, "fcn", 20)
    assert "skipped: masks in ground-truth boxes" in text and not (folder / "gt_boxes.csv").exists()

"""Masks in the baseline's boxes: the boxes are its, the masks each variant's own; a table says how they differ."""

import json
from pathlib import Path
from typing import Any

import apps
import numpy as np
import pytest
import synthetic
from composition import composed
from decided import decided_heads
from pycocotools import mask as coco_mask

from experiments.report import ap, build
from experiments.report.shared_boxes import compare_shared
from experiments.runs import shared_boxes
from experiments.runs.end_to_end import run
from experiments.runs.study import read
from instseg.errors import UserError


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FCN, and a head that rates its masks, both hardly trained, with detections of any score."""
    results = tmp_path_factory.mktemp("shared")
    for head in ("fcn", "maskiou"):
        with decided_heads():
            run(composed(*apps.TINY, f"head={head}", "detector.box_score_thresh=0.0", f"results_dir={results}"))
    return results / "quick"


def _shared(study: Path, head: str) -> dict[str, Any]:
    (path,) = study.glob(f"runs/{head}-*/{shared_boxes.FILE}")
    return json.loads(path.read_text())


def test_each_head_gives_its_masks_in_the_baseline_s_boxes(study: Path) -> None:
    shared_boxes.measure(study, "fcn", data_root=None, device="cpu")
    (theirs,) = (json.loads(path.read_text()) for path in study.glob("runs/fcn-*/predictions.json"))
    assert len(theirs) > 10
    fcn, other = (_shared(study, head)["results"] for head in ("fcn", "maskiou"))
    for a, b in zip(theirs, other, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=1e-4)
        assert a["score"] == b["score"] and b["mask_score"] != b["score"]
    overlap = [
        coco_mask.iou([a["segmentation"]], [b["segmentation"]], [0])[0, 0] for a, b in zip(theirs, fcn, strict=True)
    ]
    # boxes are rounded on their way through the file
    assert np.mean(np.asarray(overlap) > 0.95) > 0.95
    assert any(a["segmentation"] != b["segmentation"] for a, b in zip(theirs, other, strict=True))
    (result,) = (json.loads(path.read_text()) for path in study.glob("runs/fcn-*/result.json"))
    assert _shared(study, "fcn")["metrics"]["mask"]["AP"] == pytest.approx(result["metrics"]["mask"]["AP"], abs=0.5)


def test_what_is_measured_is_kept_until_the_baseline_finds_others(study: Path) -> None:
    shared_boxes.measure(study, "fcn", data_root=None, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in study.glob(f"runs/*/{shared_boxes.FILE}")}
    shared_boxes.measure(study, "fcn", data_root=None, device="cpu")
    assert len(before) == 2 and before == {path: path.stat().st_mtime_ns for path in before}
    (path,) = study.glob("runs/fcn-*/predictions.json")
    content = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(content)[:-1]))
        scores, notes = compare_shared(read(study), "fcn", 10)
        assert scores.variants == []
        assert any("older detections" in note for note in notes)
        shared_boxes.measure(study, "fcn", data_root=None, device="cpu")
        assert len(_shared(study, "maskiou")["results"]) == len(json.loads(content)) - 1
        path.unlink()
        with pytest.raises(UserError, match=r"predictions.json can't be read .* delete"):
            shared_boxes.measure(study, "fcn", data_root=None, device="cpu")
    finally:
        path.write_text(content)


def test_other_data_than_the_runs_were_scored_on_are_refused(study: Path) -> None:
    for path in study.glob(f"runs/*/{shared_boxes.FILE}"):
        path.unlink()
    (path,) = study.glob("ground_truth/*.json")
    content = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(content) | {"annotations": []}))
        with pytest.raises(UserError, match="other annotations now"):
            shared_boxes.measure(study, "fcn", data_root=None, device="cpu")
    finally:
        path.write_text(content)


def test_the_table_says_of_them_what_the_table_of_ap_says_of_predictions(tmp_path: Path) -> None:
    folder = synthetic.make_study(tmp_path / "study", {"fcn": 4.0, "unet": 1.0, "other": 2.0}, images=12)
    for path in folder.glob(f"runs/other-*/{shared_boxes.FILE}"):
        path.unlink()
    text = build.build(folder, "fcn", 50)
    assert "masks in the boxes that fcn found" in text and "shared_boxes.csv|md|tex" in text
    lines = (folder / "shared_boxes.md").read_text().splitlines()
    assert not any("box " in line[:8] or "other" in line for line in lines)
    found = ap.numbers(compare_shared(read(folder), "fcn", 50)[0]).set_index("variant")
    assert found.loc["unet", "mask_AP_diff"] > 5 and found.loc["unet", "boundary_AP_diff"] > 5
    assert "box_AP_diff" not in found
    for path in folder.glob(f"runs/unet-*/{shared_boxes.FILE}"):
        path.write_text("{}")
    build.build(folder, "fcn", 50)
    assert "unet" not in (folder / "shared_boxes.md").read_text()
    for path in folder.glob(f"runs/*/{shared_boxes.FILE}"):
        path.unlink()
    text = build.build(folder, "fcn", 50)
    assert "skipped: masks in shared boxes" in text and not (folder / "shared_boxes.md").exists()

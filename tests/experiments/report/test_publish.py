"""Publishing copies tables and configurations, never photographs, and only of code that is in a commit."""

import gzip
import json
from pathlib import Path

import frozen_plans
import pandas as pd
import pytest
import synthetic
import tuning_files

from experiments.report import build
from experiments.report.publish import publish
from instseg.errors import UserError

# as long lines are written
CONFIG = """seed: 0
data_root: /home/somebody/photos
results_dir: results
dataset:
  name: coco_json
  annotations: /home/some
    body/somebody.json
  images: /home/somebody
  options:
    download_dir: /home/somebody/data
init: /home/somebody/results/quick/runs/fcn-generated-f0-s0-01234567/checkpoint.pt
core: COCO_V1
trunk:
  weights: /home/somebody/resnet.pth
"""
PUBLISHED = """seed: 0
dataset:
  name: coco_json
  options: {}
init: fcn-generated-f0-s0-01234567
core: COCO_V1
trunk:
  weights: resnet.pth
"""


def _study(folder: Path, dataset: str, dirty: bool) -> Path:
    study = synthetic.make_study(folder / "study", {"fcn": 3.0, "unet": 1.0}, images=5)
    for path in study.glob("runs/*/result.json"):
        result = json.loads(path.read_text())
        result["dataset"] = dataset
        result["provenance"]["dirty"] = dirty
        path.write_text(json.dumps(result))
        (path.parent / "config.yaml").write_text(CONFIG)
    tuning_files.write(study, {"fcn": [[40.0, 41.0]], "unet": [[42.0, 39.0]]})
    frozen_plans.frozen().write(study)
    build.build(study, "fcn", 20)
    return study


@pytest.mark.parametrize(("dataset", "panels"), [("generated", True), ("pennfudan", False)])
def test_panels_go_along_only_where_images_are_generated(tmp_path: Path, dataset: str, panels: bool) -> None:
    study = _study(tmp_path, dataset, dirty=False)
    assert (study / "panels.png").exists() and (study / "disagreement.png").exists()
    to = tmp_path / "reference"
    publish(study, to)
    (to / "configs" / "of_a_run_that_is_gone.yaml").write_text("")
    (to / "true_boxes.csv").write_text("of an earlier version")
    written = publish(study, to)
    assert set(written) == {path for path in to.rglob("*") if path.is_file()}
    assert (to / "panels.png").exists() == (to / "disagreement.png").exists() == panels
    assert not (to / "disagreement").exists()
    names = ["ap.csv", "runs.csv", "learning_curves.pdf", "forest.png", "win_tie_loss.md", "ap_by_object.tex"]
    for name in (*names, "plan.json", "tuning.json", "tuning.csv", "budget.png"):
        assert (to / name).read_bytes() == (study / name).read_bytes()
    assert not list(to.rglob("*.npz")) and not list(to.rglob("predictions.json"))
    if panels:
        publish(study, to, predictions=True)
        for run in study.glob("runs/*"):
            packed = gzip.decompress((to / "predictions" / f"{run.name}.json.gz").read_bytes())
            assert packed == (run / "predictions.json").read_bytes()
        (truth,) = {json.loads(path.read_text())["ground_truth"] for path in study.glob("runs/*/result.json")}
        assert (
            gzip.decompress((to / "predictions" / f"{Path(truth).name}.gz").read_bytes())
            == (study / truth).read_bytes()
        )
    else:
        with pytest.raises(UserError, match="generated images alone"):
            publish(study, to, predictions=True)
    configs = list((to / "configs").iterdir())
    assert len(configs) == len(list((study / "runs").iterdir()))
    assert {path.read_text() for path in configs} == {PUBLISHED}


def test_summary_has_the_numbers_of_the_tables(tmp_path: Path) -> None:
    study = _study(tmp_path, "generated", dirty=False)
    publish(study, tmp_path / "to")
    lines = (tmp_path / "to" / "summary.md").read_text().splitlines()
    ap = pd.read_csv(study / "ap.csv")
    assert len(lines) == 2 + len(ap)
    for line, (_, row) in zip(lines[2:], ap.iterrows(), strict=True):
        assert f" {row['mask_AP_mean']:.1f} " in line
        if not row["is_baseline"]:
            assert f"{row['mask_AP_diff']:+.1f} [{row['mask_AP_diff_low']:+.1f}" in line


def test_summary_shows_what_was_not_measured_as_a_dash(tmp_path: Path) -> None:
    study = synthetic.make_study(tmp_path / "study", {"fcn": 3.0, "unet": 1.0}, seeds=1, images=5)
    for path in study.glob("runs/*"):
        (path / "config.yaml").write_text("seed: 0\n")
    speed = json.loads((study / "speed.json").read_text())
    del speed["variants"]["unet"]
    speed["variants"]["fcn"]["head_ms"] = None
    (study / "speed.json").write_text(json.dumps(speed))
    build.build(study, "fcn", 20)
    publish(study, tmp_path / "to")
    text = (tmp_path / "to" / "summary.md").read_text()
    assert "nan" not in text and "±" not in text
    fcn, unet = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:])
    ap = pd.read_csv(study / "ap.csv").set_index("variant")
    assert fcn[1:4] == [f"{ap.loc['fcn', f'{kind}_AP_mean']:.1f}" for kind in ("box", "mask", "boundary")]
    assert fcn[4:] == ["–", "2,600,000", "530.0", "–"]
    assert unet[2] == f"{ap.loc['unet', 'mask_AP_mean']:.1f}"
    assert unet[5:] == ["–", "–", "–"]


def test_runs_of_uncommitted_code_are_refused(tmp_path: Path) -> None:
    study = _study(tmp_path, "generated", dirty=True)
    with pytest.raises(UserError, match="no commit"):
        publish(study, tmp_path / "to")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("mine", ["thesis.txt", "configs/thesis.txt", "runs/a/result.json"])
def test_nothing_of_a_users_is_ever_replaced(tmp_path: Path, mine: str) -> None:
    study = _study(tmp_path, "generated", dirty=False)
    to = tmp_path / "home"
    publish(study, to)
    (to / mine).parent.mkdir(parents=True, exist_ok=True)
    (to / mine).write_text("two years of work")
    with pytest.raises(UserError, match="something else"):
        publish(study, to)
    assert (to / mine).read_text() == "two years of work"
    with pytest.raises(UserError, match="something else"):
        publish(study, study)
    assert (study / "runs").is_dir()

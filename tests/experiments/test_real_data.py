"""Studies of real photographs start, train, checkpoint, resume and evaluate."""

import json
import shutil
from pathlib import Path

import apps
import pytest
from hydra import compose, initialize_config_module

from experiments.config import run as config
from experiments.report import build
from experiments.runs.end_to_end import run

SMALL = (
    "trunk.weights=null",
    "trunk.norm=batch",
    "trunk.trainable_layers=null",
    "dataset.train_min_size=[128]",
    "dataset.train_max_size=192",
    "dataset.min_size=128",
    "dataset.max_size=192",
    "schedule.iterations=2",
    "schedule.reference_batch=null",
    "schedule.batch_size=2",
    "runtime.workers=1",
    "runtime.checkpoint_every=1",
    "runtime.evaluate_every=0",
    "evaluation.speed=false",
    "evaluation.resamples=20",
)

TINY = (
    "trunk.out_channels=8",
    "detector.box_features=16",
    "dataset.max_train_images=8",
    "dataset.max_val_images=6",
    "dataset.train_min_size=[96]",
    "dataset.train_max_size=128",
    "dataset.min_size=96",
    "dataset.max_size=128",
    "schedule.iterations=3",
    "schedule.batch_size=2",
    "schedule.warmup=1",
    "schedule.reference_batch=null",
    "schedule.milestones=[]",
    "runtime.workers=0",
    "runtime.evaluate_every=0",
    "runtime.device=cpu",
    "evaluation.resamples=20",
)


@pytest.mark.parametrize(
    ("dataset", "images", "classes"),
    [("pennfudan", 34, 1), ("coco", 120, 80), ("balloon", 13, 1), ("open_images", 2, 3), ("coco_json", 3, 5)],
)
def test_every_real_set_trains_and_evaluates(
    real_data: Path, tmp_path: Path, dataset: str, images: int, classes: int
) -> None:
    folder = real_data / "label_studio"
    files = [f"dataset.annotations={folder / 'result.json'}", f"dataset.images={folder / 'images'}"]
    config.register()
    for head in ("fcn", "unet"):
        with initialize_config_module("experiments.conf", version_base="1.3"):
            composed = compose(
                "config",
                [
                    "study=mine",
                    f"dataset={dataset}",
                    *(files if dataset == "coco_json" else []),
                    f"head={head}",
                    "trunk=small",
                    *TINY,
                    f"data_root={real_data}",
                    f"results_dir={tmp_path}",
                ],
            )
        result = json.loads((run(config.to_config(composed)) / "result.json").read_text())
        assert result["iterations"] == 3
        assert result["metrics"]["mask"]["AP"] is not None
        assert result["true_boxes"]
    truth = json.loads((tmp_path / "mine" / result["ground_truth"]).read_text())
    assert (len(truth["images"]), len(truth["categories"])) == (min(images, 6), classes)
    if dataset == "coco_json":
        assert "unet" in build.build(tmp_path / "mine", "fcn", 20)
        assert (tmp_path / "mine" / "panels.png").exists()


def test_pennfudan_smoke(real_data: Path, tmp_path: Path) -> None:
    weights = real_data.parent / "torch_home" / "hub" / "checkpoints" / "mobilenet_v2-b0353104.pth"
    if not weights.exists():
        pytest.skip(f"no ImageNet weights at {weights}")
    done = apps.run(
        "sweep",
        "study=pennfudan_smoke",
        "schedule.iterations=4",
        "evaluation.resamples=20",
        "evaluation.speed=false",
        f"trunk.weights={weights}",
        f"data_root={real_data}",
        f"results_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    study = tmp_path / "pennfudan_smoke"
    assert (study / "panels" / "unet.png").exists()
    truth = json.loads(next(study.glob("ground_truth/*.json")).read_text())
    # images 0, 5, 10 and 15 of the sorted list are the first four of fold 0
    assert [image["file_name"].rpartition("/")[2] for image in truth["images"]] == [
        "FudanPed00001.png",
        "FudanPed00006.png",
        "FudanPed00011.png",
        "FudanPed00016.png",
    ]


@pytest.mark.parametrize(("study", "trunk"), [("coco_1x", "resnet50"), ("coco_3x", "resnet101")])
def test_coco_recipes_start_train_and_evaluate(real_data: Path, tmp_path: Path, study: str, trunk: str) -> None:
    done = apps.run(
        "train",
        f"study={study}",
        *SMALL,
        "dataset.max_val_images=12",
        f"data_root={real_data}",
        f"results_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = apps.folders(tmp_path, study)
    result = json.loads((folder / "result.json").read_text())
    assert result["trunk"] == trunk
    assert (folder / "checkpoint.pt").exists()
    truth = json.loads((tmp_path / study / result["ground_truth"]).read_text())
    assert len(truth["categories"]) == 80 and len(truth["images"]) == 12
    assert result["metrics"]["mask"]["AP"] is not None


def test_a_truncated_image_stops_its_run_in_one_line(real_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "PennFudanPed"
    for part in ("PNGImages", "PedMasks"):
        (copy / part).mkdir(parents=True)
        for path in sorted((real_data / "PennFudanPed" / part).iterdir())[:6]:
            shutil.copyfile(path, copy / part / path.name)
    for path in sorted((copy / "PNGImages").iterdir())[1:]:
        path.write_bytes(path.read_bytes()[:20000])
    done = apps.run("train", "study=pennfudan_smoke", *SMALL, f"data_root={tmp_path}", f"results_dir={tmp_path / 'r'}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert ".png" in line and "truncated" in line

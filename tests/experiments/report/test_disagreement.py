"""Which images are shown, and where they come from."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from synthetic import make_run

from experiments.config import run as config
from experiments.report import disagreement
from experiments.report.section import Findings
from experiments.runs.study import read
from instseg.data.sets.generated import Generated


def write_config(run: Path, dataset: str, *overrides: str) -> None:
    config.register()
    with initialize_config_module("experiments.conf", version_base="1.3"):
        composed = config.to_config(compose("config", overrides=["study=quick", f"dataset={dataset}", *overrides]))
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(composed)))


def differences(*values: float) -> pd.DataFrame:
    rows = [{"ground_truth": "t", "image_id": n, "difference": value} for n, value in enumerate(values)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, -0.5, 0.3, 0.0, -0.1, 0.2, -0.2], [2, 5, 6, 1]),
        ([0.1, 0.5, 0.3, 0.0, 0.4, 0.2, -0.01], [1, 4, 2, 6]),
        ([-0.1, -0.5, -0.3, -0.2, -0.4], [3, 2, 4, 1]),
        ([0.0, 0.2], [1]),
    ],
)
def test_the_largest_differences_of_either_side_are_shown_from_best_to_worst(
    values: list[float], expected: list[int]
) -> None:
    assert list(disagreement.both_ways(differences(*values))["image_id"]) == expected


def test_of_all_heads_the_images_with_the_largest_spread_are_shown() -> None:
    ious = {"a": [0.5, 0.1, 0.5, 0.2, 0.9], "b": [0.5, 0.9, 0.7, 0.3, 0.1], "c": [0.5, 0.5, 0.6, 0.9]}
    rows = [
        {"variant": v, "fold": 0, "seed": 0, "ground_truth": "t", "image_id": n, "iou": iou}
        for v, values in ious.items()
        for n, iou in enumerate(values)
    ]
    found = disagreement.largest_spread(pd.DataFrame(rows))
    # the last is not of all heads; on the first they agree
    assert list(found["image_id"]) == [1, 3, 2, 4]
    assert found["spread"].iloc[0] == pytest.approx(np.std([0.1, 0.9, 0.5]))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two runs on generated images of which the study stores but one."""
    for variant in ("fcn", "unet"):
        make_run(tmp_path, variant, 1.0, images=6)
    options = {"size": [64, 64], "seed": 3, "figures": [1, 2]}
    data = Generated("val", images=6, **options)
    truth = data.ground_truth()
    name = next((tmp_path / "ground_truth").glob("*.json"))
    name.write_text(json.dumps(truth, sort_keys=True))
    stored = data.image_ids[2]
    np.savez(name.with_name(f"{name.stem}-images.npz"), **{f"image_{stored}": np.zeros((64, 64, 3), np.uint8)})
    for run in (tmp_path / "runs").iterdir():
        keys = ("image_id", "category_id", "bbox", "segmentation")
        found = [{key: a[key] for key in keys} | {"score": 0.9} for a in truth["annotations"] if not a["iscrowd"]]
        if run.name.startswith("unet"):
            # of the fifth image all is missed
            found = [one for one in found if one["image_id"] not in (data.image_ids[4], stored)]
        (run / "predictions.json").write_text(json.dumps(found))
        of_data = [f"dataset.options.{key}={value}" for key, value in options.items()]
        write_config(run, "generated", "dataset.max_val_images=6", *of_data)
    return tmp_path


def test_images_come_from_the_data_set_where_it_is_at_hand(study: Path) -> None:
    chosen, notes = disagreement.choose(Findings(read(study), "fcn", 20))
    assert notes == []
    data = Generated("val", images=6, size=(64, 64), seed=3, figures=(1, 2))
    missed = [data.image_ids[2], data.image_ids[4]]
    assert set(chosen) == {"", "unet"}
    for images in chosen.values():
        assert sorted(image.key[1] for image in images) == missed
        for image in images:
            index = data.image_ids.index(image.key[1])
            assert np.array_equal(image.image, data[index][0].permute(1, 2, 0).numpy())
            assert [image.predictions[v].iou for v in ("fcn", "unet")] == [pytest.approx(1), 0]
    assert [image.title for image in chosen["unet"]] == [f"image {number}\n-1.00" for number in missed]


@pytest.mark.parametrize("gone", ["config", "annotations"])
def test_else_they_come_from_the_stored_ones_with_a_note(study: Path, gone: str) -> None:
    if gone == "config":
        for run in (study / "runs").iterdir():
            (run / "config.yaml").unlink()
    else:
        path = next((study / "ground_truth").glob("*.json"))
        truth = json.loads(path.read_text())
        truth["annotations"][0]["area"] += 1
        path.write_text(json.dumps(truth))
    chosen, (note,) = disagreement.choose(Findings(read(study), "fcn", 20))
    assert "only the 1 stored images" in note and "data_root=" in note
    (image,) = chosen["unet"]
    assert not image.image.any()


def test_nothing_is_downloaded(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a download"))
    for run in (study / "runs").iterdir():
        write_config(run, "pennfudan", "data_root=null", f"dataset.options.download_dir={tmp_path / 'nowhere'}")
    chosen, (note,) = disagreement.choose(Findings(read(study), "fcn", 20))
    assert "only the 1 stored images" in note and "nowhere" in note
    assert len(chosen["unet"]) == 1
    assert not (tmp_path / "nowhere").exists()

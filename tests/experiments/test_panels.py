"""Which pictures, runs and predictions are shown, and in which colours."""

import json
from pathlib import Path

import numpy as np
from synthetic import ellipse, make_run, make_study

from experiments import panels
from experiments.aggregate import read


def instances(*masks: np.ndarray) -> panels.Instances:
    colours = [(0.1 * n, 0.5, 0.5) for n in range(len(masks))]
    return panels.Instances(np.stack(masks), np.zeros((len(masks), 4)), colours)


def test_a_prediction_has_the_colour_of_its_object() -> None:
    left, right = ellipse((30, 40, 15, 15)), ellipse((90, 40, 15, 15))
    truth = instances(left, right)
    nearly_right, poorly_right, nowhere = ellipse((92, 40, 15, 15)), ellipse((98, 40, 15, 15)), ellipse((60, 80, 9, 9))
    found = panels.matched_colours(np.stack([nowhere, poorly_right, nearly_right, left]), truth)
    assert found[2] == truth.colours[1]
    assert found[3] == truth.colours[0]
    assert len(set(found)) == 4
    assert not {found[0], found[1]} & set(truth.colours)


def test_without_objects_or_predictions_there_is_nothing_to_match() -> None:
    none = np.zeros((0, 96, 128), dtype=bool)
    truth = panels.Instances(none, np.zeros((0, 4)), [])
    assert panels.matched_colours(none, truth) == []
    assert len(set(panels.matched_colours(np.stack([ellipse((30, 40, 9, 9))] * 3), truth))) == 3


def test_only_confident_predictions_of_the_first_run_are_shown(tmp_path: Path) -> None:
    make_study(tmp_path, {"fcn": 1.0, "unet": 1.0}, seeds=2, images=5)
    for path in (tmp_path / "runs").iterdir():
        found = json.loads((path / "predictions.json").read_text())
        # Seed 0 keeps one sure prediction on image 1 and an unsure one; seed 1 keeps all.
        if "-s0-" in path.name:
            found = [p for p in found if p["image_id"] == 1][:2]
            found[0]["score"], found[1]["score"] = 0.9, 0.5
            (path / "predictions.json").write_text(json.dumps(found))
    pictures = panels.collect(read(tmp_path), ["fcn", "unet"])
    assert [picture.key[1] for picture in pictures] == [1, 2, 3]
    assert [len(picture.predictions["fcn"].masks) for picture in pictures] == [1, 0, 0]
    assert all(len(picture.truth.masks) >= 2 for picture in pictures)


def test_pictures_that_most_variants_have_come_first_and_the_rest_says_no_run(tmp_path: Path) -> None:
    make_run(tmp_path, "fcn", 1.0, fold=0, images=5)
    make_run(tmp_path, "fcn", 1.0, fold=1, images=5)
    make_run(tmp_path, "unet", 1.0, fold=1, images=5)
    pictures = panels.collect(read(tmp_path), ["fcn", "unet"])
    assert len(pictures) == panels.PICTURES
    assert ["-f1-" in picture.key[0] for picture in pictures] == [True, True, True, False]
    assert [set(picture.predictions) for picture in pictures] == [{"fcn", "unet"}] * 3 + [{"fcn"}]
    figure = panels.grid(pictures, ["fcn", "unet"])
    assert figure is not None
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["no run on\nthis picture"]
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "fcn", "unet", "ground truth"]


def test_file_names_are_safe_and_distinct() -> None:
    names = panels.file_names(["unet(depth=1, skip=a/b)", "unet_depth=1_skip=a_b", "../x", "fcn"])
    assert len(set(names.values())) == 4
    assert names["fcn"] == "fcn"
    assert not any("/" in name or name.startswith(".") for name in names.values())

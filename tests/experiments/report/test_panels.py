"""Which images, runs and predictions are shown, and in which colours."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic import ellipse, make_run, make_study

from experiments.render import masks
from experiments.render.plot import file_names
from experiments.render.table import wrap
from experiments.report import panels
from experiments.report.section import Findings
from experiments.runs.study import read
from instseg.errors import DataError

# (height, width) of landscape, portrait and square images
SIZES = ((24, 32), (32, 24), (24, 24))


def instances(*shapes: np.ndarray) -> masks.Instances:
    colours = [(0.1 * n, 0.5, 0.5) for n in range(len(shapes))]
    return masks.Instances(np.stack(shapes), np.zeros((len(shapes), 4)), colours)


def collected(folder: Path) -> list[masks.Column]:
    return panels.collect(Findings(read(folder), "fcn", 10))


def test_a_prediction_has_the_colour_of_its_object() -> None:
    truth = instances(ellipse((30, 40, 15, 15)), ellipse((90, 40, 15, 15)))
    found = masks.matched_colours(4, {3: (0, 1.0), 2: (1, 0.7)}, truth)
    assert found[2] == truth.colours[1]
    assert found[3] == truth.colours[0]
    assert len(set(found)) == 4
    assert not {found[0], found[1]} & set(truth.colours)
    none = masks.Instances(np.zeros((0, 96, 128), dtype=bool), np.zeros((0, 4)), [])
    assert len(set(masks.matched_colours(3, {}, none))) == 3


def test_only_confident_predictions_of_the_first_run_are_shown(tmp_path: Path) -> None:
    make_study(tmp_path, {"fcn": 1.0, "unet": 1.0}, seeds=2, images=5)
    for path in (tmp_path / "runs").iterdir():
        found = json.loads((path / "predictions.json").read_text())
        # Seed 0 keeps one sure prediction on image 1 and an unsure one; seed 1 keeps all.
        if "-s0-" in path.name:
            found = [p for p in found if p["image_id"] == 1][:2]
            found[0]["score"], found[1]["score"] = 0.9, 0.5
            (path / "predictions.json").write_text(json.dumps(found))
    images = collected(tmp_path)
    assert [image.key[1] for image in images] == [1, 2, 3]
    assert [len(image.predictions["fcn"].masks) for image in images] == [1, 0, 0]
    assert all(len(image.truth.masks) >= 2 for image in images)


def test_the_number_is_the_mean_iou_of_all_objects(tmp_path: Path) -> None:
    run = make_run(tmp_path, "fcn", 0.0, images=1)
    objects = json.loads((tmp_path / "ground_truth" / "generated-f0-00000001.json").read_text())["annotations"]
    found = json.loads((run / "predictions.json").read_text())
    # The first object is found, exactly; the second too, but not surely.
    (run / "predictions.json").write_text(json.dumps([found[0], found[1] | {"score": 0.5}]))
    (image,) = collected(tmp_path)
    assert len(objects) > 1
    assert image.predictions["fcn"].iou == pytest.approx(1 / len(objects))
    assert image.truth.iou is None


def test_images_that_most_variants_have_come_first_and_the_rest_says_no_run(tmp_path: Path) -> None:
    make_run(tmp_path, "fcn", 1.0, fold=0, images=5)
    make_run(tmp_path, "fcn", 1.0, fold=1, images=5)
    make_run(tmp_path, "unet", 1.0, fold=1, images=5)
    images = collected(tmp_path)
    assert len(images) == panels.IMAGES
    assert ["-f1-" in image.key[0] for image in images] == [True, True, True, False]
    assert [set(image.predictions) for image in images] == [{"fcn", "unet"}] * 3 + [{"fcn"}]
    figure = masks.grid(images, ["fcn", "unet"], panels.explanation(images))
    assert figure is not None
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("no run on\nthis image") == 1
    assert [text.get_text() for text in figure.texts[1:]] == ["image", "fcn", "unet", "ground truth"]


@pytest.mark.parametrize("content", [b"", b"no images", b"PK\x03\x04 cut off"])
def test_stored_images_that_are_damaged_are_named(tmp_path: Path, content: bytes) -> None:
    make_run(tmp_path, "fcn", 1.0, images=3)
    (path,) = (tmp_path / "ground_truth").glob("*.npz")
    path.write_bytes(content)
    with pytest.raises(DataError, match="delete it") as caught:
        collected(tmp_path)
    assert str(caught.value).startswith(f"{path}: can't be used")


def column(colour: int, size: tuple[int, int], variants: list[str]) -> masks.Column:
    """A grey image, fully covered by one object a variant whose red and green tell the variant."""
    image = np.full((*size, 3), colour, dtype=np.uint8)

    def cover(red: float, green: float) -> masks.Instances:
        return masks.Instances(np.ones((1, *size), bool), np.array([[0.0, 0, *size[::-1]]]), [(red, green, 0.0)], 0.5)

    predictions = {variant: cover(n / 32, 1 - n / 32) for n, variant in enumerate(variants)}
    truth = cover(1.0, 1.0)
    return masks.Column(("truth.json", colour), image, replace(truth, iou=None), predictions)


@pytest.mark.parametrize("count", [1, 3, 8, 16, 18])
def test_each_cell_holds_its_variant_and_image_beside_its_name(count: int) -> None:
    variants = ["fcn_params_of_unet", "fcn", *(f"a_long_name_{n}(depth={n}, skip=none)" for n in range(count - 2))]
    variants = variants[:count]
    shades = (40, 120, 200)
    columns = [column(c, s, variants) for c, s in zip(shades, SIZES, strict=True)]
    figure = masks.grid(columns, variants, panels.explanation(columns))
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(float)
    height, width = drawn.shape[:2]
    assert 600 < width <= 2400
    assert 500 < height <= 2400
    names = figure.texts[1:]
    cells = [axes.get_window_extent() for axes in figure.axes]
    extents = [name.get_window_extent() for name in names]
    assert not any(one.overlaps(other) for one, other in combinations([*extents, *cells], 2))
    assert figure.texts[0].get_window_extent().y0 > max(box.y1 for box in cells)
    assert figure.texts[0].get_window_extent().x1 < width
    # Top to bottom, block by block, as a reader goes.
    seen = []
    for name, extent in zip(names, extents, strict=True):
        middle = (extent.y0 + extent.y1) / 2
        row = sorted((box for box in cells if box.y0 < middle < box.y1 and box.x0 > extent.x0), key=lambda box: box.x0)
        found = []
        for box, shade, (h, w) in zip(row, shades, SIZES, strict=False):
            assert box.width / box.height == pytest.approx(w / h)
            assert box.height >= 90
            pixel = drawn[int(height - (box.y0 + box.y1) / 2), int((box.x0 + box.x1) / 2)] / 255
            object_colour = (pixel - (1 - 0.45) * shade / 255) / 0.45
            found.append(None if np.allclose(pixel, shade / 255, atol=0.01) else object_colour)
        text = name.get_text()
        if text == "image":
            assert found == [None] * 3
        elif text == "ground truth":
            assert np.allclose(found, [1, 1, 0], atol=0.02)
        else:
            label = variants[[wrap(variant, 18) for variant in variants].index(text)]
            n = variants.index(label)
            assert np.allclose(found, [n / 32, 1 - n / 32, 0], atol=0.015), label
            seen.append(label)
    assert seen == variants
    assert [name.get_text() for name in names].count("image") == (1 if count <= 3 else 2)
    numbers = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert numbers == ["0.50"] * 3 * count


def test_file_names_are_safe_and_distinct() -> None:
    names = file_names(["unet(depth=1, skip=a/b)", "unet_depth=1_skip=a_b", "../x", "fcn"])
    assert len(set(names.values())) == 4
    assert names["fcn"] == "fcn"
    assert not any("/" in name or name.startswith(".") for name in names.values())
    # file systems take 255 bytes, and what is written for a moment has a longer name
    long = file_names([f"unet({'é' * 300}{end})" for end in "ab"])
    assert len(set(long.values())) == 2 and all(len(name.encode()) <= 100 for name in long.values())

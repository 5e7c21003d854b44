"""VIA files: what is read of them, and what is said about those that are damaged."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from via_files import HEIGHT, SQUARE, TRIANGLE, WIDTH, Files, document, polygon, shape

from instseg.data.sets.balloon import URL, Balloon
from instseg.errors import UserError

Refused = Callable[..., str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_regions_as_an_object_and_as_a_list(files: Files) -> None:
    data = files.load(document())
    assert (data.image_ids, data.skipped, data.num_classes) == ([1, 2], [], 2)
    image, target = data[1]
    assert image.shape == (3, HEIGHT, WIDTH) and image.unique().tolist() == [1]
    assert target["boxes"].tolist() == [[4, 5, 14, 15], [20, 2, 26, 7]]
    assert target["labels"].tolist() == [1, 1]
    assert target["area"][0] == 100
    assert data.describe(0).endswith("a.png")
    truth = data.ground_truth()
    assert json.loads(json.dumps(truth)) == truth
    assert [(a["id"], a["image_id"]) for a in truth["annotations"]] == [(1, 1), (2, 2), (3, 2)]
    assert data.sizes() == [(HEIGHT, WIDTH)] * 2


def test_a_project_and_another_order_are_the_same_data(files: Files) -> None:
    one = files.load(document()).fingerprint()
    turned = dict(reversed(document().items()))
    assert files.load(turned).fingerprint() == one
    assert files.load({"_via_settings": {}, "_via_img_metadata": turned}).fingerprint() == one
    assert files.load(document() | {"b.png99": {"filename": "b.png", "regions": []}}).fingerprint() != one


def one_region(region: Any) -> dict[str, Any]:
    return {"a": {"filename": "a.png", "regions": [region]}, "b": {"filename": "b.png", "regions": [SQUARE]}}


def test_shapes_other_than_polygons(files: Files) -> None:
    rect = files.load(one_region(shape("rect", x=4, y=5, width=10, height=10)))[0][1]["masks"]
    assert torch.equal(rect, files.load(one_region(SQUARE))[0][1]["masks"])
    closed = polygon((4, 5), (14, 5), (14, 15), (4, 15), (4, 5), name="polyline")
    assert torch.equal(rect, files.load(one_region(closed))[0][1]["masks"])
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    for round_shape, rx, ry in (
        (shape("circle", cx=12, cy=10, r=7), 7, 7),
        (shape("ellipse", cx=12, cy=10, rx=9, ry=5), 9, 5),
        (shape("ellipse", cx=12, cy=10, rx=5, ry=9, theta=math.pi / 2), 9, 5),
    ):
        mask = files.load(one_region(round_shape))[0][1]["masks"][0].bool()
        inside = ((columns - 12) / rx) ** 2 + ((rows - 10) / ry) ** 2 <= 1
        assert (mask & inside).sum() / (mask | inside).sum() > 0.9


@pytest.mark.parametrize(
    ("region", "part"),
    [
        (shape("point", cx=4, cy=4), "a point"),
        (polygon((1, 1), (9, 1), (9, 9), name="polyline"), "open polyline"),
        (polygon((1, 1), (9, 1)), "4 numbers"),
        (polygon((1, 1), (9, 1), (9, math.nan)), "NaN"),
        (polygon((1, 1), (9, 1), (9, 1e9)), "far outside"),
        (polygon((1, 1), (9, 1), (9, 10**400)), "too large"),
        (polygon((40, 1), (49, 1), (49, 9)), "no pixel"),
        (shape("polygon", all_points_x=[1, 2, 3], all_points_y=[1, 2]), "one length"),
        (shape("polygon", all_points_x=[1, 2, "3"], all_points_y=[1, 2, 3]), "'3' is no number"),
        (shape("polygon", all_points_x=[1, 2, 3]), "no 'all_points_y'"),
        (shape("rect", x=1, y=1, width=0, height=4), "no pixel"),
        (shape("cube"), "'cube'"),
        ({}, "shape_attributes"),
        ("polygon", "shape_attributes"),
    ],
)
def test_a_region_without_inside_is_left_out_or_an_error(
    files: Files, refused: Refused, region: Any, part: str
) -> None:
    content = document()
    content["b.png99"]["regions"] = {"7": TRIANGLE, "8": region}
    data = files.load(content)
    (line,) = data.skipped
    assert line.startswith("region 8 of b.png: ") and part in line
    assert data[1][1]["boxes"].tolist() == [[20, 2, 26, 7]]
    assert len(data.ground_truth()["annotations"]) == 2
    refused(lambda: files.load(content, invalid="error"), files.json, "region 8 of b.png", part, "invalid=drop")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (json.dumps(document())[:80], ["truncated"]),
        ([document()], ["no object", "filename"]),
        ({}, ["no image"]),
        ({"x": 3}, ["'x'", "filename"]),
        ({"x": {"filename": "a.png"}}, ["a.png", "regions None"]),
        ({"x": {"filename": "no.png", "regions": []}}, ["no.png does not exist"]),
        ({"x": {"filename": "a.png", "regions": []}, "y": {"filename": "./a.png", "regions": []}}, ["a.png", "twice"]),
    ],
)
def test_what_is_no_via_file_is_refused(files: Files, refused: Refused, content: Any, parts: list[str]) -> None:
    refused(lambda: files.load(content), files.json, *parts)


def test_damaged_images_are_all_found_at_once(files: Files, refused: Refused) -> None:
    for name in "ab":
        (files.folder / f"{name}.png").write_bytes(b"")
    refused(lambda: files.load(document()), "a.png is an empty file", "1 more")


def test_images_that_nobody_annotated_are_told_of(files: Files) -> None:
    content = document()
    del content["b.png99"]
    assert files.load(content).skipped == ["image b.png has no entry in via_region_data.json"]


def test_images_limits_and_folders_are_found(files: Files, refused: Refused, tmp_path: Path) -> None:
    files.load(document())
    assert Balloon("train", root=files.root / "balloon", images=1).image_ids == [1]
    refused(lambda: Balloon("train", root=files.root, images=0), "images=0", error=UserError)
    refused(lambda: Balloon("vall", root=files.root), "'vall'", error=UserError)
    refused(lambda: Balloon("train", root=files.root, invalid="dorp"), "'dorp'", error=UserError)
    refused(lambda: Balloon("val", root=files.root), "val/via_region_data.json", URL)
    refused(lambda: Balloon("val", root=tmp_path / "nowhere"), tmp_path / "nowhere", URL)
    shutil.rmtree(files.folder)
    refused(lambda: Balloon("val", root=files.root), files.root, URL)


@pytest.mark.parametrize(("split", "images", "balloons"), [("train", 24, 85), ("val", 13, 50)])
def test_the_real_part_is_whole(real_data: Path, split: str, images: int, balloons: int) -> None:
    data = Balloon(split, root=real_data)
    assert (len(data), len(data.ground_truth()["annotations"])) == (images, balloons)
    assert data.skipped == []
    image, target = data[0]
    assert target["masks"].shape[1:] == image.shape[1:] == data.sizes()[0]

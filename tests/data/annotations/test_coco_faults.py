"""Each way to damage a COCO file ends in one line that names the file and the id."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_files import HEIGHT, SQUARE, WIDTH, Files, document, read, score

from instseg.errors import DataError

Refused = Callable[..., str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["no JSON"]),
        ("{'images': 3}", ["no JSON"]),
        (json.dumps(document())[:300], ["truncated"]),
        ("[" * 100_000, ["truncated or no JSON"]),
        ("7", ["no object", "images, annotations and categories"]),
        ([{"image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 0.5}], ["list", "results"]),
        ({"images": [], "categories": []}, ["no 'annotations'"]),
        (document() | {"images": []}, ["'images' is empty"]),
        (document() | {"annotations": []}, ["'annotations' is empty"]),
        (document() | {"categories": []}, ["'categories' is empty"]),
        (document() | {"images": {"7": "7.png"}}, ["'images' is not a list"]),
        (document() | {"images": ["7.png"]}, ["entry 0 of 'images'"]),
        (document() | {"annotations": [3]}, ["entry 0 of 'annotations'"]),
        (document() | {"categories": ["cat", "dog"]}, ["entry 0 of 'categories'", "1 more"]),
    ],
)
def test_what_is_no_coco_file_is_refused(files: Files, refused: Refused, content: Any, parts: list[str]) -> None:
    for invalid in ("error", "drop"):
        refused(lambda invalid=invalid: files.load(content, invalid=invalid), files.json, *parts)


def change(content: dict[str, Any], key: str, position: int, **values: Any) -> dict[str, Any]:
    """A document with some fields of an entry set; None takes the field away."""
    content = copy.deepcopy(content)
    entry = content[key][position]
    for field, value in values.items():
        entry[field] = value
        if value is None:
            del entry[field]
    return content


def crowd_of(counts: Any, size: Any = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return change(document(), "annotations", 1, segmentation={"size": size, "counts": counts})


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (change(document(), "images", 0, id=7), ["id 7", "twice", "'images'"]),
        (change(document(), "images", 0, id="x"), ["entry 0", "'images'"]),
        (change(document(), "images", 0, height="tall"), ["id 9", "height 'tall'"]),
        (change(document(), "images", 0, width=0), ["id 9", "width 0"]),
        (change(document(), "images", 0, width=-3), ["id 9", "width -3"]),
        (change(document(), "images", 0, file_name=3), ["id 9", "file_name 3"]),
        (change(document(), "images", 0, file_name="none.png"), ["none.png", "image 9", "does not exist"]),
        (change(document(), "images", 0, file_name="sub/none.png"), ["sub/none.png", "image 9"]),
        (change(document(), "categories", 0, id=2), ["id 2", "twice", "'categories'"]),
        (change(document(), "categories", 0, name=None), ["id 5", "name"]),
        (change(document(), "annotations", 1, id=11), ["annotation id 11", "twice"]),
        (change(document(), "annotations", 1, id=None), ["entry 1", "'annotations'"]),
        (change(document(), "annotations", 1, image_id=70), ["annotation 12", "image 70", "'images'"]),
        (change(document(), "annotations", 1, image_id=[7]), ["annotation 12", "[7]"]),
        (change(document(), "annotations", 1, category_id=3), ["annotation 12", "category 3"]),
        (change(document(), "annotations", 1, category_id=None), ["annotation 12", "category None"]),
        (change(document(), "annotations", 1, iscrowd="no"), ["annotation 12", "iscrowd 'no'"]),
        (crowd_of([40, 20, 540], size=[WIDTH, HEIGHT]), ["annotation 12", "image 7", "[30, 20]", "[20, 30]"]),
        (crowd_of([40, 20, 540], size=None), ["annotation 12", "[20, 30]"]),
        (crowd_of([40, 20, 500]), ["annotation 12", "560", "600"]),
        (crowd_of([40, 20, 54_000]), ["annotation 12", "600"]),
        (crowd_of([40, -20, 580]), ["annotation 12", "damaged"]),
        (crowd_of([40, "20", 540]), ["annotation 12", "damaged"]),
        (crowd_of(None), ["annotation 12", "damaged"]),
        (crowd_of("X1d0^"), ["annotation 12", "damaged"]),  # ends within a number
        (crowd_of("X1\x01d0"), ["annotation 12", "damaged"]),
        (crowd_of("X1d0"), ["annotation 12", "600"]),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    files: Files, refused: Refused, content: dict[str, Any], parts: list[str]
) -> None:
    for invalid in ("error", "drop"):
        refused(lambda invalid=invalid: files.load(content, invalid=invalid), files.json, *parts)


def test_one_line_counts_all_faults_of_a_kind(files: Files, refused: Refused) -> None:
    content = document()
    for annotation in content["annotations"]:
        annotation["image_id"] = 3
    refused(lambda: files.load(content), "annotation 11", "2 more")


DEGENERATE: list[tuple[dict[str, Any], bool, str]] = [
    ({"segmentation": [[1, 1, 9, 1]]}, False, "4 numbers"),  # pycocotools would take this for a box
    ({"segmentation": [SQUARE, [1, 1, 9, 1]]}, False, "4 numbers"),
    ({"segmentation": [[1, 1]]}, False, "2 numbers"),
    ({"segmentation": [[]]}, False, "0 numbers"),
    ({"segmentation": [[1, 1, 9, 1, 9, 9, 4]]}, False, "in pairs"),
    ({"segmentation": [[1, 1, 9, 1, 9, math.nan]]}, False, "NaN"),
    ({"segmentation": [[1, 1, 9, 1, 9, -math.inf]]}, False, "infinity"),
    ({"segmentation": [[1, 1, 9, 1, 9, "9"]]}, False, "no number"),
    ({"segmentation": [[1, 1, 9, 1, 9, None]]}, False, "no number"),
    ({"segmentation": [[[1, 1], [9, 1], [9, 9], [1, 9], [2, 2], [3, 3]]]}, False, "no number"),
    ({"segmentation": [[1, 1, 9, 1, 9, 1e12]]}, False, "far outside"),
    ({"segmentation": [[1, 1, 9, 1, 9, 10**400]]}, False, "no number"),
    ({"segmentation": SQUARE}, False, "list of polygons"),
    ({"segmentation": []}, False, "missing"),
    ({"segmentation": None}, False, "missing"),
    ({"segmentation": "RLE"}, False, "missing"),
    ({"segmentation": [[1, 1.1, 25, 1.1, 25, 1.2]]}, True, "no pixel"),
    ({"segmentation": [[31, 1, 40, 1, 40, 9]]}, True, "no pixel"),
    ({"segmentation": [SQUARE + SQUARE]}, True, "no pixel"),  # a line drawn twice takes back what it fills
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [600]}}, True, "no pixel"),
    ({"bbox": [1, 2, 3]}, False, "4 numbers"),
    ({"bbox": [1, 2, 3, "4"]}, False, "4 numbers"),
    ({"bbox": ["1", "2", "3", "4"]}, False, "4 numbers"),
    ({"bbox": [1, 2, 3, math.nan]}, False, "4 numbers"),
    ({"bbox": 7}, False, "4 numbers"),
    ({"bbox": [4, 5, 0, 10]}, True, "no area"),
    ({"bbox": [4, 5, 10, -1]}, True, "no area"),
    ({"bbox": [4, 5, 1e-9, 10]}, True, "no area"),
    ({"bbox": [30, 5, 10, 10]}, True, "outside"),
    ({"bbox": [4, -10, 10, 10]}, True, "outside"),
]


@pytest.mark.parametrize(("values", "scorable", "part"), DEGENERATE)
def test_a_degenerate_instance_is_an_error_or_left_out(
    files: Files, refused: Refused, values: dict[str, Any], scorable: bool, part: str
) -> None:
    content = change(document(), "annotations", 0, **values)
    line = refused(lambda: files.load(content), files.json, "annotation 11", "image 7", part, "1 such")
    assert "dataset.options.invalid=drop" in line
    data = files.load(content, invalid="drop")
    assert len(data.skipped) == 1
    assert "annotation 11 of image 7" in data.skipped[0]
    assert part in data.skipped[0]
    target = data[0][1]
    assert target["labels"].tolist() == [1]
    assert target["masks"].flatten(1).any(1).all()
    assert len(data[1][1]["labels"]) == 1
    truth = data.ground_truth()
    assert [a["id"] for a in truth["annotations"]] == ([11] if scorable else []) + [12, 13]
    score(truth)


def test_all_degenerate_instances_are_counted_and_listed(files: Files, refused: Refused) -> None:
    content = document()
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 1, 0, 0]
    refused(lambda: files.load(content), "annotation 11", "3 such")
    data = files.load(content, invalid="drop")
    assert len(data.skipped) == 3
    assert len(data) == 3
    assert len(data[0][1]["labels"]) == 0


def test_missing_files_are_named(files: Files, refused: Refused) -> None:
    refused(lambda: read(files.json, files.images), files.json, "does not exist")
    files.load(document())
    nowhere = files.images / "nowhere"
    refused(lambda: read(files.json, nowhere), nowhere, files.json)
    refused(lambda: read(files.images, files.images), files.images, "cannot be read")


def test_the_error_lists_every_fault_where_its_message_names_the_first_of_a_kind(files: Files) -> None:
    content = document()
    for annotation in content["annotations"][:2]:
        annotation["image_id"] = 99
    content["annotations"][2]["category_id"] = 99
    with pytest.raises(DataError, match=r"annotation 11 .*1 more like it") as error:
        files.load(content)
    assert [line.partition(": annotation ")[2][:2] for line in error.value.lines] == ["11", "12", "13"]
    content = document()
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 1, 0, 0]
    with pytest.raises(DataError) as error:
        files.load(content)
    assert len(error.value.lines) == 3

"""Scores equal pycocotools' to the last digit, and wrong results are named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scores import by_pycocotools, noisy_results

from instseg.data.sets.coco import Coco2017
from instseg.evaluation import coco
from instseg.masks import paste


@pytest.mark.parametrize("kind", coco.IOU_TYPES)
def test_real_photographs_with_crowds(real_data: Path, tmp_path: Path, kind: str) -> None:
    annotations = real_data / "coco" / "annotations" / "instances_val2017.json"
    truth = json.loads(annotations.read_text())
    assert any(a["iscrowd"] for a in truth["annotations"])
    predictions = tmp_path / "results.json"
    predictions.write_text(json.dumps(noisy_results(truth, 0)))
    expected = by_pycocotools(annotations, predictions, coco.IOU_TYPES[kind])
    results = json.loads(predictions.read_text())
    assert list(coco.evaluate(truth, results, kind).stats) == expected
    # what the data set says of itself scores the same, images without annotations included
    from_reader = Coco2017("val", root=real_data, invalid="drop").ground_truth()
    assert len(from_reader["images"]) == len(truth["images"])
    assert list(coco.evaluate(from_reader, results, kind).stats) == expected


def _tiny(area: float = 100.0) -> dict[str, Any]:
    mask = np.zeros((1, 40, 40), dtype=np.uint8)
    mask[0, 10:20, 10:20] = 1
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 10, 10], "area": area, "iscrowd": 0}
    return {
        "images": [{"id": 7, "height": 40, "width": 40}, {"id": 8, "height": 40, "width": 40}],
        "annotations": [{**annotation, "segmentation": paste.encode(mask)[0]}],
        "categories": [{"id": 3, "name": "cat"}],
    }


def _perfect(truth: dict[str, Any]) -> coco.Results:
    return [
        {k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.9}
        for a in truth["annotations"]
    ]


def test_perfect_and_absent_results() -> None:
    truth = _tiny()
    numbers = coco.metrics(coco.evaluate(truth, _perfect(truth), "mask"))
    assert numbers["AP"] == pytest.approx(100)
    assert numbers["APs"] == pytest.approx(100)
    assert numbers["APm"] is None and numbers["APl"] is None
    assert coco.metrics(coco.evaluate(truth, [], "mask"))["AP"] == 0
    assert coco.metrics(coco.evaluate(truth, [], "box"))["AP"] == 0


def test_the_callers_ground_truth_is_left_alone() -> None:
    truth = _tiny()
    before = json.dumps(truth)
    coco.evaluate(truth, _perfect(truth), "box")
    assert json.dumps(truth) == before


def test_crowd_regions_are_ignored() -> None:
    truth = _tiny()
    crowd = {**truth["annotations"][0], "id": 2, "iscrowd": 1, "bbox": [25, 25, 10, 10]}
    mask = np.zeros((1, 40, 40), dtype=np.uint8)
    mask[0, 25:35, 25:35] = 1
    crowd["segmentation"] = paste.encode(mask)[0]
    results = _perfect(truth)
    in_crowd = {**results[0], "bbox": [26, 26, 8, 8], "segmentation": crowd["segmentation"], "score": 0.99}
    assert coco.metrics(coco.evaluate(truth, [*results, in_crowd], "mask"))["AP"] == pytest.approx(50)
    truth["annotations"].append(crowd)
    assert coco.metrics(coco.evaluate(truth, [*results, in_crowd], "mask"))["AP"] == pytest.approx(100)


def _rated() -> tuple[dict[str, Any], coco.Results]:
    """One object; a hit and a miss, which class scores and mask scores put in opposite orders."""
    truth = _tiny()
    hit = _perfect(truth)[0]
    elsewhere = np.zeros((1, 40, 40), dtype=np.uint8)
    elsewhere[0, 25:35, 25:35] = 1
    miss = {**hit, "bbox": [25, 25, 10, 10], "segmentation": paste.encode(elsewhere)[0]}
    return truth, [{**hit, "score": 0.4, "mask_score": 0.39}, {**miss, "score": 0.9, "mask_score": 0.1}]


def test_masks_are_sorted_by_mask_scores_where_results_have_them(refused: Any) -> None:
    truth, results = _rated()
    assert coco.metrics(coco.evaluate(truth, results, "mask"))["AP"] == pytest.approx(100)
    assert coco.metrics(coco.evaluate(truth, results, "box"))["AP"] == pytest.approx(50)
    plain = [{k: v for k, v in r.items() if k != "mask_score"} for r in results]
    assert coco.metrics(coco.evaluate(truth, plain, "mask"))["AP"] == pytest.approx(50)
    for mixed in ([results[0], plain[1]], [plain[0], results[1]]):
        refused(lambda mixed=mixed: coco.evaluate(truth, mixed, "mask"), "result 1", "mask_score")
        coco.evaluate(truth, mixed, "box")
    for value in NOT_NUMBERS:
        damaged = [results[0], {**results[1], "mask_score": value}]
        refused(lambda damaged=damaged: coco.evaluate(truth, damaged, "mask"), "result 1", "finite number")


def test_results_of_a_head_that_rates_its_masks() -> None:
    detections = {
        "boxes": torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 1.0, 1.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.5, 0.25]),
        "segmentations": [{"size": [9, 9], "counts": "a"}, {"size": [9, 9], "counts": "b"}],
    }
    rated = {**detections, "mask_scores": torch.tensor([0.5, 0.75])}
    expected = {"image_id": 4, "category_id": 20, "bbox": [1, 2, 3, 6], "score": 0.5}
    first, second = coco.to_results([rated], [4], [10, 20])
    assert first == {**expected, "segmentation": {"size": [9, 9], "counts": "a"}, "mask_score": 0.25}
    assert (second["score"], second["mask_score"]) == (0.25, 0.1875)
    assert all("mask_score" not in result for result in coco.to_results([detections], [4], [10, 20]))


SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
NOT_IDS = [None, True, 7.0, "7", [7], {}, 2**64]
NOT_NUMBERS = [None, True, "0.5", [0.5], float("nan"), float("inf"), 10**400]
NOT_BOXES = [
    None,
    "box",
    3,
    {},
    [],
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    [1, 2, 3, None],
    [1, 2, 3, "4"],
    [1, 2, 3, float("inf")],
]
NOT_MASKS = [
    (None, "polygons"),
    (3, "polygons"),
    ("RLE", "polygons"),
    ([], "missing"),
    ([3], "polygons"),
    ([[10, 10, 20, 20]], "3 points"),
    ([[10, 10, 20, 10, 20, 20, 10]], "in pairs"),
    ([[10, 10, 20, 10, 20, "20"]], "no number"),
    ({"size": [40, 40]}, "damaged"),
    ({"size": [40, 41], "counts": [1640]}, "[40, 41]"),
    ({"size": [40, 40], "counts": [1599]}, "1600"),
    ({"size": [40, 40], "counts": "no RLE"}, "damaged"),
    ({"size": [40, 40], "counts": "0"}, "1600"),
]
"""What is no segmentation of 40 x 40 pixels, and what the error must say."""


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("image_id", 99, "image 99"),
        ("category_id", 4, "category 4, which the annotations don't have; they have 3"),
        *[("image_id", value, "whole number") for value in NOT_IDS],
        *[("category_id", value, "whole number") for value in NOT_IDS],
        *[("score", value, "finite number") for value in NOT_NUMBERS],
        *[("bbox", value, "4 finite numbers") for value in NOT_BOXES],
        *[("segmentation", value, part) for value, part in NOT_MASKS],
    ],
)
def test_results_that_do_not_fit_are_named(key: str, value: Any, part: str, refused: Any) -> None:
    truth = _tiny()
    good = _perfect(truth)[0]
    line = refused(lambda: coco.evaluate(truth, [good, {**good, key: value}], "mask"), "result 1 (image ", part)
    assert len(line) < 250


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "segmentation"])
def test_results_that_lack_something_are_named(key: str, refused: Any) -> None:
    truth = _tiny()
    result = {k: v for k, v in _perfect(truth)[0].items() if k != key}
    refused(lambda: coco.evaluate(truth, [result], "mask"), "result 0", f"has no {key}")


def test_either_all_results_have_boxes_or_none(refused: Any) -> None:
    truth = _tiny()
    with_box = _perfect(truth)[0]
    without = {k: v for k, v in with_box.items() if k != "bbox"}
    refused(lambda: coco.evaluate(truth, [with_box, without], "mask"), "result 1", "bbox")
    refused(lambda: coco.evaluate(truth, [without, with_box], "mask"), "result 1", "bbox")
    assert coco.metrics(coco.evaluate(truth, [without], "mask"))["AP"] == pytest.approx(100)


def test_forms_of_masks_that_pycocotools_takes(refused: Any) -> None:
    truth = _tiny()
    counts = [410, 10, *[30, 10] * 9, 820]
    for segmentation in (SQUARE, {"size": [40, 40], "counts": counts}):
        result = {**_perfect(truth)[0], "segmentation": segmentation}
        assert coco.metrics(coco.evaluate(truth, [result], "mask"))["AP"] == pytest.approx(100)
        # areas of such masks without boxes are beyond pycocotools
        del result["bbox"]
        refused(lambda result=result: coco.evaluate(truth, [result], "mask"), "result 0", "compressed")


def test_other_keys_of_results_change_nothing() -> None:
    truth = _tiny()
    result = {**_perfect(truth)[0], "caption": "a cat", "keypoints": [1, 2, 3], "id": 0, "iscrowd": 1}
    assert coco.metrics(coco.evaluate(truth, [result], "mask"))["AP"] == pytest.approx(100)


def test_results_that_are_no_list(refused: Any) -> None:
    refused(lambda: coco.evaluate(_tiny(), {"images": []}, "box"), "dict")  # type: ignore[arg-type]
    refused(lambda: coco.evaluate(_tiny(), [3], "box"), "result 0", "int")  # type: ignore[list-item]


def test_ground_truth_without_fault_passes() -> None:
    truth = _tiny()
    coco.check_ground_truth(truth, ["box", "mask"])
    truth["annotations"][0]["segmentation"] = SQUARE
    coco.check_ground_truth(truth, ["box", "mask"])
    del truth["annotations"][0]["segmentation"]
    coco.check_ground_truth(truth, ["box"])


@pytest.mark.parametrize(
    ("where", "key", "value", "part"),
    [
        *[(where, "id", v, "whole number") for where in ("images", "annotations", "categories") for v in NOT_IDS],
        *[("annotations", key, v, "whole number") for key in ("image_id", "category_id") for v in NOT_IDS],
        *[("images", key, v, "above 0") for key in ("height", "width") for v in (None, 0, -1, 40.0, "40", True)],
        ("images", "height", 2**31, "pixels"),
        ("annotations", "image_id", 9, "image 9"),
        ("annotations", "category_id", 1, "category 1"),
        *[("annotations", "area", v, "area is") for v in (*NOT_NUMBERS, -1)],
        *[("annotations", "iscrowd", v, "0 or 1") for v in (None, 2, "0", [])],
        *[("annotations", "bbox", v, "4 finite numbers") for v in NOT_BOXES],
        *[("annotations", "segmentation", v, part) for v, part in NOT_MASKS],
    ],
)
def test_ground_truth_with_a_fault_is_named(where: str, key: str, value: Any, part: str, refused: Any) -> None:
    truth = _tiny()
    truth[where][0][key] = value
    # "image 7: ..." or, where the id is what is wrong, "image entry 0 ..."
    entry = {"images": "image ", "annotations": "annotation ", "categories": "category "}[where]
    line = refused(lambda: coco.check_ground_truth(truth, ["box", "mask"]), entry, part)
    assert len(line) < 250


@pytest.mark.parametrize(
    ("where", "key"),
    [
        *[("images", key) for key in ("id", "height", "width")],
        *[("annotations", k) for k in ("id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd")],
        ("categories", "id"),
    ],
)
def test_ground_truth_that_lacks_something_is_named(where: str, key: str, refused: Any) -> None:
    truth = _tiny()
    del truth[where][0][key]
    refused(lambda: coco.check_ground_truth(truth, ["box", "mask"]), f"has no {key}")


@pytest.mark.parametrize("where", ["images", "annotations", "categories"])
def test_ground_truth_of_wrong_lists_is_named(where: str, refused: Any) -> None:
    truth = _tiny()
    entry = truth[where][0]
    truth[where] = [entry, dict(entry)]
    refused(lambda: coco.check_ground_truth(truth, ["box"]), f"id {entry['id']} is there twice")
    truth[where] = [entry, 3]
    refused(lambda: coco.check_ground_truth(truth, ["box"]), "entry 1 is a int")
    truth[where] = {"1": entry}
    refused(lambda: coco.check_ground_truth(truth, ["box"]), f"no list {where!r}")

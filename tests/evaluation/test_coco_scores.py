"""Scores equal pycocotools' to the last digit, and wrong results are named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scores import by_pycocotools, noisy_results

from instseg import masks
from instseg.data.coco import coco2017
from instseg.evaluation import coco


@pytest.mark.parametrize("kind", ["box", "mask"])
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
    from_reader = coco2017("val", root=real_data, invalid="drop").ground_truth()
    assert len(from_reader["images"]) == len(truth["images"])
    assert list(coco.evaluate(from_reader, results, kind).stats) == expected


def _tiny(area: float = 100.0) -> dict[str, Any]:
    mask = np.zeros((1, 40, 40), dtype=np.uint8)
    mask[0, 10:20, 10:20] = 1
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 10, 10], "area": area, "iscrowd": 0}
    return {
        "images": [{"id": 7, "height": 40, "width": 40}, {"id": 8, "height": 40, "width": 40}],
        "annotations": [{**annotation, "segmentation": masks.encode(mask)[0]}],
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
    crowd["segmentation"] = masks.encode(mask)[0]
    results = _perfect(truth)
    in_crowd = {**results[0], "bbox": [26, 26, 8, 8], "segmentation": crowd["segmentation"], "score": 0.99}
    assert coco.metrics(coco.evaluate(truth, [*results, in_crowd], "mask"))["AP"] == pytest.approx(50)
    truth["annotations"].append(crowd)
    assert coco.metrics(coco.evaluate(truth, [*results, in_crowd], "mask"))["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"image_id": 99}, ["result 0", "image 99"]),
        ({"category_id": 4}, ["result 0", "category 4", "3"]),
        ({"score": None}, ["result 0", "score"]),
        ({"segmentation": None}, ["result 0", "segmentation"]),
    ],
)
def test_results_that_do_not_fit_are_named(change: dict[str, Any], parts: list[str], refused: Any) -> None:
    truth = _tiny()
    result = {k: v for k, v in {**_perfect(truth)[0], **change}.items() if v is not None}
    refused(lambda: coco.evaluate(truth, [result], "mask"), *parts)


def test_results_that_are_no_list(refused: Any) -> None:
    refused(lambda: coco.evaluate(_tiny(), {"images": []}, "box"), "dict")  # type: ignore[arg-type]
    refused(lambda: coco.evaluate(_tiny(), [3], "box"), "result 0", "int")  # type: ignore[list-item]

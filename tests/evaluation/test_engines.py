"""faster-coco-eval and pycocotools give the same numbers, to the last bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval
from scores import SIDE, noisy_results, random_boxes

from instseg.errors import UserError
from instseg.evaluation import coco
from instseg.evaluation.engine import ENGINES, evaluator
from instseg.evaluation.kinds import METRIC_KINDS


def _same(truth: dict[str, Any], results: coco.Results, kind: coco.Kind) -> COCOeval:
    fast, slow = (coco.evaluate(truth, results, kind, engine) for engine in ENGINES)
    assert list(fast.stats) == list(slow.stats)
    for key in ("precision", "recall", "scores"):
        assert np.array_equal(fast.eval[key], slow.eval[key]), key
    assert coco.summary(fast) == coco.summary(slow)
    return slow


@pytest.mark.parametrize("kind", coco.KINDS)
@pytest.mark.parametrize("decimals", [1, 9])
def test_real_photographs(real_data: Path, kind: coco.Kind, decimals: int) -> None:
    """Crowd regions, images without annotations, all areas, and with one decimal, many ties of scores."""
    truth = json.loads((real_data / "coco" / "annotations" / "instances_val2017.json").read_text())
    results = noisy_results(truth, decimals)
    for result in results:
        result["score"] = round(result["score"], decimals)
    evaluation = _same(truth, results, kind)
    assert (evaluation.stats > 0).all()
    if METRIC_KINDS[kind].of_masks:
        # then areas are those of the masks
        bare = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
        assert list(_same(truth, bare, kind).stats) != list(evaluation.stats)


@pytest.mark.parametrize("kind", coco.KINDS)
@pytest.mark.parametrize(("seed", "clutter", "decimals"), [(0, 0, 9), (1, 5, 1), (2, 5, 0), (3, 60, 2), (4, 500, 2)])
def test_random_boxes(seed: int, clutter: int, decimals: int, kind: coco.Kind) -> None:
    truth, results = random_boxes(seed, clutter, decimals)
    if clutter == 500:
        categories = [r["category_id"] for r in results if r["image_id"] == 1]
        assert np.bincount(categories).max() > 100
    assert (_same(truth, results, kind).stats[3:6] > -1).all()
    assert list(_same(truth, [], kind).stats) != [-1] * 12
    assert list(_same({**truth, "annotations": []}, results, kind).stats) == [-1] * 12
    large = [a for a in truth["annotations"] if a["area"] > 96**2]
    stats = _same({**truth, "annotations": large}, results, kind).stats
    assert stats[3] == stats[4] == -1 < stats[5]


@pytest.mark.parametrize(("objects", "hits"), [(1, 1), (2, 1), (2, 2), (3, 1), (300, 1), (300, 2), (300, 9)])
def test_the_last_bit_of_a_precision_of_1(objects: int, hits: int) -> None:
    """Some right detections, then a wrong one, then the rest: pycocotools divides one by a little more than one."""
    boxes = [[12 * (i % 20), 12 * (i // 20), 10, 10] for i in range(objects)]
    truth: dict[str, Any] = {
        "images": [{"id": 1, "width": SIDE, "height": SIDE}],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }
    chosen = [*boxes[:hits], [280, 280, 10, 10], *boxes[hits:]]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 1 - i / 1000} for i, box in enumerate(chosen[:90])
    ]
    highest = _same(truth, results, "box").eval["precision"].max()
    assert highest == (1 - 2**-52 if hits == 1 else 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_annotation_id_0_is_an_object_as_any(engine: str) -> None:
    annotation = {"image_id": 1, "category_id": 1, "area": 100, "iscrowd": 0}
    boxes = [[0, 0, 10, 10], [20, 20, 10, 10]]
    truth: dict[str, Any] = {
        "images": [{"id": 1, "width": 40, "height": 40}],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [{**annotation, "id": i, "bbox": box} for i, box in enumerate(boxes)],
    }
    before = json.dumps(truth)
    results = [{"image_id": 1, "category_id": 1, "bbox": boxes[0], "score": 0.9}]
    numbers = coco.metrics(coco.evaluate(truth, results, "box", engine))
    # one of two objects: precision 1 up to recall 0.5, so at 51 of 101 recalls
    assert numbers["AP"] == pytest.approx(100 * 51 / 101)
    assert numbers["AR100"] == 50
    # found twice: the second one is wrong
    twice = [*results, {**results[0], "score": 0.8}, {**results[0], "bbox": boxes[1], "score": 0.7}]
    numbers = coco.metrics(coco.evaluate(truth, twice, "box", engine))
    assert numbers["AP"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert json.dumps(truth) == before


def test_ids_that_are_no_doubles() -> None:
    truth, results = random_boxes(5, 3, 9)
    far = 2**53
    expected = list(coco.evaluate(truth, results, "box", "pycocotools").stats)
    for entry in (*truth["annotations"], *results):
        entry["image_id"] += far
        entry["category_id"] += far
    for entry in (*truth["images"], *truth["categories"]):
        entry["id"] += far
    assert list(_same(truth, results, "box").stats) == expected


@pytest.mark.parametrize("kind", coco.KINDS)
def test_parameters_may_be_changed_first(kind: coco.Kind) -> None:
    truth, results = random_boxes(6, 20, 2)
    index = coco.load(truth)
    done = []
    for engine in ENGINES:
        evaluation = evaluator(index, coco.load_results(index, results, kind), kind, engine)
        evaluation.params.areaRng, evaluation.params.areaRngLbl, evaluation.params.maxDets = [[0, 1e10]], ["all"], [7]
        evaluation.params.imgIds, evaluation.params.catIds = [2, 3, 4, 5], [1, 2, 4]
        evaluation.evaluate()
        evaluation.accumulate()
        done.append(evaluation.eval)
    assert done[0]["precision"].shape == (10, 101, 3, 1, 1)
    for key in ("precision", "recall", "scores"):
        assert np.array_equal(done[0][key], done[1][key])


def test_an_engine_that_there_is_not(refused: Any) -> None:
    truth, results = random_boxes(7, 0, 2)
    with pytest.raises(UserError, match="did you mean 'pycocotools'"):
        coco.evaluate(truth, results, "box", "pycoco")

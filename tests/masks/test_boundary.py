"""Boundaries and their IoU against cases worked out by hand, a search of every pixel's neighbours, and
faster-coco-eval."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from pycocotools import mask as coco_mask
from scores import noisy_results

from instseg.data.annotations.coco_shapes import to_rle
from instseg.evaluation import coco
from instseg.evaluation.engine import ENGINES
from instseg.masks import boundary, paste
from instseg.masks.rle import RLE

HEIGHT, WIDTH, FAR = 60, 80, 2  # the diagonal is of 100 pixels


def _box(x: int, y: int, w: int, h: int) -> RLE:
    mask = np.zeros((1, HEIGHT, WIDTH), dtype=np.uint8)
    mask[0, y : y + h, x : x + w] = 1
    return paste.encode(mask)[0]


def _whole(found: boundary.Boundary, height: int, width: int) -> np.ndarray:
    whole = np.zeros((height, width), dtype=bool)
    w, h = found.pixels.shape
    whole[found.y : found.y + h, found.x : found.x + w] = found.pixels.T
    return whole


def _by_neighbours(mask: np.ndarray, far: int) -> np.ndarray:
    """Pixels of a mask that have one outside it no farther than ``far`` rows and columns away."""
    padded = np.pad(mask, far)
    height, width = mask.shape
    near = np.zeros_like(mask)
    for dy in range(2 * far + 1):
        for dx in range(2 * far + 1):
            near |= ~padded[dy : dy + height, dx : dx + width]
    return mask & near


@pytest.mark.parametrize(
    ("height", "width", "pixels"),
    [(60, 80, 2), (480, 640, 16), (1, 1, 1), (15, 20, 1), (30, 40, 1), (75, 100, 2), (225, 300, 8), (175, 600, 12)],
)
def test_dilation_is_2_percent_of_the_diagonal(height: int, width: int, pixels: int) -> None:
    # diagonals 25, 125, 375 and 625 give halves, which the paper's code rounds to the even number
    assert boundary.dilation(height, width) == pixels


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((20, 20, 10, 10), 10 * 10 - 6 * 6),
        ((0, 0, 10, 10), 10 * 10 - 6 * 6),  # the image's border is a boundary
        ((70, 50, 10, 10), 10 * 10 - 6 * 6),
        ((0, 20, 80, 10), 80 * 10 - 76 * 6),
        ((20, 0, 10, 60), 10 * 60 - 6 * 56),
        ((0, 0, 80, 60), 80 * 60 - 76 * 56),
        ((10, 30, 50, 1), 50),  # a thin line is all boundary
        ((10, 10, 4, 40), 4 * 40),
        ((10, 10, 5, 40), 5 * 40 - 1 * 36),
        ((79, 59, 1, 1), 1),
        ((5, 5, 0, 0), 0),
    ],
)
def test_boundaries_worked_out_by_hand(shape: tuple[int, int, int, int], size: int) -> None:
    found = boundary.boundaries([_box(*shape)])[0]
    assert found.size == size == np.count_nonzero(found.pixels)
    x, y, w, h = shape
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[y : y + h, x : x + w] = True
    expected[y + FAR : max(y + FAR, y + h - FAR), x + FAR : max(x + FAR, x + w - FAR)] = False
    assert np.array_equal(_whole(found, HEIGHT, WIDTH), expected)


def test_masks_of_all_shapes_by_their_neighbours() -> None:
    random = np.random.default_rng(0)
    sizes = [(1, 1), (1, 50), (50, 1), (2, 3), (37, 90), (75, 100), (60, 200), (130, 70)]
    drawn, codes = [], []
    for height, width in sizes:
        smooth = np.cumsum(np.cumsum(random.normal(size=(height, width)), axis=0), axis=1)
        for mask in (
            np.ones((height, width), dtype=bool),
            np.zeros((height, width), dtype=bool),
            random.random((height, width)) < 0.5,
            random.random((height, width)) < 0.98,
            smooth > np.median(smooth),
            smooth < np.quantile(smooth, 0.2),
        ):
            drawn.append(mask)
            codes.append(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
    assert boundary.boundaries([]) == []
    for mask, found in zip(drawn, boundary.boundaries(codes), strict=True):
        expected = _by_neighbours(mask, boundary.dilation(*mask.shape))
        assert np.array_equal(_whole(found, *mask.shape), expected)


def test_runs_of_no_pixels() -> None:
    # 2 x 2 pixels in columns 1 and 2 of 4 rows, with runs of length 0 in between
    counts = [5, 1, 0, 1, 2, 0, 0, 2, 5]
    code = coco_mask.frPyObjects({"size": [4, 4], "counts": counts}, 4, 4)
    found = boundary.boundaries([code])[0]
    assert (found.x, found.y, found.size) == (1, 1, 4)


def test_iou_worked_out_by_hand() -> None:
    # shifted by one column: the rings of 64 pixels share 10 + 4 + 5 * 4 + 4 + 10 of them
    detected = [_box(21, 20, 10, 10), _box(20, 20, 10, 9), _box(40, 20, 10, 10), _box(20, 20, 10, 10)]
    truth = [_box(20, 20, 10, 10), _box(50, 40, 5, 5)]
    found = boundary.overlaps(detected, truth, [0, 0])
    # a missing row: rings of 64 and 60 pixels share 4 * 9 + 6 * 3
    assert found == pytest.approx(np.array([[48 / 80, 0], [54 / 70, 0], [0, 0], [1, 0]]))
    rings = boundary.boundaries([*detected, *truth])
    assert boundary.iou(rings[0], rings[4]) == 48 / 80
    assert boundary.iou(rings[2], rings[4]) == 0
    nothing = boundary.boundaries([_box(0, 0, 0, 0)])[0]
    assert boundary.iou(nothing, nothing) == boundary.iou(nothing, rings[0]) == 0


def test_crowd_regions_and_small_overlaps_are_those_of_masks() -> None:
    detected, truth = [_box(21, 20, 10, 10)], [_box(20, 20, 40, 30), _box(20, 20, 10, 10), _box(29, 20, 10, 10)]
    assert boundary.overlaps(detected, truth, [1, 0, 0]).tolist() == [[1, 48 / 80, 20 / 180]]
    assert boundary.overlaps(detected, truth, [0, 1, 0]).tolist() == [[100 / 1200, 90 / 100, 20 / 180]]
    assert boundary.overlaps(detected, truth, [0, 0, 0], at_least=0.9).tolist() == [[100 / 1200, 90 / 110, 20 / 180]]
    assert boundary.overlaps([], truth, [0, 0, 0]).shape == (0, 3)
    assert boundary.overlaps(detected, [], []).shape == (1, 0)


def test_real_masks_by_faster_coco_eval(real_data: Path) -> None:
    """Its own boundary IoU, which rounds all halves down; of these images none has a size where that tells."""
    truth = json.loads((real_data / "coco" / "annotations" / "instances_val2017.json").read_text())
    for image in truth["images"]:
        assert 0.02 * np.hypot(image["height"], image["width"]) % 2 != 1.5
    results = noisy_results(truth, 0)
    near = [{k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")} for a in truth["annotations"]]
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for number, result in enumerate(near):
        mask = coco_mask.decode(to_rle(result["segmentation"], *sizes[result["image_id"]]))
        moved = np.roll(mask, (number % 4, number % 3), axis=(0, 1))
        results.append({**result, "score": number % 7 / 7, "segmentation": paste.encode(moved[None])[0]})
    index = coco.load(truth)
    expected = COCOeval_faster(index, coco.load_results(index, results, "boundary"), "boundary")
    expected.evaluate()
    expected.accumulate()
    expected.summarize()
    assert 0.1 < expected.stats[0] < 0.9
    for engine in ENGINES:
        found = coco.evaluate(truth, results, "boundary", engine)
        assert found.stats == pytest.approx(expected.stats[:12], abs=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_ap_worked_out_by_hand(engine: str) -> None:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 10, 10], "area": 100, "iscrowd": 0}
    truth: dict[str, Any] = {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{**annotation, "segmentation": _box(20, 20, 10, 10)}],
    }
    result = {"image_id": 1, "category_id": 1, "bbox": [20, 20, 10, 9], "score": 0.5}
    results = [{**result, "segmentation": _box(20, 20, 10, 9)}]
    numbers = coco.metrics(coco.evaluate(truth, results, "boundary", engine))
    # boundaries' IoU is 54 / 70, above 6 of 10 thresholds; the masks' 0.9
    assert numbers["AP"] == pytest.approx(60)
    assert numbers["AR100"] == pytest.approx(60)
    assert (numbers["AP50"], numbers["APs"]) == (pytest.approx(100), pytest.approx(60))
    assert numbers["APm"] is None and numbers["APl"] is None and numbers["ARm"] is None
    assert coco.metrics(coco.evaluate(truth, results, "mask", engine))["AP"] >= 80
    assert coco.metrics(coco.evaluate(truth, [], "boundary", engine))["AP"] == 0
    nothing = coco.metrics(coco.evaluate({**truth, "annotations": []}, results, "boundary", engine))
    assert set(nothing.values()) == {None}
    # a mask score outranks the score
    miss = {**result, "segmentation": _box(50, 40, 10, 10), "score": 0.9, "mask_score": 0.1}
    rated = [{**results[0], "mask_score": 0.4}, miss]
    assert coco.metrics(coco.evaluate(truth, rated, "boundary", engine))["AP"] == pytest.approx(60)

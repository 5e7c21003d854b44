"""Our matching against COCOeval's own, detection by detection, and what COCOeval gets wrong by hand."""

import copy
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scores import coco_eval, make_predictions, make_truth, quiet_coco, random_boxes

from instseg.evaluation import coco
from instseg.evaluation.coco import Kind
from instseg.evaluation.engine import ENGINES
from instseg.evaluation.matches import match
from instseg.statistics.resampling import average_precision


def polygons(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    corners = []
    for p in predictions:
        x, y, w, h = p["bbox"]
        corners.append({**p, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
    return corners


@pytest.mark.parametrize("kind", coco.IOU_TYPES)
@pytest.mark.parametrize(("seed", "clutter", "decimals"), [(0, 3, 9), (1, 150, 1), (2, 40, 2), (3, 0, 0)])
def test_every_detection_is_judged_as_cocoeval_judges_it(kind: Kind, seed: int, clutter: int, decimals: int) -> None:
    truth = make_truth(15, seed, per_image=9)
    assert any(a["iscrowd"] for a in truth["annotations"])
    predictions = polygons(make_predictions(truth, 2.0, seed, clutter, decimals))
    evaluator = coco_eval(truth, predictions, kind=kind)
    matches = match(quiet_coco(truth), predictions, kind)
    entries = [e for e in evaluator.evalImgs if e is not None and e["aRng"] == [0, 1e10]]
    by_category = {
        c: [e for e in entries if e["category_id"] == c] for c in sorted({e["category_id"] for e in entries})
    }
    assert len(matches.categories) == len(by_category) >= 3
    for category, of_images in zip(matches.categories, by_category.values(), strict=True):
        order = np.argsort([-s for e in of_images for s in e["dtScores"]], kind="mergesort")
        matched, ignored = (
            np.concatenate([np.asarray(e[key], dtype=float) for e in of_images], axis=1)[:, order] != 0
            for key in ("dtMatches", "dtIgnore")
        )
        image = np.asarray([e["image_id"] - 1 for e in of_images for _ in e["dtScores"]])[order]
        assert np.array_equal(category.image, image)
        for level in range(10):
            assert np.array_equal(category.hits[level], np.flatnonzero(matched[level] & ~ignored[level]))
            assert np.array_equal(category.ignored[level], np.flatnonzero(ignored[level]))
        assert category.positives.sum() == sum(int((e["gtIgnore"] == 0).sum()) for e in of_images)


def single(annotation: dict[str, Any] | None = None) -> dict[str, Any]:
    shape = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]}
    return {
        "images": [{"id": 7, "height": 64, "width": 64}],
        "categories": [{"id": 3, "name": "x"}],
        "annotations": [{"id": 0, "image_id": 7, "category_id": 3, **shape, **(annotation or {})}],
    }


def test_an_annotation_with_id_0_is_found_like_any_other() -> None:
    truth = single()
    results = [{"image_id": 7, "category_id": 3, "bbox": [4, 4, 20, 20], "score": 0.5}]
    assert coco_eval(truth, results).stats[0] == 0
    assert average_precision(match(quiet_coco(truth), results, "box"))[0] == pytest.approx(100)
    # and not found twice
    twice = [{**results[0], "score": 0.9}, results[0]]
    truth["annotations"].append({**truth["annotations"][0], "id": 1, "bbox": [40, 40, 9, 9]})
    hits = match(quiet_coco(truth), twice, "box").categories[0].hits
    assert [h.tolist() for h in hits] == [[0]] * 10


@pytest.mark.parametrize("rated", [False, True])
@pytest.mark.parametrize("kind", coco.KINDS)
def test_ap_is_that_of_the_tables(kind: Kind, rated: bool) -> None:
    """Ids from 0, crowd regions, ties, more than 100 detections, and masks with scores of their own."""
    truth, results = random_boxes(6, 250, 2)
    assert truth["annotations"][0]["id"] == 0 and any(a["iscrowd"] for a in truth["annotations"])
    random = np.random.default_rng(6)
    with_id_0 = {(a["image_id"], a["category_id"]) for a in truth["annotations"] if a["id"] == 0}
    assert any((r["image_id"], r["category_id"]) in with_id_0 for r in results)
    if rated:
        results = [{**result, "mask_score": round(float(random.random()), 2)} for result in results]
    expected = [100 * coco.evaluate(truth, results, kind, engine).stats[0] for engine in ENGINES]
    ap = average_precision(match(coco.load(truth), results, kind))[0]
    assert 1 < ap < 99
    assert [ap, ap] == pytest.approx(expected, abs=1e-9)


def test_masks_go_by_their_own_score_and_boxes_by_the_class_s() -> None:
    truth = single()
    right, wrong = [[4, 4, 24, 4, 24, 24, 4, 24]], [[40, 40, 60, 40, 60, 60, 40, 60]]
    ids = {"image_id": 7, "category_id": 3}
    results = [
        {**ids, "bbox": [4, 4, 20, 20], "segmentation": right, "score": 0.9, "mask_score": 0.2},
        {**ids, "bbox": [40, 40, 20, 20], "segmentation": wrong, "score": 0.8, "mask_score": 0.4},
    ]
    expected = {"box": 100, "mask": 50, "boundary": 50}
    ap = {kind: average_precision(match(quiet_coco(truth), results, kind))[0] for kind in expected}
    assert ap == pytest.approx(expected)
    # without, they go by the class's
    results = [{key: value for key, value in result.items() if key != "mask_score"} for result in results]
    assert average_precision(match(quiet_coco(truth), results, "mask"))[0] == pytest.approx(100)


def test_boundary_is_the_lesser_iou_of_mask_and_boundary() -> None:
    """A hole in the middle of a big square leaves a mask IoU of 0.64, but the outline is right only in part."""
    outer = np.zeros((64, 64), dtype=np.uint8)
    outer[10:50, 10:50] = 1
    holed = outer.copy()
    holed[18:42, 18:42] = 0
    dilation = 2  # 2 % of 90.5 pixels
    outline = outer.copy()
    outline[10 + dilation : 50 - dilation, 10 + dilation : 50 - dilation] = 0
    inner = np.zeros_like(outer)
    inner[18 - dilation : 42 + dilation, 18 - dilation : 42 + dilation] = 1
    outline_of_holed = outline | (inner & holed)
    rles = [coco_mask.encode(np.asfortranarray(m)) for m in (outer, holed)]
    for rle in rles:
        rle["counts"] = rle["counts"].decode()
    truth = single({"bbox": [10, 10, 40, 40], "area": 1600, "segmentation": rles[0]})
    results = [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 40, 40], "segmentation": rles[1], "score": 1.0}]
    mask_iou = holed.sum() / outer.sum()
    boundary_iou = (outline & outline_of_holed).sum() / (outline | outline_of_holed).sum()
    assert (mask_iou, boundary_iou) == pytest.approx((0.64, 304 / 512))
    for kind, iou in (("mask", mask_iou), ("boundary", boundary_iou)):
        levels = int(np.sum(np.arange(0.5, 1, 0.05) <= iou))
        hits = match(quiet_coco(truth), copy.deepcopy(results), kind).categories[0].hits
        assert sum(map(len, hits)) == levels


def test_crowd_regions_ignore_masks_and_boundaries_alike() -> None:
    truth = single({"iscrowd": 1})
    results = [
        {
            "image_id": 7,
            "category_id": 3,
            "bbox": [4, 4, 9, 9],
            "segmentation": [[4, 4, 13, 4, 13, 13, 4, 13]],
            "score": s,
        }
        for s in (0.9, 0.8)
    ]
    for kind in coco.KINDS:
        matches = match(quiet_coco(truth), copy.deepcopy(results), kind).categories[0]
        assert matches.positives.sum() == 0
        assert [len(i) for i in matches.ignored] == [2] * 10 and [len(h) for h in matches.hits] == [0] * 10

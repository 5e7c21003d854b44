"""Resampled AP against COCOeval itself, and intervals against differences planted in the data."""

import time
from typing import Any

import numpy as np
import pytest
from matched_runs import mean_ap, paired_difference
from scores import coco_eval, make_predictions, make_truth, quiet_coco

from instseg.evaluation.matches import Matches, match
from instseg.statistics.resampling import average_precision


def matches_of(truth: dict[str, Any], predictions: list[dict[str, Any]]) -> Matches:
    return match(quiet_coco(truth), predictions, "box")


@pytest.mark.parametrize(("noise", "decimals", "seed"), [(1.0, 9, 0), (2.5, 1, 1), (2.0, 2, 2), (0.0, 1, 3)])
def test_weights_of_one_give_cocos_own_ap(noise: float, decimals: int, seed: int) -> None:
    truth = make_truth(25, seed)
    truth["annotations"][0]["ignore"] = 1
    evaluator = coco_eval(truth, make_predictions(truth, noise, seed, decimals=decimals))
    expected = 100 * evaluator.stats[0]
    assert 0 < expected <= 100
    matches = matches_of(truth, make_predictions(truth, noise, seed, decimals=decimals))
    assert average_precision(matches)[0] == pytest.approx(expected, abs=1e-10)


def test_more_than_100_detections_an_image_are_cut_as_coco_cuts() -> None:
    truth = make_truth(3, per_image=8)
    predictions = make_predictions(truth, 1.0, clutter=500)
    for prediction in predictions:  # right ones last, so that the cut costs AP
        prediction["score"] = 1 - prediction["score"]
    expected = 100 * coco_eval(truth, predictions).stats[0]
    assert expected < 90
    assert average_precision(matches_of(truth, predictions))[0] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_integer_weights_equal_images_duplicated_under_new_ids(seed: int) -> None:
    truth = make_truth(12, seed)
    predictions = make_predictions(truth, 2.0, seed)
    weights = np.random.default_rng(seed).integers(0, 4, 12)
    big: dict[str, Any] = {"categories": truth["categories"], "images": [], "annotations": []}
    found: list[dict[str, Any]] = []
    for image, weight in zip(truth["images"], weights, strict=True):
        for copy_number in range(weight):
            new = image["id"] + 1000 * copy_number
            big["images"].append({**image, "id": new})
            for a in truth["annotations"]:
                if a["image_id"] == image["id"]:
                    big["annotations"].append({**a, "id": len(big["annotations"]) + 1, "image_id": new})
            found += [{**p, "image_id": new} for p in predictions if p["image_id"] == image["id"]]
    expected = 100 * coco_eval(big, found).stats[0]
    result = average_precision(matches_of(truth, predictions), weights[None])
    assert result == pytest.approx([expected], abs=1e-9)


def test_many_resamples_in_chunks_equal_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = make_truth(10)
    matches = matches_of(truth, make_predictions(truth, 2.0))
    weights = np.random.default_rng(0).integers(0, 3, (37, 10))
    alone = [average_precision(matches, row[None])[0] for row in weights]
    monkeypatch.setattr("instseg.statistics.resampling._ROWS", 5)
    assert np.array_equal(average_precision(matches, weights), alone, equal_nan=True)


def test_categories_without_ground_truth_in_a_resample_are_left_out() -> None:
    truth = make_truth(2, crowd=False)
    box = [4.0, 4.0, 20.0, 20.0]
    shape = {"bbox": box, "area": 400.0, "iscrowd": 0, "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]}
    truth["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 1, **shape},
        {"id": 2, "image_id": 2, "category_id": 2, **shape},
    ]
    matches = matches_of(truth, [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9}])
    values = average_precision(matches, np.array([[1, 1], [3, 0], [0, 1], [0, 0]]))
    assert values[:3] == pytest.approx([50, 100, 0])
    assert np.isnan(values[3])


def test_no_predictions_at_all_is_ap_zero() -> None:
    assert average_precision(matches_of(make_truth(4), []))[0] == 0


def run_pairs(noise: float, images: int = 30, seeds: int = 2, folds: int = 1) -> dict[tuple[int, int], Matches]:
    runs = {}
    for fold in range(folds):
        truth = make_truth(images, seed=100 + fold)
        for seed in range(seeds):
            found = make_predictions(truth, noise, seed=10 * fold + seed)
            runs[fold, seed] = matches_of(truth, found)
    return runs


def test_a_planted_difference_has_its_sign_and_an_interval_that_excludes_zero() -> None:
    good, bad = run_pairs(0.8, folds=4), run_pairs(2.5, folds=4)
    result = paired_difference(good, bad, resamples=300)
    expected = np.mean([average_precision(good[k])[0] - average_precision(bad[k])[0] for k in good])
    assert (result.runs, result.units) == (8, 4)
    assert result.estimate.value == pytest.approx(expected)
    assert 0 < result.estimate.low < result.estimate.value < result.estimate.high
    mean = mean_ap(good, 300)
    assert mean.low < mean.value < mean.high
    swapped = paired_difference(bad, good, resamples=300).estimate
    assert swapped.low == pytest.approx(-result.estimate.high)


def test_pairing_makes_the_interval_of_a_constant_difference_narrow() -> None:
    """Same detections but one worse category: image luck cancels, so the paired interval is much narrower."""
    truth = make_truth(30)
    found = make_predictions(truth, 2.0)
    worse = [{**p, "bbox": [v + 0.3 for v in p["bbox"]]} for p in found]
    runs = {(0, 0): matches_of(truth, found)}
    difference = paired_difference(runs, {(0, 0): matches_of(truth, worse)}, 300).estimate
    mean = mean_ap(runs, 300)
    assert difference.high - difference.low < 0.6 * (mean.high - mean.low)


def test_equal_variants_differ_by_exactly_zero() -> None:
    runs = run_pairs(1.5)
    result = paired_difference(runs, run_pairs(1.5), resamples=50).estimate
    assert (result.value, result.low, result.high) == (0, 0, 0)


def test_seeds_and_folds_are_resampled_where_there_is_more_than_one() -> None:
    """Seeds of very different quality must widen the interval far beyond what images alone give."""
    truth = make_truth(40)
    by_seed = {(0, s): matches_of(truth, make_predictions(truth, noise)) for s, noise in enumerate([0.5, 3.0])}
    by_fold = {(s, 0): matches for (_, s), matches in by_seed.items()}
    for runs in (by_seed, by_fold):
        both = mean_ap(runs, 300)
        alone = [mean_ap({key: value}, 300) for key, value in runs.items()]
        assert both.high - both.low > 1.5 * max(one.high - one.low for one in alone)


def test_the_seed_of_the_bootstrap_fixes_the_result() -> None:
    first, same, other = (
        paired_difference(run_pairs(1.0, seeds=1), run_pairs(2.0, seeds=1), 50, seed=seed) for seed in (4, 4, 5)
    )
    assert first == same != other


def test_a_study_of_usual_size_takes_seconds() -> None:
    """60 images with 100 detections each, 3 variants of 2 seeds, box and mask alike: 12 runs."""
    truth = make_truth(60, per_image=8)
    tables = [
        {(0, seed): matches_of(truth, make_predictions(truth, 1 + variant, seed, clutter=95)) for seed in (0, 1)}
        for variant in range(6)
    ]
    start = time.process_time()
    for variant in (1, 2, 4, 5):
        paired_difference(tables[variant], tables[0 if variant < 3 else 3], resamples=1000)
    assert time.process_time() - start < 5

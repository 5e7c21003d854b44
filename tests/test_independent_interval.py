"""Committed intervals, worked out a second time by plain loops and scipy: nothing of the suite's statistics is used."""

import gzip
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco_mask
from scipy import stats

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
RESAMPLES = 1000
PAGE = (Path(__file__).parent.parent / "docs" / "statistics.md").read_text().replace("−", "-")
EXAMPLE = " ".join(PAGE.split("## A worked example")[1].split("## ")[0].split())


def unpacked(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def matched(truth: dict[str, Any], results: list[dict[str, Any]], threshold: float) -> dict[int, list[tuple[Any, ...]]]:
    """By category, ``(score, image, is it true)`` of each detection by falling score, as COCO matches them."""
    detections = defaultdict(list)
    objects = defaultdict(list)
    for annotation in truth["annotations"]:
        objects[annotation["image_id"], annotation["category_id"]].append(annotation["segmentation"])
    by_image = defaultdict(list)
    for result in results:
        by_image[result["image_id"], result["category_id"]].append(result)
    # of equal scores the image that comes first goes first
    for (image, category), found in sorted(by_image.items()):
        # COCO takes the 100 best; a stable sort keeps the order of equal scores
        found = sorted(found, key=lambda result: -result["score"])[:100]
        masks = objects[image, category]
        taken = set()
        for result in found:
            best, best_iou = None, min(threshold, 1 - 1e-10)
            for number, other in enumerate(masks):
                iou = float(coco_mask.iou([result["segmentation"]], [other], [0])[0, 0])
                if number not in taken and iou >= best_iou:
                    best, best_iou = number, iou
            taken.add(best)
            detections[category].append((result["score"], image, best is not None))
    return {key: sorted(entries, key=lambda entry: -entry[0]) for key, entries in detections.items()}


def average_precision(
    truth: dict[str, Any], matches: list[dict[int, list[tuple[Any, ...]]]], weights: dict[int, np.ndarray]
) -> np.ndarray:
    """(B,) AP in percent with each image counted as often as its weights (B,) say."""
    count = len(next(iter(weights.values())))
    categories = sorted({annotation["category_id"] for annotation in truth["annotations"]})
    table = []
    for category in categories:
        positives = np.zeros(count)
        for annotation in truth["annotations"]:
            if annotation["category_id"] == category:
                positives += weights[annotation["image_id"]]
        of_thresholds = []
        for by_category in matches:
            true, false, curve = np.zeros(count), np.zeros(count), []
            for _, image, is_true in by_category.get(category, []):
                true, false = true + weights[image] * is_true, false + weights[image] * (not is_true)
                curve.append((true / positives, true / np.maximum(true + false, 1e-12)))
            recall, precision = (np.array(part).reshape(-1, count) for part in zip(*curve, strict=True))
            envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            scores = np.zeros(count)
            for level in np.linspace(0, 1, 101):
                reached = recall >= level
                first = reached.argmax(axis=0)
                scores += np.where(reached.any(axis=0), envelope[first, np.arange(count)], 0.0)
            of_thresholds.append(scores / 101)
        table.append(np.where(positives > 0, np.mean(of_thresholds, axis=0), np.nan))
    return 100 * np.nanmean(table, axis=0)


@pytest.mark.parametrize("variant", ["unet", "unet_no_skip"])
def test_an_interval_over_seeds(variant: str) -> None:
    """``quick``: a head minus the FCN, three seeds on the same images, from the committed predictions."""
    folder = REFERENCE / "quick"
    runs = pd.read_csv(folder / "runs.csv").set_index(["variant", "seed"])["folder"]
    (truth_path,) = folder.glob("predictions/generated-*.json.gz")
    truth = unpacked(truth_path)
    ids = sorted(image["id"] for image in truth["images"])
    # the suite's own draw of the images, so that the last digit is the same
    drawn = np.random.default_rng([0, 1, 0]).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=RESAMPLES)
    weights = {image: np.concatenate([[1], drawn[:, place]]) for place, image in enumerate(ids)}
    thresholds = np.linspace(0.5, 0.95, 10).tolist()

    def scored(name: str, seed: int) -> np.ndarray:
        results = unpacked(folder / "predictions" / f"{runs[name, seed]}.json.gz")
        return average_precision(truth, [matched(truth, results, threshold) for threshold in thresholds], weights)

    differences = np.stack([scored(variant, seed) - scored("fcn", seed) for seed in range(3)])
    values, resampled = differences[:, 0], differences[:, 1:]
    # what the images do to all seeds alike: all that they do to the mean, less what they do to single seeds
    correction = len(ids) / (len(ids) - 1)
    of_mean = correction * resampled.mean(axis=0).var(ddof=1)
    apart = resampled - resampled.mean(axis=0)
    of_single = correction * apart.var(axis=1, ddof=1).mean() * 3 / 2
    parts = [(max(0.0, of_mean - of_single / 3), len(ids) - 1), (values.var(ddof=1) / 3, 2)]
    row = pd.read_csv(folder / "ap.csv").set_index("variant").loc[variant]
    assert row["mask_AP_diff"] == pytest.approx(values.mean(), abs=1e-6)
    # two heads are compared with the FCN
    for alpha, name in ((0.05, "diff"), (0.05 / 2, "diff_corrected")):
        half = math.sqrt(sum(stats.t.isf(alpha / 2, df) ** 2 * variance for variance, df in parts))
        assert row[f"mask_AP_{name}_low"] == pytest.approx(values.mean() - half, abs=1e-4)
        assert row[f"mask_AP_{name}_high"] == pytest.approx(values.mean() + half, abs=1e-4)
        if variant == "unet_no_skip":
            # the example of the page
            told = [half, parts[0][0], parts[1][0], values.var(ddof=1)]
            ends = f"[{values.mean() - half:.1f}, {values.mean() + half:.1f}]"
            assert all(f"{number:.2f}" in EXAMPLE for number in told) and ends in EXAMPLE
            assert all(f"{value:.1f}" in EXAMPLE for value in values)


@pytest.mark.parametrize("study", ["pennfudan_small", "nuclei"])
def test_intervals_over_folds(study: str) -> None:
    """Nadeau and Bengio's corrected t-test of the means of folds, from ``runs.csv`` alone."""
    runs = pd.read_csv(REFERENCE / study / "runs.csv")
    contrasts = pd.read_csv(REFERENCE / study / "contrasts.csv")
    assert len(contrasts) == 3
    for _, row in contrasts.iterrows():
        by_fold = runs.pivot_table(index="fold", columns="variant", values="mask_AP", aggfunc="mean")
        values = (by_fold[row["variant"]] - by_fold[row["rival"]]).to_numpy()
        error = math.sqrt(values.var(ddof=1) * (1 / 5 + 1 / 4))
        own = stats.t.interval(0.95, 4, values.mean(), error)
        corrected = stats.t.interval(1 - 0.05 / 3, 4, values.mean(), error)
        assert (len(values), row["mask_AP_diff"]) == (5, pytest.approx(values.mean(), abs=1e-6))
        assert (row["mask_AP_diff_low"], row["mask_AP_diff_high"]) == pytest.approx(own, abs=1e-5)
        # Holm's narrower interval may stand in place of Bonferroni's
        assert row["mask_AP_diff_corrected_low"] >= corrected[0] - 1e-5
        assert row["mask_AP_diff_corrected_high"] <= corrected[1] + 1e-5
        if row["mask_AP_verdict"] in ("undecided", "equivalent"):
            assert row["mask_AP_diff_corrected_low"] == pytest.approx(corrected[0], abs=1e-5)

"""Numbers by image and by complexity, against those worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import bbox, compared, ellipse, encode, make_run, make_study

from experiments.report import by_image, by_object, predictions
from experiments.runs.study import read
from experiments.runs.study_files import StudyFiles

LEFT, RIGHT = ellipse((30, 40, 15, 15)), ellipse((90, 40, 15, 15))


def annotation(mask: np.ndarray, image_id: int = 1, category: int = 1, **others: object) -> dict:
    box, area = bbox(mask), int(mask.sum())
    shape = {"segmentation": encode(mask), "bbox": box, "area": area, "iscrowd": 0}
    return {"image_id": image_id, "category_id": category, **shape, **others}


def test_a_image_s_iou_counts_missed_objects_and_neither_unsure_nor_wrong_ones(tmp_path: Path) -> None:
    annotations = [
        annotation(LEFT),
        annotation(RIGHT, category=2),
        annotation(LEFT, 2),
        annotation(RIGHT, 3, iscrowd=1),
    ]
    truth = {
        "images": [{"id": i, "height": 96, "width": 128} for i in (1, 2, 3, 4)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [a | {"id": i} for i, a in enumerate(annotations)],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    coco = StudyFiles(tmp_path).ground_truth("truth.json")
    near = ellipse((93, 40, 15, 15))
    found = [
        annotation(LEFT, score=0.9),
        annotation(near, score=0.8),  # wrong category
        annotation(near, category=2, score=0.7),
        annotation(RIGHT, category=2, score=0.5),  # not above it
        annotation(RIGHT, 2, score=0.9),  # elsewhere
    ]
    overlap = (near & RIGHT).sum() / (near | RIGHT).sum()
    sure = {image: [f for f in found if f["image_id"] == image and f["score"] > predictions.SCORE] for image in (1, 2)}
    assert predictions.image_ious(coco, sure) == {1: pytest.approx((1 + overlap) / 2), 2: 0}


def images(**variants: dict[tuple[int, int], float]) -> pd.DataFrame:
    """IoUs by (seed, image)."""
    rows = [
        {"variant": variant, "fold": 0, "seed": seed, "ground_truth": "truth.json", "image_id": image, "iou": iou}
        for variant, ious in variants.items()
        for (seed, image), iou in ious.items()
    ]
    return pd.DataFrame(rows)


def test_images_are_counted_by_their_mean_over_pairs_of_runs() -> None:
    fcn = {(0, 1): 0.5, (1, 1): 0.5, (0, 2): 0.5, (1, 2): 0.5, (0, 3): 0.5, (1, 3): 0.5, (0, 4): 0.5, (1, 4): 0.5}
    # image 1: +0.1 and -0.04; 2: +0.03 and -0.012; 3: -0.2 and 0; 4: +0.1 and -0.1; the third seed has no partner
    shift = {
        (0, 1): 0.1,
        (1, 1): -0.04,
        (0, 2): 0.03,
        (1, 2): -0.012,
        (0, 3): -0.2,
        (1, 3): 0,
        (0, 4): 0.1,
        (1, 4): -0.1,
    }
    unet = {key: fcn[key] + by for key, by in shift.items()} | {(2, n): 1.0 for n in (1, 2, 3, 4)}
    (row,) = by_image.count_outcomes(images(fcn=fcn, unet=unet, other=fcn), {"unet": "fcn"}).itertuples()
    assert (row.variant, row.compared_with, row.pairs, row.images) == ("unet", "fcn", 2, 4)
    # 2 is equivalent: +0.009 on average
    assert (row.better, row.equivalent, row.worse) == (1, 2, 1)
    assert row.iou_diff == pytest.approx((0.03 + 0.009 - 0.1 + 0) / 4)


def test_a_study_is_read_run_by_run_and_a_damaged_one_gets_a_note(tmp_path: Path) -> None:
    make_study(tmp_path, {"fcn": 2.0, "unet": 0.0}, seeds=2, folds=2, images=5, speed=False)
    broken = next((tmp_path / "runs").glob("fcn-generated-f1-s1-*"))
    (broken / "predictions.json").write_text("[{")
    study = read(tmp_path)
    found = predictions.read(study, 20)
    assert len(found.images) == 5 * 7
    assert found.images.groupby("variant").size().to_dict() == {"fcn": 15, "unet": 20}
    assert any(broken.name in note and "complexity" in note for note in found.notes)
    unet = found.images[found.images["variant"] == "unet"]
    # predictions without noise are the objects themselves
    assert unet["iou"].to_numpy() == pytest.approx(1)
    by_third = found.complexity.groupby("variant")[list(predictions.THIRDS)].mean()
    # some false detections are among them
    assert (by_third.loc["unet"] > 90).all() and (by_third.loc["unet"] > by_third.loc["fcn"] + 10).all()
    (row,) = by_image.count_outcomes(found.images, compared(study, "fcn", 20).rivals).itertuples()
    assert (row.pairs, row.images, row.worse) == (3, 10, 0)
    assert row.better > 5


def test_thirds_are_of_equal_number_and_the_same_for_all_folds(tmp_path: Path) -> None:
    for fold in (0, 1):
        make_run(tmp_path, "fcn", 1.0, fold=fold, images=12)
    study = read(tmp_path)
    truths = {n: (study.files.ground_truth(n), "generated") for n in study.runs["ground_truth"]}
    edges, groups = predictions.thirds(truths)
    assert list(edges) == ["generated"]
    every = np.concatenate(list(groups.values()))
    counts = np.bincount(every, minlength=3)
    assert len(counts) == 3 and np.ptp(counts) <= 1
    # long ellipses are complex, round ones simple
    shapes = [a["bbox"] for truth, _ in truths.values() for a in truth.dataset["annotations"]]
    length = np.asarray([max(w, h) / min(w, h) for _, _, w, h in shapes])
    assert length[every == 0].mean() < 1.3 < 1.7 < length[every == 2].mean()
    (row,) = by_object.by_complexity(predictions.read(study, 20), compared(study, "fcn", 20)).values()
    assert row.edges == edges["generated"] and row.means[0].n == 2

"""Study folders made up in a moment: ellipses as objects, predictions of planted quality, all files real."""

import contextlib
import copy
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.report import ap
from experiments.report.compare import StudyScores
from experiments.report.section import Findings
from experiments.runs.study import Study
from instseg.evaluation import coco

HEIGHT, WIDTH = 96, 128
KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
Shape = tuple[float, float, float, float]


def ellipse(shape: Shape) -> np.ndarray:
    x, y, rx, ry = shape
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    return ((xx - x) / rx) ** 2 + ((yy - y) / ry) ** 2 <= 1


def encode(mask: np.ndarray) -> dict[str, Any]:
    rle = rle_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def bbox(mask: np.ndarray) -> list[float]:
    ys, xs = np.nonzero(mask)
    return [float(xs.min()), float(ys.min()), float(np.ptp(xs) + 1), float(np.ptp(ys) + 1)]


def make_truth(images: int, fold: int) -> tuple[dict[str, Any], dict[int, list[tuple[int, Shape]]], list[np.ndarray]]:
    """COCO annotations, the same objects as (category, ellipse) by image, and the images."""
    random = np.random.default_rng(1000 + fold)
    annotations: list[dict[str, Any]] = []
    objects: dict[int, list[tuple[int, Shape]]] = {}
    arrays = []
    for image in range(1, images + 1):
        objects[image] = []
        pixels = np.full((HEIGHT, WIDTH, 3), random.integers(60, 200, 3), dtype=np.float64)
        pixels += np.linspace(-40, 40, HEIGHT)[:, None, None] + random.normal(0, 8, pixels.shape)
        for _ in range(random.integers(2, 6)):
            shape = (random.uniform(20, 108), random.uniform(20, 76), *random.uniform(7, 20, 2))
            category = int(random.integers(1, 3))
            mask = ellipse(shape)
            pixels[mask] = random.integers(0, 255, 3) + random.normal(0, 8, (int(mask.sum()), 3))
            objects[image].append((category, shape))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": bbox(mask),
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": encode(mask),
                }
            )
        arrays.append(np.clip(pixels, 0, 255).astype(np.uint8))
    truth = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "round"}, {"id": 2, "name": "other"}],
        "annotations": annotations,
    }
    return truth, objects, arrays


def make_predictions(objects: dict[int, list[tuple[int, Shape]]], noise: float, seed: int) -> list[dict[str, Any]]:
    """Shaken ellipses; ``noise`` in pixels. The luck of the images is the same for all variants."""
    random = np.random.default_rng([seed, 7])
    found = []
    for image, shapes in objects.items():
        false = (*random.uniform(25, 75, 2), *random.uniform(6, 14, 2))
        for right, (category, shape) in [*((True, one) for one in shapes), (False, (1, false))]:
            shake = random.normal(0, 1, 4)
            x, y, rx, ry = np.asarray(shape) + noise * shake * (1 if right else 0)
            mask = ellipse((x, y, max(rx, 3), max(ry, 3)))
            score = random.uniform(0.55, 1) if right else random.uniform(0.05, 0.7)
            if mask.any():
                found.append(
                    {
                        "image_id": image,
                        "category_id": category,
                        "bbox": bbox(mask),
                        "score": float(score),
                        "segmentation": encode(mask),
                    }
                )
    return found


def coco_metrics(truth: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    boundary = coco.metrics(coco.evaluate(truth, found, "boundary", "pycocotools"))
    metrics: dict[str, dict[str, float | None]] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = {"info": {}, **copy.deepcopy(truth)}
        index.createIndex()
        detected = index.loadRes(copy.deepcopy(found))
        for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
            evaluator = COCOeval(index, detected, iou_type)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
            metrics[kind] = {k: None if v < 0 else 100 * v for k, v in zip(KEYS, evaluator.stats, strict=True)}
    return {**metrics, "boundary": boundary}


def make_run(
    study: Path,
    variant: str,
    noise: float,
    *,
    seed: int = 0,
    fold: int = 0,
    images: int = 10,
    options: dict[str, Any] | None = None,
    finished: bool = True,
    **changes: Any,
) -> Path:
    """One run folder with its ground truth; ``changes`` overwrite keys of ``result.json``."""
    name = f"generated-f{fold}-{images:08d}"
    truth, objects, arrays = make_truth(images, fold)
    (study / "ground_truth").mkdir(parents=True, exist_ok=True)
    (study / "ground_truth" / f"{name}.json").write_text(json.dumps(truth))
    # Not compressed and without the images' order: readers must go by the names.
    np.savez(
        study / "ground_truth" / f"{name}-images.npz",
        **{f"image_{i}": arrays[i - 1] for i in (3, 1, 2) if i <= images},
    )
    label = json.dumps([variant, options, noise, seed, fold, changes], sort_keys=True)
    digest = f"{sum(ord(c) * 31**n for n, c in enumerate(label)) % 16**8:08x}"
    run = study / "runs" / f"{variant}-generated-f{fold}-s{seed}-{digest}"
    run.mkdir(parents=True, exist_ok=True)
    _write_log(run / "metrics.jsonl", noise, seed)
    if not finished:
        return run
    found = make_predictions(objects, noise, seed)
    (run / "predictions.json").write_text(json.dumps(found))
    ious = [1 - noise / 20] * sum(map(len, objects.values()))
    (run / "true_boxes.json").write_text(json.dumps({"mask_iou": ious, "boundary_iou": ious}))
    result = {
        "schema": 1,
        "hash": digest,
        "study": study.name,
        "protocol": "end_to_end",
        "variant": variant,
        "head": {"name": variant.split("_")[0], "options": options or {}},
        "dataset": "generated",
        "trunk": "small",
        "fold": fold,
        "seed": seed,
        "iterations": 300,
        "ground_truth": f"ground_truth/{name}.json",
        "metrics": coco_metrics(truth, found),
        "left_out": [],
        "provenance": {
            "commit": "0123456789abcdef",
            "dirty": False,
            "device": "made-up device",
            "versions": {"torch": "2.14.1"},
            "train_seconds": 12.5,
            "wall_seconds": 15.25,
            "finished": f"2026-01-01T00:0{seed}:00Z",
        },
        **changes,
    }
    (run / "result.json").write_text(json.dumps(result))
    return run


def _write_log(path: Path, noise: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    lines = []
    for iteration in range(10, 301, 10):
        level = 0.1 + 0.05 * noise + 0.6 * np.exp(-iteration / 80)
        losses = {key: float(level * random.lognormal(0, 0.15)) for key in ("loss", "loss_mask", "loss_box_reg")}
        lines.append({"iteration": iteration, "lr": 0.01, **losses})
        if iteration % 50 == 0:
            ap = (80 - 15 * noise) * (1 - np.exp(-iteration / 120)) + random.normal(0, 1)
            lines.append({"iteration": iteration, "eval": {"box_AP": float(ap + 3), "mask_AP": float(ap)}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_shared(study: Path) -> None:
    """Each run's own predictions stand for its masks in the FCN's boxes."""
    for result in study.glob("runs/*/result.json"):
        _, fold, seed, _ = result.parent.name.rsplit("-", 3)
        (theirs,) = study.glob(f"runs/fcn-generated-{fold}-{seed}-*")
        digest = hashlib.sha256((theirs / "predictions.json").read_bytes()).hexdigest()
        content = {
            "of": {"run": theirs.name, "sha256": digest},
            "metrics": json.loads(result.read_text())["metrics"],
            "results": json.loads(result.with_name("predictions.json").read_text()),
        }
        result.with_name("shared_boxes.json").write_text(json.dumps(content))


def write_speed(study: Path, variants: list[str]) -> None:
    random = np.random.default_rng(5)
    measured = {}
    for number, variant in enumerate(variants):
        head = 1.5 + 0.8 * number
        measured[variant] = {
            **{
                key: {"median": middle, "low": 0.95 * middle, "high": 1.08 * middle}
                for key, middle in (
                    ("head_ms", head),
                    ("images_per_s", 200 / (3 + head) + random.uniform(0, 1)),
                    ("train_images_per_s", 60 / (3 + head)),
                )
            },
            "peak_memory_mib": 1500.0 + 100 * number,
            "parameters": 44_000_000 + 300_000 * number,
            "head_parameters": 2_600_000 + 300_000 * number,
            "head_flops_per_roi": 5.3e8 * (1 + number / 3),
            "flops_per_image": 1.1e11,
        }
    speed = {
        "provenance": {"device": "made-up device", "commit": "0123456789abcdef"},
        "what": {"rois": 100, "size": 28, "runs": dict.fromkeys(variants, "a folder")},
        "variants": measured,
    }
    (study / "speed.json").write_text(json.dumps(speed))


def make_study(
    study: Path, variants: dict[str, float], *, seeds: int = 2, folds: int = 1, images: int = 10, speed: bool = True
) -> Path:
    """A whole study: ``variants`` maps a name to the noise of its predictions."""
    for variant, noise in variants.items():
        for fold in range(folds):
            for seed in range(seeds):
                make_run(study, variant, noise, seed=seed, fold=fold, images=images)
    if "fcn" in variants:
        _write_shared(study)
    if speed:
        write_speed(study, list(variants))
    return study


def compared(study: Study, baseline: str, resamples: int) -> StudyScores:
    """A study's variants compared by AP; notes are added to the study's."""
    findings = Findings(study, baseline, resamples)
    study.notes += [*findings.predictions.notes, *findings.scores.notes]
    return findings.scores


def ap_frame(study: Study, baseline: str, resamples: int) -> pd.DataFrame:
    """What ``ap.csv`` holds."""
    return ap.numbers(compared(study, baseline, resamples))

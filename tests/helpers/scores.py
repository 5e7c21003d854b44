"""Results to score, and pycocotools' own scores of files."""

import contextlib
import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg.evaluation import coco
from instseg.masks import paste

SIZE = 64
"""Height and width of the images of :func:`make_truth`."""
SIDE = 300
"""Those of :func:`random_boxes`."""


def noisy_results(truth: dict[str, Any], seed: int) -> coco.Results:
    """Results around the truth: shifted boxes and masks, some classes wrong, some missed, some doubled."""
    numbers = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    categories = [c["id"] for c in truth["categories"]]
    results: coco.Results = []
    for annotation in truth["annotations"]:
        for _ in range(numbers.integers(0, 3)):
            x, y, w, h = np.array(annotation["bbox"]) + numbers.normal(0, 3, 4)
            height, width = sizes[annotation["image_id"]]
            mask = np.zeros((1, height, width), dtype=np.uint8)
            mask[0, max(int(y), 0) : max(int(y + h), 1), max(int(x), 0) : max(int(x + w), 1)] = 1
            wrong = numbers.random() < 0.2
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(numbers.choice(categories)) if wrong else annotation["category_id"],
                    "bbox": [float(v) for v in (x, y, max(w, 1), max(h, 1))],
                    "score": float(numbers.random()),
                    "segmentation": paste.encode(mask)[0],
                }
            )
    return results


def by_pycocotools(annotations: Path, predictions: Path, iou_type: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(predictions)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


def make_truth(images: int, seed: int = 0, per_image: int = 5, crowd: bool = True) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for _ in range(random.integers(0, per_image + 1)):
            x, y = random.uniform(0, 40, 2)
            w, h = random.uniform(8, 24, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(random.integers(1, 4)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(crowd and random.random() < 0.15),
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    return {
        "images": [{"id": i, "width": SIZE, "height": SIZE} for i in range(1, images + 1)],
        # Category 4 has detections only, 5 has nothing at all.
        "categories": [{"id": c, "name": f"c{c}"} for c in range(1, 6)],
        "annotations": annotations,
    }


def make_predictions(
    truth: dict[str, Any], noise: float, seed: int = 1, clutter: int = 3, decimals: int = 9
) -> list[dict[str, Any]]:
    """Shaken copies of the ground truth, plus ``clutter`` false boxes an image; few decimals give ties."""
    random = np.random.default_rng(seed)
    predictions = []
    for a in truth["annotations"]:
        box = np.asarray(a["bbox"]) + random.normal(0, noise, 4)
        predictions.append((a["image_id"], a["category_id"], np.maximum(box, 1), random.beta(4, 2)))
    for image in truth["images"]:
        for _ in range(clutter):
            box = np.concatenate([random.uniform(0, 40, 2), random.uniform(8, 24, 2)])
            predictions.append((image["id"], int(random.integers(1, 5)), box, random.beta(2, 3)))
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": [float(v) for v in box],
            "score": round(float(score), decimals),
        }
        for image, category, box, score in predictions
    ]


def quiet_coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = copy.deepcopy(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def coco_eval(truth: dict[str, Any], predictions: list[dict[str, Any]], kind: str = "box") -> COCOeval:
    """A plain evaluation of COCO's own, through ``loadRes`` and its own summary."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = quiet_coco(truth)
        found = coco.loadRes(copy.deepcopy(predictions))
        evaluator = COCOeval(coco, found, "bbox" if kind == "box" else "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def random_boxes(seed: int, clutter: int, decimals: int) -> tuple[dict[str, Any], coco.Results]:
    """Boxes of all sizes; category 4 has no object, 5 neither that nor detections, and there are empty images."""
    random = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: coco.Results = []

    def box() -> list[float]:
        w, h = np.exp(random.uniform(np.log(6), np.log(280), 2))
        return [float(v) for v in (*random.uniform(0, SIDE - np.array([w, h])), w, h)]

    def add(image: int, category: int, shape: list[float]) -> None:
        x, y, w, h = shape
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        score = round(float(random.random()), decimals)
        shared = {"image_id": image, "category_id": category, "bbox": shape, "segmentation": [polygon]}
        results.append({**shared, "score": score})

    for image in range(1, 9):
        for _ in range(random.integers(0, 12)):
            shape = box()
            x, y, w, h = shape
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            shared = {"image_id": image, "category_id": int(random.integers(1, 4)), "bbox": shape}
            # not the box's area, so that an object and its detection may lie in different ranges
            area = w * h * random.uniform(0.5, 1)
            crowd = int(random.random() < 0.2)
            annotations.append(
                {**shared, "id": len(annotations), "area": area, "iscrowd": crowd, "segmentation": [polygon]}
            )
            for _ in range(random.integers(0, 3)):
                noise = random.normal(0, 0.04, 4) * [w, h, w, h]
                add(image, shared["category_id"], [float(v) for v in np.maximum(np.array(shape) + noise, 0)])
        for _ in range(clutter):
            add(image, int(random.integers(1, 5)), box())
    truth = {
        "images": [{"id": i, "width": SIDE, "height": SIDE} for i in range(1, 12)],
        "categories": [{"id": c, "name": f"c{c}"} for c in range(1, 6)],
        "annotations": annotations,
    }
    return truth, results

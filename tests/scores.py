"""Results to score, and pycocotools' own scores of files."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg import masks
from instseg.evaluation import coco


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
                    "segmentation": masks.encode(mask)[0],
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

"""COCO's metrics from random results: ours, and pycocotools as it comes."""

import contextlib
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.benchmark import random_data
from experiments.benchmark.contest import OURS
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from instseg import timing
from instseg.evaluation import coco
from instseg.masks import paste

PEER = "pycocotools"


def measure(setup: Setup) -> BenchmarkResult:
    """Times for the metrics of ``images`` images, after both gave the same twelve numbers."""
    truth, results = _results(setup)
    work: dict[str, Callable[[], Any]] = {}
    for kind in coco.IOU_TYPES:
        work[f"{OURS}, {kind}"] = partial(coco.evaluate, truth, results, kind)
        work[f"{PEER}, {kind}"] = partial(_pycocotools, truth, results, coco.IOU_TYPES[kind])
        ours, theirs = (work[f"{name}, {kind}"]().stats for name in (OURS, PEER))
        if not np.allclose(ours, theirs, rtol=0, atol=1e-12):
            raise AssertionError(f"{kind}: {ours} and pycocotools' {theirs} differ")
    # pycocotools has none
    work[f"{OURS}, boundary"] = partial(coco.evaluate, truth, results, "boundary")
    seconds = timing.alternating(work, rounds=setup.options.rounds, device=torch.device("cpu"), budget=math.inf)
    rows = [Row(name, seconds[name], setup.options.images, f"{OURS}, {name.split(', ')[1]}") for name in work]
    measured = {
        "images": setup.options.images,
        "detections": len(results),
        "annotations": len(truth["annotations"]),
        "classes": setup.classes,
        "height": setup.size[0],
        "width": setup.size[1],
    }
    return BenchmarkResult(rows, "images", measured, ["Both give the same twelve numbers, for boxes and for masks."])


def _pycocotools(truth: dict[str, Any], results: coco.Results, iou_type: str) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        # it writes into what it is given
        evaluation = COCOeval(ground, ground.loadRes([dict(result) for result in results]), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _results(setup: Setup) -> tuple[dict[str, Any], coco.Results]:
    """Random ground truth, and detections of which the first of each image lie near its objects."""
    generator = torch.Generator().manual_seed(random_data.SEED)
    height, width = setup.size
    count, instances = setup.config.detector.box_detections_per_img, setup.options.instances
    truth: dict[str, Any] = {
        "images": [{"id": i, "height": height, "width": width} for i in range(1, setup.options.images + 1)],
        "categories": [{"id": c, "name": str(c)} for c in range(1, setup.classes)],
        "annotations": [],
    }
    results: coco.Results = []
    for image in truth["images"]:
        objects = random_data.boxes(setup.size, instances, generator)
        labels = torch.randint(1, setup.classes, (instances,), generator=generator)
        for shape, label in zip(shapes(objects, setup.size), labels.tolist(), strict=True):
            number = len(truth["annotations"]) + 1
            x = {"id": number, "image_id": image["id"], "category_id": label, "iscrowd": 0}
            truth["annotations"].append({**x, **shape, "area": shape["bbox"][2] * shape["bbox"][3]})
        near = objects[torch.randint(instances, (count,), generator=generator)]
        found = near + 0.05 * (near[:, 2:] - near[:, :2]).repeat(1, 2) * torch.randn(count, 4, generator=generator)
        found[:, 2:] = torch.maximum(found[:, 2:], found[:, :2] + 1)
        guesses = torch.randint(1, setup.classes, (count,), generator=generator).tolist()
        scores = torch.rand(count, generator=generator).tolist()
        for shape, label, score in zip(shapes(found, setup.size), guesses, scores, strict=True):
            results.append({"image_id": image["id"], "category_id": label, "score": score, **shape})
    return truth, results


def shapes(boxes: torch.Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
    """``bbox`` and ``segmentation`` of the ellipses in boxes."""
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    rles = paste.encode(random_data.ellipses(boxes, size).numpy())
    return [{"bbox": box, "segmentation": rle} for box, rle in zip(xywh, rles, strict=True)]

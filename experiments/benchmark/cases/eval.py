"""COCO's metrics from random results: ours, and pycocotools."""

import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval

from experiments.benchmark import random_data
from experiments.benchmark.contest import OURS
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from instseg.evaluation import coco

PEER = "pycocotools"


def measure(setup: Setup) -> BenchmarkResult:
    """Times for the metrics of ``images`` images, after both gave the same twelve numbers."""
    truth, results = random_data.coco_results(
        setup.size,
        setup.options.images,
        setup.options.instances,
        setup.classes,
        setup.config.detector.box_detections_per_img,
        jitter=0.05,
        right=0,
    )
    work: dict[str, Callable[[], Any]] = {}
    for kind in coco.IOU_TYPES:
        work[f"{OURS}, {kind}"] = partial(coco.evaluate, truth, results, kind)
        work[f"{PEER}, {kind}"] = partial(pycocotools, truth, results, coco.IOU_TYPES[kind])
        metrics, expected = (work[f"{name}, {kind}"]().stats for name in (OURS, PEER))
        if not np.allclose(metrics, expected, rtol=0, atol=1e-12):
            raise AssertionError(f"{kind}: {metrics} and pycocotools' {expected} differ")
    # pycocotools has no boundary AP
    work[f"{OURS}, boundary"] = partial(coco.evaluate, truth, results, "boundary")
    seconds = setup.time(work, torch.device("cpu"))
    rows = [Row(name, seconds[name], setup.options.images, f"{OURS}, {name.split(', ')[1]}") for name in work]
    measured = {
        "images": setup.options.images,
        "detections": len(results),
        "annotations": len(truth["annotations"]),
        "classes": setup.classes,
        **setup.about_size,
    }
    return BenchmarkResult(rows, "images", measured, ["Both give the same twelve numbers, for boxes and for masks."])


def pycocotools(
    truth: dict[str, Any],
    results: coco.Results,
    iou_type: str,
    steps: tuple[str, ...] = ("evaluate", "accumulate", "summarize"),
    **params: Any,
) -> COCOeval:
    """pycocotools' evaluation after these of its steps, with some of its parameters replaced."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = coco.load(truth)
        # copies, since loadRes writes into the results
        evaluation = COCOeval(ground_truth, ground_truth.loadRes([dict(result) for result in results]), iou_type)
        vars(evaluation.params).update(params)
        for step in steps:
            getattr(evaluation, step)()
    return evaluation

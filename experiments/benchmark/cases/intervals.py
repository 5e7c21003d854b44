"""The interval of a difference of two variants on a data set of COCO's size: matching of random results, timed on a
part of it beside pycocotools, and resampling of the whole."""

import contextlib
import io
import math
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval

from experiments.benchmark import random_data
from experiments.benchmark.cases.eval import PEER, shapes
from experiments.benchmark.contest import OURS
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from instseg import timing
from instseg.evaluation import coco
from instseg.evaluation.matches import IOU_THRESHOLDS, CategoryMatches, Matches, match
from instseg.statistics.resampling import average_precision, paired_difference

IMAGES, DETECTIONS, CATEGORIES, OBJECTS = 5000, 100, 80, 36_000
"""Of COCO's val2017, with as many detections as are counted."""
RESAMPLES = 1000


def measure(setup: Setup) -> BenchmarkResult:
    """Times for matching ``images`` images, after pycocotools gave the same AP, and for resampling two variants."""
    truth, results = _results(setup)
    work: dict[str, Callable[[], Any]] = {}
    kinds: tuple[coco.Kind, ...] = ("box", "mask")
    for kind in kinds:
        ours, theirs = f"matching, {kind}: {OURS}", f"matching, {kind}: {PEER}"
        work[ours] = partial(_match, truth, results, kind)
        work[theirs] = partial(_pycocotools, truth, results, coco.IOU_TYPES[kind])
        found, expected = average_precision(work[ours]())[0], 100 * _ap(work[theirs]())
        if not abs(found - expected) < 1e-9:
            raise AssertionError(f"{kind}: AP {found} and pycocotools' {expected} differ")
    # pycocotools knows no boundaries
    work[f"matching, boundary: {OURS}"] = partial(_match, truth, results, "boundary")
    variants = [_matches(np.random.default_rng(seed)) for seed in (random_data.SEED, random_data.SEED + 1)]
    work["resampling two variants"] = lambda: _difference(variants)
    seconds = timing.alternating(work, rounds=setup.options.rounds, device=torch.device("cpu"), budget=math.inf)
    images = setup.options.images
    rows = []
    for name in work:
        base, _, _ = name.partition(": ")
        matching = base != name
        rows.append(Row(name, seconds[name], images if matching else IMAGES, f"{base}: {OURS}" if matching else None))
    per_image = sum(timing.spread(row.seconds)["median"] for row in rows if row.name.endswith(OURS)) / images
    resampled = timing.spread(rows[-1].seconds)["median"]
    # kibibytes, and bytes on a Mac
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    measured = {
        "images": images,
        "height": setup.size[0],
        "width": setup.size[1],
        "detections": len(results),
        "resampled_images": IMAGES,
        "resampled_detections": IMAGES * DETECTIONS,
        "categories": CATEGORIES,
        "resamples": RESAMPLES,
        "peak_process_mib": round(peak),
    }
    notes = [
        "Matching gives pycocotools' AP, for boxes and for masks.",
        f"At this rate a difference in box, in mask and in boundary AP on {IMAGES:,} such images takes "
        f"{2 * IMAGES * per_image:,.0f} s of matching and {3 * resampled:,.0f} s of resampling.",
    ]
    return BenchmarkResult(rows, "images", measured, notes)


def _difference(variants: list[Matches]) -> None:
    # what is kept of earlier calls is kept by the object
    a, b = (Matches(one.image_ids, one.categories) for one in variants)
    paired_difference({(0, 0): a}, {(0, 0): b}, RESAMPLES)


def _match(truth: dict[str, Any], results: coco.Results, kind: coco.Kind) -> Matches:
    return match(coco.load(truth), results, kind)


def _pycocotools(truth: dict[str, Any], results: coco.Results, iou_type: str) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        ground = coco.load(truth)
        evaluation = COCOeval(ground, ground.loadRes([dict(result) for result in results]), iou_type)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [DETECTIONS]
        evaluation.evaluate()
    return evaluation


def _ap(evaluation: COCOeval) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float(precision[precision > -1].mean())


def _results(setup: Setup) -> tuple[dict[str, Any], coco.Results]:
    """Random objects, and detections near them: half of the class of their object, half of any."""
    generator = torch.Generator().manual_seed(random_data.SEED)
    instances = setup.options.instances
    images = [{"id": i, "height": setup.size[0], "width": setup.size[1]} for i in range(1, setup.options.images + 1)]
    annotations: list[dict[str, Any]] = []
    results: coco.Results = []
    for image in images:
        objects = random_data.boxes(setup.size, instances, generator)
        labels = torch.randint(1, CATEGORIES + 1, (instances,), generator=generator)
        for shape, label in zip(shapes(objects, setup.size), labels.tolist(), strict=True):
            x = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": label, "iscrowd": 0}
            annotations.append({**x, **shape, "area": shape["bbox"][2] * shape["bbox"][3]})
        near = torch.randint(instances, (DETECTIONS,), generator=generator)
        found = objects[near]
        found += 0.1 * (found[:, 2:] - found[:, :2]).repeat(1, 2) * torch.randn(DETECTIONS, 4, generator=generator)
        found[:, 2:] = torch.maximum(found[:, 2:], found[:, :2] + 1)
        any_label = torch.randint(1, CATEGORIES + 1, (DETECTIONS,), generator=generator)
        guesses = torch.where(torch.rand(DETECTIONS, generator=generator) < 0.5, labels[near], any_label)
        scores = torch.rand(DETECTIONS, generator=generator)
        for shape, label, score in zip(shapes(found, setup.size), guesses.tolist(), scores.tolist(), strict=True):
            results.append({"image_id": image["id"], "category_id": label, "score": score, **shape})
    categories = [{"id": c, "name": str(c)} for c in range(1, CATEGORIES + 1)]
    return {"images": images, "categories": categories, "annotations": annotations}, results


def _matches(random: np.random.Generator) -> Matches:
    """Matches of a detector that finds most objects, the fewer the higher the threshold, among many false ones."""
    image_of, category_of = random.integers(IMAGES, size=OBJECTS), random.integers(CATEGORIES, size=OBJECTS)
    # the highest threshold at which an object is found
    level = random.integers(-2, len(IOU_THRESHOLDS) + 1, OBJECTS)
    false = IMAGES * DETECTIONS - np.count_nonzero(level > 0)
    image_of_false, category_of_false = random.integers(IMAGES, size=false), random.integers(CATEGORIES, size=false)
    categories = []
    for category in range(CATEGORIES):
        mine = category_of == category
        found = mine & (level > 0)
        wrong = image_of_false[category_of_false == category]
        image = np.concatenate([image_of[found], wrong])
        reach = np.concatenate([level[found], np.zeros(len(wrong), dtype=np.int64)])
        order = np.argsort(-np.concatenate([random.beta(4, 2, found.sum()), random.beta(2, 4, len(wrong))]))
        hits = tuple(np.flatnonzero(reach[order] > threshold) for threshold in range(len(IOU_THRESHOLDS)))
        positives = np.bincount(image_of[mine], minlength=IMAGES).astype(np.float64)
        none = np.zeros(0, dtype=np.int64)
        categories.append(CategoryMatches(image[order], positives, hits, tuple(none for _ in hits)))
    return Matches(np.arange(IMAGES), tuple(categories))

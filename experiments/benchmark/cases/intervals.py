"""The interval of a difference of two variants on a data set of COCO's size.

Matching of random results is timed on a part of it beside pycocotools, and 1,000 resamples on all 5,000 images.
"""

import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from experiments.benchmark import random_data
from experiments.benchmark.cases.eval import PEER, pycocotools
from experiments.benchmark.contest import OURS
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from instseg import timing
from instseg.evaluation import coco
from instseg.evaluation.matches import IOU_THRESHOLDS, CategoryMatches, Matches, match
from instseg.statistics.resampling import average_precision, differences, score_run

IMAGES, DETECTIONS, CATEGORIES, OBJECTS = 5000, 100, 80, 36_000
"""Those of COCO's val2017, with as many detections as COCO's AP counts."""
RESAMPLES = 1000


def measure(setup: Setup) -> BenchmarkResult:
    """Times for matching ``images`` images, after pycocotools gave the same AP, and for resampling two variants."""
    images = setup.options.images
    truth, results = random_data.coco_results(
        setup.size, images, setup.options.instances, CATEGORIES + 1, DETECTIONS, jitter=0.1, right=0.5
    )
    only_all: dict[str, Any] = {"areaRng": [[0, 1e10]], "areaRngLbl": ["all"], "maxDets": [DETECTIONS]}
    work: dict[str, Callable[[], Any]] = {}
    kinds: tuple[coco.Kind, ...] = ("box", "mask")
    for kind in kinds:
        ours = partial(_match, truth, results, kind)
        peer = partial(pycocotools, truth, results, coco.IOU_TYPES[kind], **only_all)
        work |= {f"matching, {kind}: {OURS}": ours, f"matching, {kind}: {PEER}": partial(peer, steps=("evaluate",))}
        precision = peer(steps=("evaluate", "accumulate")).eval["precision"]
        ap, expected = average_precision(ours())[0], 100 * float(precision[precision > -1].mean())
        if not abs(ap - expected) < 1e-9:
            raise AssertionError(f"{kind}: AP {ap} and pycocotools' {expected} differ")
    # pycocotools has no boundary AP
    work[f"matching, boundary: {OURS}"] = partial(_match, truth, results, "boundary")
    variants = [random_matches(np.random.default_rng(seed)) for seed in (random_data.SEED, random_data.SEED + 1)]
    work["resampling two variants"] = lambda: _difference(variants)
    seconds = setup.time(work, torch.device("cpu"))
    rows = []
    for name in work:
        step, colon, _ = name.partition(": ")
        rows.append(Row(name, seconds[name], images if colon else IMAGES, f"{step}: {OURS}" if colon else None))
    per_image = sum(timing.spread(row.seconds)["median"] for row in rows if row.name.endswith(OURS)) / images
    resampled = timing.spread(rows[-1].seconds)["median"]
    # ru_maxrss is in KiB, on macOS in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    measured = {
        "images": images,
        **setup.about_size,
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
    scores = {name: {(0, 0): score_run(matches, 0, RESAMPLES)} for name, matches in zip("ab", variants, strict=True)}
    differences(scores, {"a": None, "b": "a"})


def _match(truth: dict[str, Any], results: coco.Results, kind: coco.Kind) -> Matches:
    return match(coco.load(truth), results, kind)


def random_matches(random: np.random.Generator) -> Matches:
    """Matches of a detector that detects most objects, fewer at higher thresholds, and has many false positives."""
    image_of, category_of = random.integers(IMAGES, size=OBJECTS), random.integers(CATEGORIES, size=OBJECTS)
    # number of thresholds at which an object is detected
    level = random.integers(-2, len(IOU_THRESHOLDS) + 1, OBJECTS)
    detected = level > 0
    false = IMAGES * DETECTIONS - np.count_nonzero(detected)
    images = np.concatenate([image_of[detected], random.integers(IMAGES, size=false)])
    labels = np.concatenate([category_of[detected], random.integers(CATEGORIES, size=false)])
    levels = np.concatenate([level[detected], np.zeros(false, dtype=np.int64)])
    scores = np.concatenate([random.beta(4, 2, len(levels) - false), random.beta(2, 4, false)])
    order = np.argsort(-scores)
    images, labels, levels = images[order], labels[order], levels[order]
    ignored = tuple(np.zeros(0, dtype=np.int64) for _ in IOU_THRESHOLDS)
    categories = []
    for category in range(CATEGORIES):
        detections = labels == category
        positives = np.bincount(image_of[category_of == category], minlength=IMAGES).astype(np.float64)
        hits = tuple(np.flatnonzero(levels[detections] > threshold) for threshold in range(len(IOU_THRESHOLDS)))
        categories.append(CategoryMatches(images[detections], positives, hits, ignored))
    return Matches(np.arange(IMAGES), tuple(categories))

"""Masks in boxes to run-length encoding: ours, and torchvision's pasting with pycocotools' encoding."""

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from experiments.benchmark import random_data
from experiments.benchmark.contest import OURS
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from instseg.masks import paste

GRID = 28
THRESHOLD = 0.5
PEER = "torchvision paste + pycocotools encode"


def measure(setup: Setup) -> BenchmarkResult:
    """Times for ``rois`` masks of 28 × 28 in one image, after both gave the same bytes."""
    generator = torch.Generator().manual_seed(random_data.SEED)
    boxes = random_data.detections(setup.size, setup.options.rois, generator).to(setup.device)
    probabilities = random_data.blobs(setup.options.rois, GRID, generator).to(setup.device)

    def ours() -> list[str]:
        (rles,) = paste.to_rles([probabilities], [boxes], [setup.size], THRESHOLD)
        return [rle["counts"] for rle in rles]

    def peer() -> list[str]:
        pasted = paste_masks_in_image(probabilities[:, None], boxes, setup.size)[:, 0] > THRESHOLD
        columns = np.asfortranarray(pasted.cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
        return [rle["counts"].decode() for rle in coco_mask.encode(columns)]

    expected = peer()
    differ = sum(a != b for a, b in zip(ours(), expected, strict=True))
    if differ:
        raise AssertionError(f"{differ} of {len(expected)} masks are encoded otherwise than by pycocotools")
    work = {OURS: ours, PEER: peer}
    seconds = setup.time(work)
    rows = [
        Row(name, seconds[name], setup.options.rois, OURS, {"peak_memory_mib": setup.peak_mib(call)})
        for name, call in work.items()
    ]
    measured = {"masks": setup.options.rois, "grid": GRID, **setup.about_size}
    notes = [f"All {len(expected)} encodings are the same bytes.", "Peak memory is that of torch's tensors."]
    return BenchmarkResult(rows, "masks", measured, notes)

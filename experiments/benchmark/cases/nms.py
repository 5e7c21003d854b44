"""Non-maximum suppression of proposals as the study's RPN has them: many groups, one an image and level."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from experiments.benchmark import random_data, reference_models
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from instseg import timing
from instseg.detector import nms

JITTER = 0.2
"""Deviation of the proposals' centres and log sizes from their anchors', in sides of the anchor."""
KEEP, FIXED, PEER = "nms.keep", "nms.fixed_point", "torchvision.ops.batched_nms"


def measure(setup: Setup) -> BenchmarkResult:
    """Times for one training batch's proposals, after all kept the same boxes."""
    boxes, valid = _proposals(setup)
    threshold = setup.config.detector.rpn_nms_thresh
    # the scores fall within each group and are told apart by it
    scores = torch.linspace(1, 0, boxes.shape[1], device=setup.device).expand(len(boxes), -1)[valid]
    groups = torch.arange(len(boxes), device=setup.device)[:, None].expand_as(valid)[valid]
    flat = boxes[valid]

    work: dict[str, Callable[[], Any]] = {
        KEEP: lambda: nms.keep(boxes, valid, threshold),
        PEER: lambda: torchvision.ops.batched_nms(flat, scores, groups, threshold),
    }
    if setup.device.type == "cpu":
        # what keep() does on a GPU
        work[FIXED] = lambda: nms.fixed_point(boxes, valid, threshold)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for group in groups.unique():
        index = (groups == group).nonzero()[:, 0]
        kept[index[torchvision.ops.nms(flat[index], scores[index], threshold)]] = True
    for name in work.keys() - {PEER}:
        found = work[name]()
        differ = int((found[valid] != kept).sum()) + int(found[~valid].sum())
        if differ:
            raise AssertionError(f"{name} decides otherwise than torchvision.ops.nms on {differ} of {len(kept)} boxes")
    seconds = timing.alternating(work, rounds=setup.options.rounds, device=setup.device, budget=math.inf)
    rows = [Row(name, seconds[name], len(flat), KEEP) for name in work]
    for row in rows:
        row.numbers["peak_memory_mib"] = timing.peak_memory(work[row.name], setup.device) / 2**20
    measured = {
        "groups": len(boxes),
        "largest_group": boxes.shape[1],
        "boxes": len(flat),
        "kept": int(kept.sum()),
        "threshold": threshold,
        "height": setup.size[0],
        "width": setup.size[1],
    }
    return BenchmarkResult(rows, "boxes", measured, ["All keep the same boxes."])


def _proposals(setup: Setup) -> tuple[Tensor, Tensor]:
    """(G, N, 4) jittered anchors, at most as many a level as the RPN passes on in training, and which are there."""
    generator = torch.Generator().manual_seed(random_data.SEED)
    height, width = setup.size
    maps = [torch.empty(1, 1, -(-height // 2**level), -(-width // 2**level)) for level in (2, 3, 4, 5, 6)]
    anchors = reference_models.anchors(setup.config)
    image = ImageList(torch.empty(1, 3, height, width), [setup.size])
    levels = anchors(image, maps)[0].split(
        [m[0, 0].numel() * n for m, n in zip(maps, anchors.num_anchors_per_location(), strict=True)]
    )
    most = setup.config.detector.rpn_pre_nms_top_n_train
    groups = []
    for _ in range(setup.config.schedule.batch_size):
        for level in levels:
            chosen = level[torch.randperm(len(level), generator=generator)[:most]]
            sides = chosen[:, 2:] - chosen[:, :2]
            centres = chosen[:, :2] + sides / 2 + JITTER * sides * torch.randn(len(chosen), 2, generator=generator)
            sides = sides * torch.exp(JITTER * torch.randn(len(chosen), 2, generator=generator))
            moved = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
            groups.append(torchvision.ops.clip_boxes_to_image(moved, setup.size))
    size = max(map(len, groups))
    boxes, valid = torch.zeros(len(groups), size, 4), torch.zeros(len(groups), size, dtype=torch.bool)
    for row, present, group in zip(boxes, valid, groups, strict=True):
        row[: len(group)], present[: len(group)] = group, True
    return boxes.to(setup.device), valid.to(setup.device)

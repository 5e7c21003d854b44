"""Non-maximum suppression of the RPN's proposals, a group for each image and level."""

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from experiments.benchmark import random_data, reference_models
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from instseg.detector import nms

JITTER = 0.2
"""Standard deviation of the proposals' centres, in sides of their anchors, and of the logarithms of their sides."""
KEEP, FIXED, PEER = "nms.keep", "nms.fixed_point", "torchvision.ops.batched_nms"


def measure(setup: Setup) -> BenchmarkResult:
    """Times for the proposals of a training batch, after all implementations kept the same boxes."""
    boxes, valid = _proposals(setup)
    threshold = setup.config.detector.rpn_nms_thresh
    # the boxes of a group are sorted by their scores
    scores = torch.linspace(1, 0, boxes.shape[1], device=setup.device).expand(len(boxes), -1)[valid]
    groups = torch.arange(len(boxes), device=setup.device)[:, None].expand_as(valid)[valid]
    flat = boxes[valid]

    work: dict[str, Callable[[], Any]] = {
        KEEP: lambda: nms.keep(boxes, valid, threshold),
        PEER: lambda: torchvision.ops.batched_nms(flat, scores, groups, threshold),
    }
    if setup.device.type == "cpu":
        # what nms.keep does on a GPU
        work[FIXED] = lambda: nms.fixed_point(boxes, valid, threshold)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for group in groups.unique():
        index = (groups == group).nonzero()[:, 0]
        kept[index[torchvision.ops.nms(flat[index], scores[index], threshold)]] = True
    for name in work.keys() - {PEER}:
        result = work[name]()
        differ = int((result[valid] != kept).sum()) + int(result[~valid].sum())
        if differ:
            raise AssertionError(f"{name} decides otherwise than torchvision.ops.nms on {differ} of {len(kept)} boxes")
    seconds = setup.time(work)
    rows = [
        Row(name, seconds[name], len(flat), KEEP, {"peak_memory_mib": setup.peak_mib(call)})
        for name, call in work.items()
    ]
    measured = {
        "groups": len(boxes),
        "largest_group": boxes.shape[1],
        "boxes": len(flat),
        "kept": int(kept.sum()),
        "threshold": threshold,
        **setup.about_size,
    }
    return BenchmarkResult(rows, "boxes", measured, ["All keep the same boxes."])


def _proposals(setup: Setup) -> tuple[Tensor, Tensor]:
    """Jittered anchors (G, N, 4), at most as many per level as the RPN keeps in training, and a mask (G, N) of those
    that are no padding."""
    generator = torch.Generator().manual_seed(random_data.SEED)
    height, width = setup.size
    maps = [torch.empty(1, 1, -(-height // 2**level), -(-width // 2**level)) for level in (2, 3, 4, 5, 6)]
    anchors = reference_models.anchors(setup.config)
    image = ImageList(torch.empty(1, 3, height, width), [setup.size])
    levels = anchors(image, maps)[0].split(
        [m[0, 0].numel() * n for m, n in zip(maps, anchors.num_anchors_per_location(), strict=True)]
    )
    limit = setup.config.detector.rpn_pre_nms_top_n_train
    groups = []
    for _ in range(setup.config.schedule.batch_size):
        for level in levels:
            sample = level[torch.randperm(len(level), generator=generator)[:limit]]
            sides = sample[:, 2:] - sample[:, :2]
            centres = sample[:, :2] + sides / 2 + JITTER * sides * torch.randn(len(sample), 2, generator=generator)
            sides = sides * torch.exp(JITTER * torch.randn(len(sample), 2, generator=generator))
            proposals = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
            groups.append(torchvision.ops.clip_boxes_to_image(proposals, setup.size))
    boxes = nn.utils.rnn.pad_sequence(groups, batch_first=True)
    valid = torch.arange(boxes.shape[1]) < torch.tensor([[len(group)] for group in groups])
    return boxes.to(setup.device), valid.to(setup.device)

"""Every mask head of ``conf/head`` with random weights, on random RoIs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmark import random_data
from experiments.benchmark.calls import inference
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from experiments.config import cli
from instseg import seeds, timing
from instseg.detector.mask_head import MaskHead, MaskTargets
from instseg.detector.rois import RoIs
from instseg.device import autocast

TRAINING = ", training"


def measure(setup: Setup) -> BenchmarkResult:
    """Two rows for each head: predicting masks, and training (forward, loss, backward down to the pyramid)."""
    base = setup.config.head.variant
    configs = {name: setup.head_config(name) for name in (base, *(name for name in names() if name != base))}
    heads: dict[str, MaskHead] = {}
    work: dict[str, Callable[[], Any]] = {}
    for name, config in configs.items():
        with seeds.stream(setup.config.seed, "mask head"):
            head = config.make_head(setup.classes)
        heads[name] = head.to(setup.device).to(memory_format=torch.channels_last)
        if setup.compiles:
            head.compile()
        work |= {name: _predicting(setup, head), name + TRAINING: _training(setup, head)}
    seconds = setup.time(work)
    numbers = {name: properties(setup, head) | {"paper": configs[name].head.paper} for name, head in heads.items()}
    rows = [
        Row(name + end, seconds[name + end], setup.options.rois, base + end, numbers[name])
        for end in ("", TRAINING)
        for name in heads
    ]
    measured = {
        "rois": setup.options.rois,
        "channels": setup.config.trunk.out_channels,
        "classes": setup.classes,
        **setup.about_size,
        **setup.about_execution,
    }
    return BenchmarkResult(rows, "rois", measured, [f"ms: for {setup.options.rois} RoIs"])


def names() -> list[str]:
    """Names of all configurations of heads."""
    return sorted(path.stem for path in Path(cli.CONF, "head").glob("*.yaml"))


def _rois(setup: Setup, gradients: bool = False) -> Callable[[], RoIs]:
    make = timing.random_rois(setup.config.trunk.out_channels, setup.size, setup.options.rois, setup.device)
    for level in make().pyramid.values():
        level.requires_grad_(gradients)
    return make


def _predicting(setup: Setup, head: MaskHead) -> Callable[[], Any]:
    make, labels = _rois(setup), torch.ones(setup.options.rois, dtype=torch.int64, device=setup.device)
    return inference(head, lambda: head.predict(make(), labels), setup.device, setup.config.schedule.precision)


def _training(setup: Setup, head: MaskHead) -> Callable[[], Any]:
    make = _rois(setup, gradients=True)
    boxes = make().boxes
    masks = random_data.ellipses(boxes[0].cpu(), setup.size).to(setup.device, torch.uint8)
    matched = torch.arange(len(masks), device=setup.device)
    labels = torch.ones_like(matched)

    def work() -> None:
        head.train()
        rois = make()
        with autocast(setup.device, setup.config.schedule.precision):
            losses = head.losses(head(rois), rois, MaskTargets(labels, [masks], [matched], boxes))
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        head.zero_grad(set_to_none=True)
        for level in rois.pyramid.values():
            level.grad = None

    return work


class RecordingRoIs(RoIs):
    """RoIs that record in ``reads`` which features a head reads."""

    def __init__(self, maps: Mapping[int, Tensor], boxes: list[Tensor], reads: list[str]) -> None:
        super().__init__(maps, boxes)
        self.reads = reads

    def over(self, maps: Mapping[int, Tensor]) -> RoIs:
        return RecordingRoIs(maps, self.boxes, self.reads)

    def align(self, size: int, level: int | None = None) -> Tensor:
        self.reads.append(f"{size}×{size} of {'the fitting level' if level is None else f'P{level}'}")
        return super().align(size, level)

    def sample(self, points: Tensor, level: int) -> Tensor:
        self.reads.append(f"points of P{level}")
        return super().sample(points, level)


def properties(setup: Setup, head: MaskHead) -> dict[str, float | str]:
    """The features that a head reads, the size of its masks, its parameters and FLOPs."""
    make, reads = _rois(setup), list[str]()
    rois = RecordingRoIs(make().pyramid, make().boxes, reads)
    head.eval()
    with torch.inference_mode():
        masks = head.predict(rois, torch.ones(len(rois), dtype=torch.int64, device=setup.device)).probabilities
    return {
        "reads": ", ".join(dict.fromkeys(reads)),
        "output": f"{masks.shape[-2]}×{masks.shape[-1]}",
        "parameters": sum(p.numel() for p in head.parameters()),
        "mflop_per_roi": timing.head_flops(head, make) / 1e6,
    }

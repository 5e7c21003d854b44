"""Every mask head of ``conf/head`` on the study's pyramid, with random weights, random RoIs and random masks."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup, load
from experiments.config import cli, control
from instseg import seeds, timing
from instseg.detector.mask_head import MaskHead, MaskTargets
from instseg.detector.rois import RoIs
from instseg.device import autocast

TRAINING = ", training"


def measure(setup: Setup) -> BenchmarkResult:
    """Two rows a head: predicting masks, and training (forward, loss, backward down to the pyramid)."""
    heads: dict[str, MaskHead] = {}
    papers: dict[str, str] = {}
    for name in names():
        config = control.resolved(load(setup.options.study, f"head={name}"), num_classes=lambda: setup.classes)
        papers[name] = config.head.paper
        with seeds.stream(setup.config.seed, "mask head"):
            head = config.make_head(setup.classes)
        heads[name] = head.to(setup.device).to(memory_format=torch.channels_last)
        if setup.compiles:
            head.compile()
    base = setup.config.head.variant
    heads = {base: heads[base], **heads}
    work: dict[str, Callable[[], Any]] = {}
    for name, head in heads.items():
        work[name] = _predicting(setup, head)
        work[name + TRAINING] = _training(setup, head)
    seconds = timing.alternating(work, rounds=setup.options.rounds, device=setup.device, budget=math.inf)
    rows = []
    for name, head in heads.items():
        numbers = _numbers(setup, head) | {"paper": papers[name]}
        for end in ("", TRAINING):
            rows.append(Row(name + end, seconds[name + end], setup.options.rois, base + end, numbers))
    rows.sort(key=lambda row: row.name.endswith(TRAINING))
    measured = {
        "rois": setup.options.rois,
        "channels": setup.config.trunk.out_channels,
        "classes": setup.classes,
        "height": setup.size[0],
        "width": setup.size[1],
        "precision": setup.config.schedule.precision,
        "compiled": "yes" if setup.compiles else "no",
    }
    return BenchmarkResult(rows, "rois", measured, [f"ms: for {setup.options.rois} RoIs"])


def names() -> list[str]:
    """Every configuration of a head."""
    return sorted(path.stem for path in Path(cli.CONF, "head").glob("*.yaml"))


def _rois(setup: Setup, learn: bool = False) -> Callable[[], RoIs]:
    make = timing.random_rois(setup.config.trunk.out_channels, setup.size, setup.options.rois, setup.device)
    for level in make().pyramid.values():
        level.requires_grad_(learn)
    return make


def _predicting(setup: Setup, head: MaskHead) -> Callable[[], Any]:
    make, labels = _rois(setup), torch.ones(setup.options.rois, dtype=torch.int64, device=setup.device)

    def work() -> None:
        head.eval()
        with torch.inference_mode(), autocast(setup.device, setup.config.schedule.precision):
            head.predict(make(), labels)

    return work


def _training(setup: Setup, head: MaskHead) -> Callable[[], Any]:
    make = _rois(setup, learn=True)
    boxes = make().boxes
    # each RoI's mask is a disc in its box's middle
    rows, columns = (torch.arange(n, device=setup.device) for n in setup.size)
    middle = (boxes[0][:, :2] + boxes[0][:, 2:]) / 2
    radius = (boxes[0][:, 2:] - boxes[0][:, :2]).min(dim=1).values / 2
    x, y = (columns[None] - middle[:, :1]) ** 2, (rows[None] - middle[:, 1:]) ** 2
    discs = (x[:, None] + y[:, :, None] < radius[:, None, None] ** 2).to(torch.uint8)
    labels = torch.ones(len(discs), dtype=torch.int64, device=setup.device)
    matched = [torch.arange(len(discs), device=setup.device)]

    def work() -> None:
        head.train()
        rois = make()
        with autocast(setup.device, setup.config.schedule.precision):
            losses = head.losses(head(rois), rois, MaskTargets(labels, [discs], matched, boxes))
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        head.zero_grad(set_to_none=True)
        for level in rois.pyramid.values():
            level.grad = None

    return work


class RecordingRoIs(RoIs):
    """RoIs that note what they were asked for."""

    def __init__(self, maps: Mapping[int, Tensor], boxes: list[Tensor], asked: list[str]) -> None:
        super().__init__(maps, boxes)
        self.asked = asked

    def over(self, maps: Mapping[int, Tensor]) -> RoIs:
        return RecordingRoIs(maps, self.boxes, self.asked)

    def align(self, size: int, level: int | None = None) -> Tensor:
        self.asked.append(f"{size}×{size} of {'the fitting level' if level is None else f'P{level}'}")
        return super().align(size, level)

    def sample(self, points: Tensor, level: int) -> Tensor:
        self.asked.append(f"points of P{level}")
        return super().sample(points, level)


def _numbers(setup: Setup, head: MaskHead) -> dict[str, float | str]:
    make = _rois(setup)
    made = make()
    rois = RecordingRoIs(made.pyramid, made.boxes, [])
    head.eval()
    with torch.inference_mode():
        masks = head.predict(rois, torch.ones(len(rois), dtype=torch.int64, device=setup.device)).probabilities
    return {
        "reads": ", ".join(dict.fromkeys(rois.asked)),
        "output": f"{masks.shape[-2]}×{masks.shape[-1]}",
        "parameters": sum(p.numel() for p in head.parameters()),
        "mflop_per_roi": timing.head_flops(head, make) / 1e6,
    }

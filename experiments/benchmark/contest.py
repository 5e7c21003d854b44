"""Detectors that take turns: times, stages, memory and FLOPs of train and inference."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from experiments.benchmark import reference_models
from experiments.benchmark.outcome import SHARE, BenchmarkResult, Row
from experiments.benchmark.plot import rates_and_stages
from experiments.benchmark.setup import Setup
from instseg import progress, timing
from instseg.detector import MaskRCNN

OURS = "ours"
TRUNK = "trunk alone"


@dataclass
class Entry:
    """What takes part.

    Attributes:
        call: one step, or one batch of images.
        keeps: gives what it holds between calls, whose bytes belong to its memory.
        drop: lets go of what the next call makes anew, such as gradients.
        stages: names the stages for the profiler while it is entered; None: it has none.
        detections: of an image, mean; None where it makes none.
    """

    call: Callable[[], Any]
    keeps: Callable[[], list[Any]]
    drop: Callable[[], None] = lambda: None
    stages: Callable[[], AbstractContextManager[Any]] | None = nullcontext
    detections: float | None = None
    numbers: dict[str, float] = field(default_factory=dict)


def found_peers(setup: Setup, ours: MaskRCNN) -> tuple[dict[str, reference_models.Peer], list[Row]]:
    """The peers that can run here, and a row for each that can't; prints those, one line each. Ours is compiled once
    they have their copies of it."""
    found, absent = {}, []
    for name in setup.options.against:
        try:
            found[name] = reference_models.PEERS[name](ours, setup.config, setup.classes, setup.images)
            found[name].model.to(setup.device)
        except reference_models.NotRun as reason:
            absent.append(Row(name, note=f"not run: {reason}"))
            progress.say(f"{name}: {reason}")
    if setup.compiles:
        ours.compile_layers()
    return found, absent


def trunk_input(setup: Setup) -> torch.Tensor:
    """(B, 3, H, W) as the trunk gets it: padded to whole cells of 32 pixels."""
    height, width = (-(-side // 32) * 32 for side in setup.size)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(len(setup.batch[0]), 3, height, width, generator=generator)
    return batch.to(setup.device, memory_format=torch.channels_last)


def time_entries(setup: Setup, entries: Mapping[str, Entry], absent: list[Row]) -> BenchmarkResult:
    """Time all entries in turns, then look at each alone."""
    device, images = setup.device, len(setup.batch[0])
    for entry in entries.values():
        # compilers and choosers of kernels are done before the clock runs
        for _ in range(3 if setup.compiles or device.type == "cuda" else 1):
            entry.call()
    seconds = timing.alternating(
        {name: entry.call for name, entry in entries.items()},
        rounds=setup.options.rounds,
        device=device,
        budget=math.inf,
    )
    for entry in entries.values():
        entry.drop()
    rows = []
    for name, entry in progress.bar(iterable=entries.items(), desc="memory, FLOPs, stages", unit="row"):
        row = Row(name, seconds[name], images, OURS, dict(entry.numbers))
        peak = timing.peak_memory(entry.call, device, timing.bytes_of(entry.keeps()))
        row.numbers["peak_memory_mib"] = peak / 2**20
        row.numbers["gflop_per_image"] = timing.flops(entry.call) / images / 1e9
        if entry.detections is not None:
            row.numbers["detections_per_image"] = entry.detections
            if entry.detections != entries[OURS].detections:
                row.base, row.note = None, "not compared: other number of detections"
        if entry.stages is not None:
            with entry.stages():
                shares = timing.stages(entry.call, device)
            row.numbers |= {f"{SHARE}{stage}": share for stage, share in shares.items()}
        entry.drop()
        rows.append(row)
    config = setup.config
    measured = {
        "images": images,
        "height": setup.size[0],
        "width": setup.size[1],
        "instances": setup.options.instances,
        "classes": setup.classes,
        "trunk": config.trunk.name,
        "head": config.head.variant,
        "precision": config.schedule.precision,
        "compiled": "yes" if setup.compiles else "no",
    }
    return BenchmarkResult(rows + absent, "images", measured, plot=rates_and_stages)


def parameters_of(model: nn.Module) -> list[Any]:
    """Weights and buffers, whose bytes a model holds."""
    return [model.state_dict()]

"""Detectors measured in alternating rounds: times, stages, memory and FLOPs of train and inference."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

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
    """A detector, or a part of it, that is measured.

    Attributes:
        call: a training step, or inference on a batch.
        keeps: returns the tensors that it holds between calls; their bytes count as its memory.
        drop: frees what the next call makes again, such as gradients.
        stages: a context that names the stages for the profiler; None: there are no stages.
        detections: mean number per image; None where it makes no detections.
    """

    call: Callable[[], Any]
    keeps: Callable[[], list[Any]]
    drop: Callable[[], None] = lambda: None
    stages: Callable[[], AbstractContextManager[Any]] | None = nullcontext
    detections: float | None = None


def make_peers(setup: Setup, ours: MaskRCNN) -> tuple[dict[str, reference_models.Peer], list[Row]]:
    """The peers that can run here, and a row for each that can't, which is also printed. Our model is compiled after
    they have copied its weights."""
    peers, absent = {}, []
    for name in setup.options.against:
        try:
            peers[name] = reference_models.PEERS[name](ours, setup.config, setup.classes, setup.images)
            peers[name].model.to(setup.device)
        except reference_models.NotRun as reason:
            absent.append(Row(name, note=f"not run: {reason}"))
            progress.say(f"{name}: {reason}")
    if setup.compiles:
        ours.compile_layers()
    return peers, absent


def trunk_input(setup: Setup) -> torch.Tensor:
    """(B, 3, H, W): a random batch as the trunk gets it, padded to multiples of 32 pixels."""
    height, width = (-(-side // 32) * 32 for side in setup.size)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(len(setup.batch[0]), 3, height, width, generator=generator)
    return batch.to(setup.device, memory_format=torch.channels_last)


def time_entries(setup: Setup, entries: Mapping[str, Entry], absent: list[Row]) -> BenchmarkResult:
    """Time all entries in alternating rounds, then measure memory, FLOPs and stages of each by itself."""
    device, images = setup.device, len(setup.batch[0])
    for entry in entries.values():
        # compilation and the choice of kernels end before the clock starts
        for _ in range(3 if setup.compiles or device.type == "cuda" else 1):
            entry.call()
    seconds = setup.time({name: entry.call for name, entry in entries.items()})
    for entry in entries.values():
        entry.drop()
    rows = []
    for name, entry in progress.bar(iterable=entries.items(), desc="memory, FLOPs, stages", unit="row"):
        row = Row(name, seconds[name], images, OURS)
        row.numbers["peak_memory_mib"] = setup.peak_mib(entry.call, timing.bytes_of(entry.keeps()))
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
        **setup.about_size,
        "instances": setup.options.instances,
        "classes": setup.classes,
        "trunk": config.trunk.name,
        "head": config.head.variant,
        **setup.about_execution,
    }
    return BenchmarkResult(rows + absent, "images", measured, plot=rates_and_stages)

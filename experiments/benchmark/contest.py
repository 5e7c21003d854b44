"""Detectors measured in alternating rounds: times, stages, memory and FLOPs of train and inference, and a plot."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from experiments.benchmark import reference_models
from experiments.benchmark.outcome import SHARE, STAGES, BenchmarkResult, Row, figure, stages
from experiments.benchmark.setup import Setup
from experiments.render.table import wrap
from instseg import progress, timing
from instseg.detector import MaskRCNN

OURS = "ours"
TRUNK = "trunk alone"


@dataclass
class Entry:
    """A detector, or a part of it, that is measured."""

    call: Callable[[], Any]
    """A training step, or inference on a batch."""
    holders: Sequence[torch.nn.Module | torch.optim.Optimizer]
    """What holds tensors between calls; their bytes count as its memory."""
    stages: Callable[[], AbstractContextManager[Any]] | None = nullcontext
    """A context that names the stages for the profiler; None: there are no stages."""
    detections: float | None = None
    """Mean number per image; None where it makes no detections."""


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
    images = len(setup.batch[0])
    seconds = setup.time({name: entry.call for name, entry in entries.items()})
    rows = []
    for name, entry in progress.bar(iterable=entries.items(), desc="memory, FLOPs, stages", unit="row"):
        row = Row(name, seconds[name], images, OURS)
        held = timing.bytes_of([holder.state_dict() for holder in entry.holders])
        row.numbers["peak_memory_mib"] = setup.peak_mib(entry.call, held)
        row.numbers["gflop_per_image"] = timing.flops(entry.call) / images / 1e9
        if entry.detections is not None:
            row.numbers["detections_per_image"] = entry.detections
            if entry.detections != entries[OURS].detections:
                row.base, row.note = None, "not compared: other number of detections"
        if entry.stages is not None:
            with entry.stages():
                shares = timing.stages(entry.call, setup.device)
            row.numbers |= {f"{SHARE}{stage}": share for stage, share in shares.items()}
        rows.append(row)
    measured = {
        "images": images,
        **setup.about_size,
        "instances": setup.options.instances,
        "classes": setup.classes,
        "trunk": setup.config.trunk.name,
        "head": setup.config.head.variant,
        **setup.about_execution,
    }
    return BenchmarkResult(rows + absent, "images", measured, plot=rates_and_stages)


def rates_and_stages(table: pd.DataFrame, caption: str) -> Figure:
    """Images per second of each implementation, with quartiles, and the milliseconds per image of each stage."""
    timed = table.dropna(subset=["seconds_median"]).iloc[::-1].reset_index(drop=True)
    plot = Figure(figsize=(12, 1.9 + 0.55 * len(timed)), layout="constrained")
    plot.suptitle(caption, fontsize=9, color="#555555")
    rates, times = plot.subplots(1, 2, sharey=True)
    names = [wrap(name, 24) for name in timed["name"]]
    median, low, high = (timed[f"images_per_s_{part}"] for part in ("median", "low", "high"))
    columns = {stage: f"{SHARE}{stage}" for stage in stages(timed)}
    has_stages = timed[list(columns.values())].notna().any(axis=1)
    colours = ["#0072B2" if detector else "#999999" for detector in has_stages]
    errors = [(median - low).clip(lower=0), (high - median).clip(lower=0)]
    rates.barh(names, median, xerr=errors, color=colours, height=0.6, error_kw={"elinewidth": 1, "capsize": 2.5})
    for position, value in enumerate(median):
        place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        rates.annotate(figure(value), (high[position], position), fontsize=9, **place)
    rates.margins(x=0.12)
    rates.set(xlabel="images per second", title="Rate: median and quartiles")
    rates.grid(axis="y", visible=False)
    left = pd.Series(0.0, index=timed.index)
    milliseconds = 1000 / median
    for stage, column in columns.items():
        width = (milliseconds * timed[column]).fillna(0)
        times.barh(names, width, left=left, height=0.6, color=STAGES.get(stage, "#8c564b"), label=stage)
        left = left + width
    times.barh(names, milliseconds.where(~has_stages, 0), height=0.6, color=STAGES["trunk"])
    times.set(xlabel="milliseconds per image", title="Where the time goes")
    times.grid(axis="y", visible=False)
    plot.legend(*times.get_legend_handles_labels(), loc="outside lower center", ncols=len(columns))
    return plot

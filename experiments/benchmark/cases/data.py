"""Training samples a second: reading and augmentation on one core, and loader processes."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from experiments.runs.end_to_end import training_batches
from instseg.data import InstanceDataset

PREFETCH = 2
"""Batches that each loader process may have ready."""
BATCHES = 4
"""Batches per loader process in a measurement."""
ALONE = "reading + transform, one core"
CPU = torch.device("cpu")


def measure(setup: Setup) -> BenchmarkResult:
    """Rows for reading and for the transform of a batch on one core, for both, and for the loader's processes.

    Each call reads the next images, so that the same few files are not read again and again.
    """
    config = setup.config
    data = config.make_dataset("train")
    size = config.schedule.batch_size
    workers = setup.options.workers or config.runtime.workers or os.cpu_count() or 1
    indices = itertools.cycle(data.trainable_indices())
    transform = config.make_transform()
    samples = [data[next(indices)] for _ in range(size)]
    copy_paste_sources = itertools.cycle(samples)

    def read() -> None:
        for _ in range(size):
            data[next(indices)]

    def augment() -> None:
        for sample in samples:
            transform(sample, lambda: next(copy_paste_sources))

    def both() -> None:
        for _ in range(size):
            transform(data[next(indices)], lambda: data[next(indices)])

    work: dict[str, Callable[[], Any]] = {ALONE: both, "reading, one core": read, "transform, one core": augment}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = setup.time(work, CPU)
    torch.set_num_threads(threads)
    rows = [Row(name, seconds[name], size, ALONE) for name in work]
    rows.append(Row(f"loader, {workers} processes", _time_loader(setup, data, workers), size, ALONE))
    measured = {
        "dataset": config.dataset.name,
        "augmentation": " ".join(f"{key}={value}" for key, value in vars(config.augmentation).items()),
        "batch": size,
        "workers": workers,
        "cores": os.cpu_count(),
        "train_min_size": " ".join(map(str, config.dataset.train_min_size)),
        "train_max_size": config.dataset.train_max_size,
    }
    return BenchmarkResult(rows, "samples", measured, [f"ms: for {size} samples"])


def _time_loader(setup: Setup, data: InstanceDataset, workers: int) -> list[float]:
    """Seconds per batch in each round, after the batches that the processes prepared in advance are used up."""
    config = replace(setup.config, runtime=replace(setup.config.runtime, workers=workers))
    count = BATCHES * workers
    batches = training_batches(config, data, 0, PREFETCH * workers + setup.options.rounds * count, CPU)
    for _ in range(PREFETCH * workers):
        next(batches)
    seconds = []
    for _ in range(setup.options.rounds):
        began = time.perf_counter()
        for _ in range(count):
            next(batches)
        seconds.append((time.perf_counter() - began) / count)
    return seconds

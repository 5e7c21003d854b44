"""How many training samples a second the study's data gives: reading, augmentation, and loader processes."""

import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from experiments.runs.end_to_end import training_batches
from instseg import timing
from instseg.data import InstanceDataset
from instseg.data.batches import transforms

PREFETCH = 2
"""Batches that each loader process may have ready."""
BATCHES = 4
"""Batches that a measurement of the loader takes, for each of its processes."""
ALONE = "reading + transform, one core"
CPU = torch.device("cpu")


def measure(setup: Setup) -> BenchmarkResult:
    """Rows for reading and for the transform of a batch on one core, for both, and for the loader's processes.

    Each call reads the next images, so that not the same few files are read again and again.
    """
    config, d = setup.config, setup.config.dataset
    data = config.make_dataset("train")
    size = config.schedule.batch_size
    workers = setup.options.workers or config.runtime.workers or os.cpu_count() or 1
    turn = itertools.cycle(data.trainable_indices())
    transform = config.make_transform()
    samples = [data[next(turn)] for _ in range(size)]
    others = itertools.cycle(samples)

    def read() -> None:
        for _ in range(size):
            data[next(turn)]

    def augment() -> None:
        for sample in samples:
            transforms.apply(transform, sample, lambda: next(others))

    def both() -> None:
        for _ in range(size):
            transforms.apply(transform, data[next(turn)], lambda: data[next(turn)])

    work: dict[str, Callable[[], Any]] = {ALONE: both, "reading, one core": read, "transform, one core": augment}
    # one process, and one core in it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = timing.alternating(work, rounds=setup.options.rounds, device=CPU, budget=math.inf)
    torch.set_num_threads(threads)
    rows = [Row(name, seconds[name], size, ALONE) for name in work]
    rows.append(Row(f"loader, {workers} processes", _loader(setup, data, workers), size, ALONE))
    measured = {
        "dataset": config.dataset.name,
        "augmentation": " ".join(f"{key}={value}" for key, value in vars(config.augmentation).items()),
        "batch": size,
        "workers": workers,
        "cores": os.cpu_count(),
        "train_min_size": " ".join(map(str, d.train_min_size)),
        "train_max_size": d.train_max_size,
    }
    return BenchmarkResult(rows, "samples", measured, [f"ms: for {size} samples"])


def _loader(setup: Setup, data: InstanceDataset, workers: int) -> list[float]:
    """Seconds a batch, one number a round, once the processes run at their pace."""
    config = replace(setup.config, runtime=replace(setup.config.runtime, workers=workers))
    each = BATCHES * workers
    batches = training_batches(config, data, 0, PREFETCH * workers + setup.options.rounds * each, CPU)
    for _ in range(PREFETCH * workers):
        next(batches)
    seconds = []
    for _ in range(setup.options.rounds):
        began = time.perf_counter()
        for _ in range(each):
            next(batches)
        seconds.append((time.perf_counter() - began) / each)
    return seconds

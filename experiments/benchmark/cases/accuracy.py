"""A short training in plain float32 and on the fast path, two seeds each: whether both learn alike."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np

from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from experiments.config.run import Config
from experiments.runs.end_to_end import run

SEEDS = (0, 1)
WINDOWS = 4
PLAIN, FAST = "plain", "fast"


def measure(setup: Setup) -> BenchmarkResult:
    """A row for each number: the mean loss in each quarter of the training, the mean of each loss, and AP at the end.

    The plain path is not compiled and has no TF32; the fast one has the ``precision`` of the command line, bfloat16 by
    default, and is compiled where runs are. Weights and logs of the runs are deleted.
    """
    precision = setup.options.precision or "bfloat16"
    settings = {PLAIN: ("float32", "false"), FAST: (precision, setup.config.runtime.compile)}
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            path: [_numbers(run(_config(setup, Path(folder, path), seed, *setting))) for seed in SEEDS]
            for path, setting in settings.items()
        }
    rows = [compare_seeds(name, runs) for name in runs[PLAIN][0]]
    within = sum(row.numbers["within"] == "yes" for row in rows)
    note = (
        f"{within} of {len(rows)} differences between the means of the two paths are no larger than the larger of the "
        "two paths' differences between seeds."
    )
    measured = {
        "iterations": setup.options.iterations,
        "seeds": " ".join(map(str, SEEDS)),
        "batch": setup.config.schedule.batch_size,
        "trunk": setup.config.trunk.name,
        "head": setup.config.head.variant,
        "plain": "float32",
        "fast": f"{precision}{', compiled' if setup.compiles else ''}",
    }
    return BenchmarkResult(rows, "runs", measured, [note])


def _config(setup: Setup, folder: Path, seed: int, precision: str, compiled: str) -> Config:
    iterations = setup.options.iterations
    schedule = setup.config.make_schedule()
    return replace(
        setup.config,
        seed=seed,
        results_dir=str(folder),
        schedule=replace(schedule, iterations=iterations, precision=precision, reference_batch=None),
        runtime=replace(
            setup.config.runtime,
            compile=compiled,
            log_every=-(-iterations // WINDOWS),
            checkpoint_every=iterations,
            evaluate_every=0,
        ),
    )


def _numbers(folder: Path) -> dict[str, float]:
    """Name -> number of a run, from its log and its result."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ends = [line["iteration"] for line in lines]
    begins = [0, *ends[:-1]]
    lengths = np.subtract(ends, begins)
    numbers = {
        f"loss, iterations {begin + 1} to {end}": line["loss"]
        for begin, end, line in zip(begins, ends, lines, strict=True)
    }
    for name in lines[0]:
        if name.startswith("loss_"):
            numbers[f"{name}, all iterations"] = float(np.average([line[name] for line in lines], weights=lengths))
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    return numbers | {f"{kind} AP": metrics[kind]["AP"] for kind in ("box", "mask")}


def compare_seeds(name: str, runs: dict[str, list[dict[str, float]]]) -> Row:
    """The difference of a number between the two paths, and the larger of the two paths' differences between seeds;
    ``runs`` has the numbers of each path's run of each seed."""
    values = {path: [numbers[name] for numbers in seeds] for path, seeds in runs.items()}
    difference = mean(values[FAST]) - mean(values[PLAIN])
    spread = max(max(seeds) - min(seeds) for seeds in values.values())
    numbers: dict[str, float | str] = {
        f"{path}_seed_{seed}": value for path, seeds in values.items() for seed, value in zip(SEEDS, seeds, strict=True)
    }
    numbers |= {"difference": difference, "seed_spread": spread, "within": "yes" if abs(difference) <= spread else "no"}
    return Row(name, numbers=numbers)

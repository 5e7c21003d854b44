"""Whether the fast path learns as plain float32 does: short trainings of both, two seeds each, side by side."""

import json
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from experiments.config.run import Config
from experiments.runs.end_to_end import run

SEEDS = (0, 1)
WINDOWS = 4
PLAIN, FAST = "plain", "fast"


def measure(setup: Setup) -> BenchmarkResult:
    """A row a number: the mean loss of each stretch of the training, each loss's mean, and AP at its end.

    The plain path is not compiled and has no TF32; the fast one has the ``precision`` that is asked for, bfloat16
    where none is, and is compiled where runs are. Weights and logs of the runs are thrown away.
    """
    precision = setup.options.precision or "bfloat16"
    ways = {PLAIN: ("float32", "false"), FAST: (precision, setup.config.runtime.compile)}
    measured: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path, way in ways.items():
            measured[path] = [_numbers(run(_config(setup, Path(folder, path), seed, *way))) for seed in SEEDS]
    rows = [_row(name, measured) for name in measured[PLAIN][0]]
    within = sum(row.numbers["within"] == "yes" for row in rows)
    notes = [
        f"{within} of {len(rows)} differences between the means of the two paths are no larger than the larger of the "
        "two paths' differences between seeds.",
    ]
    about = {
        "iterations": setup.options.iterations,
        "seeds": " ".join(map(str, SEEDS)),
        "batch": setup.config.schedule.batch_size,
        "trunk": setup.config.trunk.name,
        "head": setup.config.head.variant,
        "plain": "float32",
        "fast": f"{precision}{', compiled' if setup.compiles else ''}",
    }
    return BenchmarkResult(rows, "runs", about, notes)


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
    """Name -> number of one run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = {}
    begins = [0, *(line["iteration"] for line in lines)]
    lengths = [end - begin for begin, end in pairwise(begins)]
    for begin, line in zip(begins[:-1], lines, strict=True):
        numbers[f"loss, iterations {begin + 1} to {line['iteration']}"] = line["loss"]
    for name in lines[0]:
        if name.startswith("loss_"):
            total = sum(line[name] * length for line, length in zip(lines, lengths, strict=True))
            numbers[f"{name}, all iterations"] = total / begins[-1]
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    return numbers | {f"{kind} AP": metrics[kind]["AP"] for kind in ("box", "mask")}


def _row(name: str, measured: dict[str, list[dict[str, float]]]) -> Row:
    values = {path: [numbers[name] for numbers in runs] for path, runs in measured.items()}
    difference = mean(values[FAST]) - mean(values[PLAIN])
    spread = max(max(seeds) - min(seeds) for seeds in values.values())
    numbers: dict[str, float | str] = {
        f"{path}_seed_{seed}": value for path, of in values.items() for seed, value in zip(SEEDS, of, strict=True)
    }
    numbers |= {"difference": difference, "seed_spread": spread, "within": "yes" if abs(difference) <= spread else "no"}
    return Row(name, numbers=numbers)

"""Run the apps as a person does, in a process of their own, on the smallest settings."""

import os
import subprocess
import sys
from pathlib import Path

TINY = (
    "dataset.max_train_images=6",
    "dataset.max_val_images=3",
    "dataset.options.size=[64,64]",
    "dataset.train_min_size=[64]",
    "dataset.min_size=64",
    "trunk.out_channels=8",
    "schedule.iterations=6",
    "schedule.batch_size=2",
    "runtime.checkpoint_every=2",
    "runtime.log_every=1",
    "runtime.evaluate_every=3",
    "evaluation.resamples=20",
    "seed=0",
    "runtime.jobs=1",
)


def command(app: str, *overrides: object) -> list[str]:
    return [sys.executable, "-m", f"experiments.{app}", *map(str, overrides)]


def run(app: str, *overrides: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(app, *overrides), capture_output=True, text=True, timeout=300, env={**os.environ, **(env or {})}
    )


def only_error(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one line that a failed app left on stderr."""
    assert done.returncode == code, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr[-2000:]
    return lines[0]


def folders(results: Path, study: str = "quick") -> list[Path]:
    return sorted((results / study / "runs").iterdir())

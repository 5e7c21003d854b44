"""``plan.json`` in a study's folder: what was to be run, by what it is judged, and what it promised to tell."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.runs.study import MAIN, load_json
from instseg.errors import UserError
from instseg.files import write_atomically

FILE = "plan.json"
METRIC = f"{MAIN} AP"
"""The primary metric of every study."""
RunName = tuple[str, int, int]
"""Variant's label, fold and seed."""


@dataclass(frozen=True)
class Promise:
    """A planned comparison: ``detectable`` is the smallest true difference, in AP points, that gets a verdict of better
    or worse with the plan's power (None: there is none); ``spreads`` are what that rests on, by name."""

    variant: str
    rival: str
    detectable: float | None
    spreads: dict[str, float]


@dataclass(frozen=True)
class FrozenPlan:
    """What ``plan.json`` holds.

    Attributes:
        date: when it was frozen, ISO 8601.
        commit: of the code; None: no checkout.
        metric, margin, baseline: what the study is judged by.
        contrasts: pairs of variant and rival, as the study names them; empty: all variants against the baseline.
        detect, power: a true difference in AP points that was to be told, and the probability.
        runs: what was to be run: seeds, by fold, by variant.
        settings: what all runs have in common, by key.
        promises: of each planned comparison.
    """

    date: str
    commit: str | None
    metric: str
    margin: float
    baseline: str
    contrasts: list[tuple[str, str]]
    detect: float
    power: float
    runs: dict[str, dict[str, list[int]]]
    settings: dict[str, Any]
    promises: list[Promise]

    def run_names(self) -> set[RunName]:
        """All that was to be run."""
        return {
            (variant, int(fold), seed)
            for variant, folds in self.runs.items()
            for fold, seeds in folds.items()
            for seed in seeds
        }

    def hash(self) -> str:
        """Eight hex digits over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]

    def is_same(self, other: "FrozenPlan") -> bool:
        """Whether another one plans the same; when, by which code and on which pilot does not matter."""
        return replace(other, date=self.date, commit=self.commit, promises=self.promises) == self

    def write(self, folder: Path) -> Path:
        """Write it into the study's folder."""
        content = {"hash": self.hash(), **asdict(self)}
        return write_atomically(folder / FILE, json.dumps(content, indent=1) + "\n")


def read_plan(folder: Path) -> FrozenPlan | None:
    """The plan of a study, or None where none was frozen; a ``UserError`` says how the file is damaged, or that it was
    changed since."""
    path = folder / FILE
    if not path.is_file():
        return None
    remedy = "put the frozen one back, or delete it"
    content = load_json(path, remedy)
    try:
        written = content.pop("hash")
        content["contrasts"] = [(str(variant), str(rival)) for variant, rival in content["contrasts"]]
        content["promises"] = [Promise(**promise) for promise in content["promises"]]
        plan = FrozenPlan(**content)
        datetime.fromisoformat(plan.date)
        changed = plan.hash() != written
        plan.run_names()
    except KeyError as error:
        raise UserError(f"{path} is damaged (it has no {error}): {remedy}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    if changed:
        raise UserError(f"{path} was changed after it was frozen, as its hash shows: {remedy}")
    return plan

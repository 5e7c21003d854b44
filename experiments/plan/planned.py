"""The runs of a study before they are carried out, and the comparisons that they are for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from experiments.config import control
from experiments.config.groups import Contrast
from experiments.config.run import Config
from experiments.report.contrasts import Pair, with_runs
from experiments.runs.study import Study, label
from experiments.runs.study_files import StudyFiles
from instseg.errors import UserError


@dataclass(frozen=True)
class Planned:
    """A study as the command line composes it.

    Attributes:
        configs: a run each.
        study: the runs as a report would find them, but for all that only a finished run has.
        pairs: the variants and rivals whose differences are judged together.
        notes: one line for each thing that a reader of the plan should know.
    """

    configs: Sequence[Config]
    study: Study
    pairs: list[Pair]
    notes: list[str]

    @property
    def first(self) -> Config:
        """What all runs have in common can be read from it."""
        return self.configs[0]

    @property
    def folds(self) -> int:
        """Their number."""
        return self.study.runs["fold"].nunique()

    @property
    def seeds(self) -> int:
        """Their number, in each fold."""
        return self.study.runs["seed"].nunique()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Those that all runs have in common, by key."""
        first, *others = ({**row["settings"], "iterations": row["iterations"]} for row in self.study.counted_rows())
        return {key: value for key, value in first.items() if all(each.get(key) == value for each in others)}

    def runs(self) -> dict[str, dict[str, list[int]]]:
        """The seeds of each fold of each variant."""
        runs: dict[str, dict[str, list[int]]] = {}
        for row in self.study.runs.sort_values(["variant", "fold", "seed"]).to_dict("records"):
            runs.setdefault(row["variant"], {}).setdefault(str(row["fold"]), []).append(int(row["seed"]))
        return runs


def planned(configs: Sequence[Config]) -> Planned:
    """The runs of checked configurations, and the comparisons: those that the study names, else all variants against
    the baseline. A UserError where there is nothing to compare."""
    rows = [_row(config) for config in configs]
    label(rows)
    first = configs[0]
    folder = first.study_folder()
    study = Study(folder, pd.DataFrame(rows), [], StudyFiles(folder))
    notes = []
    pairs: list[Pair] = []
    for contrast in first.study.contrasts:
        found, _ = with_runs(study, [contrast])
        pairs += found
        if not found:
            notes.append(f"{_named(contrast)} is left out: the planned runs don't have both, in one recipe")
    if not pairs:
        rivals = {name: study.rival_of(name, first.study.baseline) for name in study.variants}
        pairs = [(name, rival) for name, rival in rivals.items() if rival not in (None, name)]
    if not pairs:
        raise UserError(
            f"study {first.study.name} plans nothing to compare with its baseline {first.study.baseline}; its "
            f"variants: {', '.join(study.variants)}"
        )
    return Planned(configs, study, pairs, notes)


def _named(contrast: Contrast) -> str:
    return f"contrast {contrast.variant} against {contrast.rival}"


def _row(config: Config) -> dict[str, Any]:
    """What is known of a run beforehand, as :func:`experiments.runs.study.labelled` has it of a finished one."""
    head, by = config.head, control.kind(config)
    return {
        # controls are found when they are run, but have their names already
        "name": head.variant if by == "none" else f"fcn_{by}_of_{head.variant}",
        "head": head.name if by == "none" else "fcn",
        "options": {**head.common(), **head.options},
        # as a result holds them
        "settings": json.loads(json.dumps(config.settings())),
        "trunk": config.trunk.name,
        "dataset": config.dataset.name,
        "protocol": config.protocol,
        "iterations": config.make_schedule().iterations,
        "fold": config.dataset.fold,
        "seed": config.seed,
        "counted": True,
    }

"""``experiments.plan``: compose the study, look at the pilot, say what could be told, and freeze the plan."""

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from omegaconf import DictConfig

from experiments.config import apps, checks, expand
from experiments.plan.outlooks import Outlooks, outlooks
from experiments.plan.pilot import Pilot, read_pilot
from experiments.plan.planned import Planned, planned
from experiments.plan.text import text
from experiments.runs.plan_file import FILE, METRIC, FrozenPlan, Promise, read_plan
from experiments.runs.provenance import now, provenance
from instseg.errors import UserError
from instseg.statistics.power import PARTS


def job(for_runs: Sequence[str], cfg: DictConfig) -> None:
    """Plan the study that ``cfg`` and the overrides for its runs compose."""
    options = apps.take_own(cfg, apps.Plan)
    configs = expand.expand(for_runs, [key.name for key in fields(apps.Plan)])
    for config in configs:
        checks.check(config)
    study = planned(configs)
    found = outlooks(study, _pilot(study, options), options)
    print(text(found), end="")
    if options.freeze:
        print(f"\n{freeze(found)}")


def _pilot(study: Planned, options: apps.Plan) -> Pilot | None:
    """The pilot that is named, or the study's own finished runs where there are any."""
    folder = Path(study.first.results_dir) / (options.pilot or study.first.study.name)
    if options.pilot is None and not any(folder.glob("runs/*/result.json")):
        return None
    return read_pilot(folder, study)


def freeze(found: Outlooks) -> str:
    """Write ``plan.json`` into the study's folder, and say so; a plan that is there and says the same stays.

    Raises:
        UserError: another plan is there, or the study has begun.
    """
    folder, plan = found.planned.first.study_folder(), _plan(found)
    before = read_plan(folder)
    if before is not None:
        if not before.is_same(plan):
            raise UserError(f"{folder / FILE} holds another plan, of {before.date}: delete it to plan anew")
        return f"plan of {before.date} stands: {folder / FILE}"
    begun = sorted(path.parent.name for path in folder.glob("runs/*/config.yaml"))
    begun += sorted(path.parent.name for path in folder.glob("runs/*/result.json") if path.parent.name not in begun)
    if begun:
        raise UserError(
            f"{folder} has begun without a plan (it has {len(begun)} runs, the first: {begun[0]}), and a plan comes "
            f"before the first run: give study.name=ANOTHER, and pilot={folder.name} to plan by these runs"
        )
    return f"plan {plan.hash()} frozen: {plan.write(folder)}"


def _plan(found: Outlooks) -> FrozenPlan:
    study, first = found.planned, found.planned.first
    promises = [
        Promise(
            expected.variant,
            expected.rival,
            None if math.isinf(detectable) else round(detectable, 3),
            {name: round(getattr(expected.spreads, name), 3) for name in PARTS},
        )
        for expected, detectable in zip(found.expected, found.as_planned.detectable, strict=True)
    ]
    return FrozenPlan(
        date=now(),
        commit=provenance(torch.device("cpu"))["commit"],
        metric=METRIC,
        margin=found.margin,
        baseline=first.study.baseline,
        contrasts=[(contrast.variant, contrast.rival) for contrast in first.study.contrasts],
        detect=found.options.detect,
        power=found.options.power,
        runs=study.runs(),
        settings=study.settings,
        promises=promises,
    )

"""Whether a study kept the plan that was frozen before its first run, and what it promised beside what came out."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from experiments.render import table
from experiments.report.contrasts import compare
from experiments.report.section import Content, Findings, Section
from experiments.runs.plan_file import METRIC, FrozenPlan
from experiments.runs.study import MAIN, Study, natural


def make(findings: Findings) -> Content:
    """A text, where the study has a ``plan.json``."""
    plan = findings.plan
    if plan is None:
        return Content()
    found = deviations(plan, findings)
    planned = f"plan of {plan.date[:10]}"
    if found:
        verdict = "\n".join([f"{planned} not kept:", *(f"- {line}" for line in found)])
    else:
        verdict = (
            f"{planned} kept: {len(plan.run_names())} runs, judged by {plan.metric} with a margin of {plan.margin:g} AP"
        )
    return Content(text=[verdict, *_promises(plan, findings)])


def deviations(plan: FrozenPlan, findings: Findings) -> list[str]:
    """A line for each thing that is not as it was planned."""
    study = findings.study
    lines = [
        f"{what} {_shown(after)} in place of {_shown(before)}"
        for what, before, after in (
            ("metric", plan.metric, METRIC),
            ("margin", plan.margin, findings.margin),
            ("baseline", plan.baseline, findings.baseline),
        )
        if before != after
    ]
    before, after = set(plan.contrasts), {(each.variant, each.rival) for each in findings.contrasts}
    for what, pairs in (("dropped", before - after), ("added", after - before)):
        lines += [f"contrast {what}: {variant} against {rival}" for variant, rival in sorted(pairs)]
    lines += _runs(plan, study)
    for key, value in plan.settings.items():
        others = {_shown(settings[key]) for settings in _settings(study) if key in settings} - {_shown(value)}
        if others:
            lines.append(f"{key}={', '.join(sorted(others))} in place of {_shown(value)}")
    if begun := _begun_before(plan, study):
        lines.append(f"{len(begun)} run{'s' if len(begun) > 1 else ''} begun before the plan, the first: {begun[0]}")
    return lines


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(study: Study) -> list[dict[str, Any]]:
    return [{**row["settings"], "iterations": row["iterations"]} for row in study.counted_rows()]


def _runs(plan: FrozenPlan, study: Study) -> list[str]:
    """What is missing, and what came in addition: whole variants, folds and seeds by name, single runs by number."""
    planned = plan.run_names()
    found = {(str(row["variant"]), int(row["fold"]), int(row["seed"])) for row in study.counted_rows()}
    lines = []
    for what, of, other in (("missing", planned, found), ("added", found, planned)):
        left = of - other
        for place, name in enumerate(("variant", "fold", "seed")):
            whole = {run[place] for run in of} - {run[place] for run in other}
            if whole:
                lines.append(f"{name}{'s' if len(whole) > 1 else ''} {what}: {_listed(whole)}")
            left = {run for run in left if run[place] not in whole}
        if left:
            first = "{} f{} s{}".format(*min(left))
            lines.append(f"{len(left)} single run{'s' if len(left) > 1 else ''} {what}, the first: {first}")
    return lines


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, names), key=natural))


def _begun_before(plan: FrozenPlan, study: Study) -> list[str]:
    frozen, begun = datetime.fromisoformat(plan.date), []
    for row in study.counted_rows():
        if isinstance(row["finished"], str):
            seconds = 0.0 if pd.isna(row["wall_seconds"]) else row["wall_seconds"]
            if datetime.fromisoformat(row["finished"]) - timedelta(seconds=seconds) < frozen:
                begun.append(str(row["folder"]))
    return begun


def _promises(plan: FrozenPlan, findings: Findings) -> list[str]:
    pairs = [(promise.variant, promise.rival) for promise in plan.promises]
    judged = compare({MAIN: findings.predictions.scores[MAIN]}, pairs, findings.margin)[MAIN]
    rows = []
    for promise, comparison in zip(plan.promises, judged, strict=True):
        promised = table.MISSING if promise.detectable is None else table.number(promise.detectable, 1)
        rows.append(
            {
                "comparison": f"{promise.variant} against {promise.rival}",
                "promised": promised,
                "realised": table.number(comparison.detectable, 1),
                f"Δ {METRIC} [95 %]": table.difference(comparison),
            }
        )
    return [
        table.fitted(pd.DataFrame(rows)),
        f"promised: the smallest difference that the plan expected to tell with probability {plan.power:g}; realised: "
        "with\nprobability 0.8, by the error as it was measured",
    ]


SECTION = Section("plan", make, endings=())

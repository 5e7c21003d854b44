"""How hard each variant's mask losses pull at the pyramid, and what is left of its gain over an FCN that pulls as hard.

What is measured: :mod:`instseg.detector.measured_pyramid`; the control: :mod:`experiments.runs.pull_control`.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.render import table
from experiments.report.compare import Mean, StudyScores, difference_columns, unjudged_notes, verdict_columns
from experiments.report.curves import read_log
from experiments.report.section import Content, Findings, Section
from experiments.runs.pull_control import first_part
from experiments.runs.study import MAIN, Study
from instseg.detector.measured_pyramid import PULLS
from instseg.statistics.resampling import differences
from instseg.statistics.verdict import MARGIN, Comparison, judge

_MASK, _BOX = PULLS
_PERIODS = {"first": "first tenth", "all": "all"}
_HEADINGS = {_MASK: "mask", _BOX: "boxes", "ratio": "ratio"}
_DIFFERENCE = "Δ mask AP to the FCN of its pull [95 %]"
_LEGEND = (
    "pull: norm of the gradient that the mask losses, and all box losses, send into the pyramid, and the ratio of the "
    "two, over the first tenth of the iterations."
)
_NOTE = (
    "Norm of the gradient that the mask losses, and that all box losses, send into the pyramid's maps, and the ratio "
    "of the two: mean over iterations, then mean ± sample standard deviation over runs; first tenth: of the "
    "iterations. Δ mask AP: to the FCN whose mask losses pull as hard (control=pull), with corrected interval and "
    f"verdict. {table.MISSING}: nothing to measure or to compare with."
)
_FROZEN = " On a frozen core nothing is pulled: these are the gradients that would flow."


def make(findings: Findings) -> Content:
    """``pull.csv|md|tex``; nothing where no run logged its pulls."""
    study, scores = findings.study, findings.scores
    pulls = read_pulls(study)
    if not pulls:
        return Content()
    comparisons = to_controls(study, scores, findings.predictions.scores.get(MAIN, {}), findings.margin)
    numbers, text = [], []
    for label in scores.order:
        runs = pd.DataFrame(pulls.get(label, [{}]))
        comparison = comparisons[label]
        # tuned heads may have another one in each fold
        weight = float(study.counted(label)["loss_weight"].mean())
        row: dict[str, Any] = {"variant": label, "n": len(pulls.get(label, [])), "loss_weight": weight}
        cells = {"variant": label, "loss weight": f"{weight:g}"}
        for period, words in _PERIODS.items():
            for name, heading in _HEADINGS.items():
                mean = Mean.over(runs.get(f"{name}_{period}", pd.Series(dtype=float)))
                row |= mean.columns(f"{name}_{period}")
                parts = [f"{value:.3g}" for value in (mean.mean, mean.std) if not math.isnan(value)]
                cells[f"{heading}, {words}"] = " ± ".join(parts) or table.MISSING
        row |= {"pull_control": comparison.rival} | difference_columns(comparison) | verdict_columns(comparison)
        numbers.append(row)
        text.append(cells | {_DIFFERENCE: table.difference(comparison)})
    shown = pd.DataFrame(text)
    if not any(comparison.exists for comparison in comparisons.values()):
        shown = shown.drop(columns=_DIFFERENCE)
    frozen = _FROZEN if "frozen_core" in set(study.runs["protocol"]) else ""
    # the terminal has room for the first tenth alone
    narrow = shown[[column for column in shown if not str(column).endswith(_PERIODS["all"])]]
    narrow = narrow.rename(columns={_DIFFERENCE: "Δ to the FCN of its pull"})
    return Content(
        table.Table(pd.DataFrame(numbers), shown, _NOTE + frozen),
        text=[table.fitted(narrow), f"{_LEGEND}{frozen}"],
        notes=_notes(study, scores, comparisons, pulls)
        + unjudged_notes(comparisons.values(), "differences to the FCN of its pull"),
    )


def read_pulls(study: Study) -> dict[str, list[dict[str, float]]]:
    """By variant, for each of its runs that logged pulls: the means of both and their ratio over each period."""
    by_variant = defaultdict(list)
    for run in study.counted_rows():
        log = read_log(study.files.run(run["folder"]) / "metrics.jsonl")
        log = log.reindex(columns=list(PULLS)).dropna()
        if log.empty:
            continue
        # a line is the mean of the iterations since the line before
        log["count"] = log.index.to_series().diff().fillna(log.index.to_series())
        values: dict[str, float] = {}
        for period in _PERIODS:
            # the first line, at least
            last = log.index[-1] if period == "all" else max(first_part(run["iterations"]), log.index[0])
            part = log.loc[:last]
            for name in PULLS:
                values[f"{name}_{period}"] = float((part[name] * part["count"]).sum() / part["count"].sum())
            box = values[f"{_BOX}_{period}"]
            values[f"ratio_{period}"] = values[f"{_MASK}_{period}"] / box if box > 0 else math.nan
        by_variant[run["variant"]].append(values)
    return dict(by_variant)


def to_controls(
    study: Study, scores: StudyScores, runs: Mapping[str, Any], margin: float = MARGIN
) -> dict[str, Comparison]:
    """The difference of mask AP of each variant to the FCN of its pull, where the study has it, judged together."""
    rivals = {label: _control(study, label) for label in scores.order}
    return judge(differences(runs, rivals), MAIN, "AP", margin)


def is_pull_control(study: Study, label: str) -> bool:
    """Whether a variant is an FCN of another head's pull."""
    return study.counted(label)["control_of"].iloc[0].get("by") == "pull"


def _control(study: Study, label: str) -> str | None:
    """The variant that is the FCN of a variant's pull and differs in nothing but the head."""
    run = study.counted(label).iloc[0]
    for other in study.variants:
        control_of = study.counted(other)["control_of"].iloc[0]
        of = (control_of.get("by"), control_of.get("variant"), control_of.get("options"))
        if of == ("pull", run["name"], run["options"]) and not study.differing_settings(label, other):
            return other
    return None


def _notes(
    study: Study,
    scores: StudyScores,
    comparisons: Mapping[str, Comparison],
    pulls: Mapping[str, list[dict[str, float]]],
) -> list[str]:
    notes = []
    for variant in scores.variants:
        label, to_baseline, to_control = variant.label, variant.comparisons[MAIN], comparisons[variant.label]
        if to_control.exists:
            notes.append(f"{label}: {_in_words(to_baseline, to_control)}")
            continue
        # on a frozen core a pull moves nothing
        moves = variant.settings["protocol"] != "frozen_core" and not is_pull_control(study, label)
        if to_baseline.is_told_apart and moves:
            notes.append(
                f"{label}: {table.difference(to_baseline, verdict=False)} mask AP to {to_baseline.rival}"
                f"{_relative_pull(pulls, label, to_baseline.rival)}; how much of it an FCN of the same pull has, "
                "control=pull would show"
            )
    return notes


def _in_words(to_baseline: Comparison, to_control: Comparison) -> str:
    """Both differences, and what they mean together."""
    gains = to_baseline.verdict == "better"
    as_good = "an FCN that pulls as hard is as good"
    meanings = {
        "better": "an FCN that pulls as hard gains less" if gains else "it is better than an FCN that pulls as hard",
        "worse": "an FCN that pulls as hard is better",
        "equivalent": f"the gain is not the head's: {as_good}" if gains else as_good,
        "undecided": (
            "the gain is not shown to be the head's" if gains else "no difference to an FCN that pulls as hard is shown"
        ),
        None: "the difference to the FCN of its pull is not judged",
    }
    difference = f"{table.difference(to_control, verdict=False)} to the FCN of its pull"
    if to_baseline.exists:
        difference = f"{table.difference(to_baseline, verdict=False)} mask AP to {to_baseline.rival}, {difference}"
    return f"{difference}: {meanings[to_control.verdict]}"


def _relative_pull(pulls: Mapping[str, list[dict[str, float]]], label: str, rival: str | None) -> str:
    """How hard a variant pulls, compared with its rival; empty where that was not measured."""
    if label not in pulls or rival is None or rival not in pulls:
        return ""
    own, other = (pd.DataFrame(pulls[name])[f"{_MASK}_first"].mean() for name in (label, rival))
    return f", with {own / other:.2g} times its pull" if other > 0 else ""


SECTION = Section("pull", make)

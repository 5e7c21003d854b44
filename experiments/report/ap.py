"""AP of each variant with its difference to the baseline: table, text and forest plot."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.render import table
from experiments.render.plot import caption, looks, rival_name, row_figure
from experiments.report import trained
from experiments.report.compare import (
    SETTINGS,
    StudyScores,
    difference_columns,
    ranked,
    verdict_columns,
    verdict_key,
)
from experiments.report.section import Content, Findings, Section
from experiments.report.tuning import tuned_name
from experiments.report.tuning_file import Tuning
from experiments.runs.study import METRICS

_HEADINGS = {"AR100": "AR"}


def make(findings: Findings) -> Content:
    """``ap.csv|md|tex`` and ``forest.png|pdf``."""
    scores = findings.scores
    note = (
        "AP in percent: mean ± sample standard deviation over runs (seeds and folds); AR is AR at 100 "
        f"detections. Δ AP: difference to {findings.baseline}, with a 95 % interval over images and trainings "
        f"({findings.resamples} resamples of the images), corrected for the number of variants in the table, each kind "
        f"by itself. {verdict_key(findings.margin)} Detectable: the true difference that would have been called better "
        f"or worse with probability 0.8. {table.MISSING}: nothing to measure or to compare with."
    )
    folds = max(variant.folds for variant in scores.variants)
    if folds > 1:
        note += " Folds share training images, for which intervals are widened (Nadeau and Bengio, 2003)."
    if findings.tuning is not None:
        untuned = [label for label in scores.order if tuned_name(findings.study, findings.tuning, label) is None]
        note += f" {tuning_sentence(findings.tuning, folds, untuned)}"
    if findings.contrasts:
        note += " The comparisons that were named beforehand are in contrasts.md; the differences here are exploratory."
    note += trained.caption(trained.trends(findings.study, scores.order))
    return Content(
        table.Table(numbers(scores), text(scores, findings.baseline), note, rule_every=len(scores.variants)),
        text=terminal(scores),
        figure=partial(forest, scores),
        reason="no variant has a difference",
        notes=[*findings.predictions.notes, *scores.notes],
    )


def tuning_sentence(tuning: Tuning, folds: int, untuned: Sequence[str]) -> str:
    """The budget that the heads were tuned with, but for some, and whether intervals cover the choice of settings."""
    if tuning.choice == "each_fold" and folds > 1:
        covered = (
            "intervals cover that folds chose different settings, and not the choice of the space, its points and the "
            "budget"
        )
    else:
        covered = "intervals take the settings as given, and do not cover the choice among the trials"
    chosen = "anew in each fold" if tuning.choice == "each_fold" else "in the first fold, for all folds"
    trials = f"{tuning.budget} trial{'s' if tuning.budget > 1 else ''}"
    heads = f"Each head but {', '.join(untuned)}" if untuned else "Each head"
    return f"{heads} was tuned with {trials}, {chosen}, on images held out of the training images; {covered}."


def numbers(scores: StudyScores) -> pd.DataFrame:
    """The table for machines, one row a variant; ``results/README.md`` says what each column is."""
    rows = []
    for variant in scores.variants:
        row: dict[str, Any] = {
            "variant": variant.label,
            "is_baseline": variant.is_baseline,
            "compared_with": variant.compared_with,
            **variant.settings,
            "n": variant.runs,
            "folds": variant.folds,
        }
        for kind in scores.kinds:
            for metric, mean in variant.metrics[kind].items():
                row |= mean.columns(f"{kind}_{metric}")
            row[f"{kind}_AP_low"], row[f"{kind}_AP_high"] = variant.intervals[kind]
            row |= difference_columns(variant.comparisons[kind], f"{kind}_AP_")
        for kind in scores.kinds:
            row |= verdict_columns(variant.comparisons[kind], f"{kind}_AP_")
        rows.append(row)
    return pd.DataFrame(rows)


def text(scores: StudyScores, baseline: str) -> pd.DataFrame:
    """The table as people read it: for each kind one row a variant."""
    rows = []
    varying = [key for key in SETTINGS if len({variant.settings[key] for variant in scores.variants}) > 1]
    for kind in scores.kinds:
        for variant in scores.variants:
            cells = {"": "" if variant is not scores.variants[0] else kind, "variant": variant.label}
            cells |= {_HEADINGS.get(metric, metric): str(variant.metrics[kind][metric]) for metric in METRICS}
            cells[f"Δ AP to {baseline} [95 %]"] = table.difference(variant.comparisons[kind])
            cells["detectable"] = table.number(variant.comparisons[kind].detectable, 1)
            cells["runs"] = str(variant.runs)
            settings = [key for key in SETTINGS if key == "protocol" or key in varying]
            rows.append(cells | {key: table.cell(variant.settings[key]) for key in settings})
    return pd.DataFrame(rows)


def terminal(scores: StudyScores) -> list[str]:
    """What the runs have in common, a table for each kind, and what the numbers are."""
    values = {key: {variant.settings[key] for variant in scores.variants} for key in SETTINGS}
    parts = [", ".join(f"{key} {value}" for key, (value, *more) in values.items() if not more)]
    for kind in scores.kinds:
        rows = []
        for variant in scores.variants:
            cells = {"variant": variant.label, f"{kind} AP": str(variant.metrics[kind]["AP"])}
            for metric in METRICS[1:]:
                cells[_HEADINGS.get(metric, metric)] = table.number(variant.metrics[kind][metric].mean, 1)
            difference = table.difference(variant.comparisons[kind])
            rows.append(cells | {"Δ AP [95 %]": difference, "runs": str(variant.runs)})
        parts.append(table.fitted(pd.DataFrame(rows)))
    parts.append(
        "AP in percent, mean ± deviation over runs; Δ: to the baseline, its interval corrected for their number"
    )
    return [part for part in parts if part]


def forest(scores: StudyScores) -> Figure | None:
    """Differences of AP to the baseline, a column for each kind of AP in which variants differ; None without any.

    Thick lines are a difference's own interval; thin ones are corrected. A filled marker is better or worse; the grey
    band is the margin of equivalence.
    """
    compared = {kind: [variant.comparisons[kind] for variant in scores.variants] for kind in scores.kinds}
    kinds = [kind for kind in scores.kinds if any(each.exists for each in compared[kind])]
    # on a frozen core all boxes are the same
    kinds = [kind for kind in kinds if any(each.exists and each.value != 0 for each in compared[kind])] or kinds
    rows = ranked(v for v in scores.variants if any(v.comparisons[kind].exists for kind in kinds))
    if not rows:
        return None
    style = looks(scores.order)
    figure, columns = row_figure([variant.label for variant in rows], len(kinds), 4.6)
    rival = rival_name(variant.compared_with for variant in rows)
    for axes, kind in zip(columns, kinds, strict=True):
        for y, variant in enumerate(rows):
            comparison, look = variant.comparisons[kind], style[variant.label]
            if not comparison.exists:
                continue
            axes.plot(comparison.corrected_interval, [y, y], color=look.colour, linewidth=1, marker="|", markersize=6)
            axes.plot(comparison.interval, [y, y], color=look.colour, linewidth=3, solid_capstyle="butt")
            face = look.colour if comparison.is_told_apart else "white"
            axes.plot(comparison.value, y, look.marker, color=look.colour, markerfacecolor=face, markersize=7, zorder=3)
            axes.text(
                *(1.02, y, table.difference(comparison)),
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=8.5,
                fontweight="bold" if comparison.is_told_apart else "normal",
            )
        margin = rows[0].comparisons[kind].margin
        axes.axvspan(-margin, margin, color="#eeeeee", zorder=0)
        axes.axvline(0, color="#555555", linewidth=1)
        axes.set(xlabel=f"Δ {kind} AP to {rival}")
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    caption(
        figure,
        "Thick: 95 % interval of the difference alone; thin and in figures: corrected for all of them; filled: it "
        "excludes 0; grey: within the margin of equivalence",
    )
    return figure


SECTION = Section("ap", make, figure="forest")

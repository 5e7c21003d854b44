"""What tuning gave each variant: validation scores against the budget, the settings chosen, and the heads' order."""

import json
import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from experiments.render import table
from experiments.render.plot import Look, caption, looks
from experiments.report.section import Content, Findings, Section
from experiments.report.tuning_file import FILE, Settings, Tuning
from experiments.runs.study import Study
from instseg.statistics.budget import BudgetCurve, budget_curve, order_stability

Curves = dict[str, BudgetCurve]
_COLUMNS = 5
"""Most panels of the figure side by side."""


def make(findings: Findings) -> Content:
    """``tuning.csv|md|tex`` and ``budget.png|pdf``, where the study has been tuned."""
    tuning = findings.tuning
    if tuning is None:
        return Content()
    known = [tuned_name(findings.study, tuning, label) for label in findings.scores.order]
    order = dict.fromkeys([*(name for name in known if name is not None), *tuning.variants])
    scores = {variant: by_fold for variant in order if (by_fold := tuning.scores(variant))}
    curves = {variant: budget_curve(np.stack(list(by_fold.values()))) for variant, by_fold in scores.items()}
    if not curves:
        return Content(skipped=[f"tuning: {FILE} has no variant with all {tuning.budget} trials of a fold"])
    numbers, text = tables(tuning, curves)
    chosen_in = tuning.choice.replace("_", " ")
    # all but the settings, without intervals
    terminal = text.iloc[:, :-1].map(lambda cell: cell.partition(" [")[0])
    return Content(
        table.Table(numbers, text, note(tuning, curves)),
        text=[
            table.fitted(terminal),
            f"validation {tuning.metric} in percent, expected best of k trials; chosen in {chosen_in}",
            *order_lines(curves),
        ],
        figure=partial(budget, curves, {name: by_fold_mean(by_fold) for name, by_fold in scores.items()}, tuning),
        notes=tuning.unfinished(),
    )


def tuned_name(study: Study, tuning: Tuning, label: str) -> str | None:
    """The name by which ``tuning.json`` has a variant: its label or its bare name; None where it was not tuned."""
    names = (label, study.counted(label)["name"].iloc[0])
    return next((str(name) for name in names if name in tuning.variants), None)


def by_fold_mean(by_fold: dict[int, NDArray[np.float64]]) -> float:
    """The score of the study's own recipe, trial 0, mean over folds; 0 where it diverged."""
    return float(np.mean([np.nan_to_num(scores[0]) for scores in by_fold.values()]))


def budgets(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def tables(tuning: Tuning, curves: Curves) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table for machines (``results/README.md`` says what each column is), and as people read it."""
    numbers, text = [], []
    keys = list(dict.fromkeys(key for trial in tuning.trials for key in trial.settings))
    for variant, curve in curves.items():
        by_fold, chosen = tuning.scores(variant), tuning.chosen_by_fold(variant)
        untuned = by_fold_mean(by_fold)
        diverged = int(sum(np.isnan(scores).sum() for scores in by_fold.values()))
        row: dict[str, Any] = {"variant": variant, "folds": len(by_fold), "trials": tuning.budget}
        row |= {"diverged": diverged, "untuned": untuned}
        cells = {"variant": variant, "folds": str(len(by_fold)), "untuned": table.number(untuned, 1)}
        for k in budgets(tuning.budget):
            value, low, high = (float(part[k - 1]) for part in curve[:3])
            low, high = max(low, 0.0), min(high, 100.0)
            row |= {f"best_of_{k}": value, f"best_of_{k}_low": low, f"best_of_{k}_high": high}
            cells[f"best of {k}"] = f"{value:.1f} [{low:.1f}, {high:.1f}]"
        for key, values in tuning.choices.items():
            counts = [sum(trial.settings.get(key) == value for trial in chosen.values()) for value in values]
            row |= {f"{key}_{value}": count for value, count in zip(values, counts, strict=True)}
            cells[f"{key}: {'/'.join(values)}"] = "/".join(map(str, counts))
        row["chosen"] = json.dumps({fold: trial.settings for fold, trial in chosen.items()}, sort_keys=True)
        heading = f"chosen by fold ({' / '.join(keys)})"
        cells[heading] = ", ".join(f"{fold}: {_compact(trial.settings, keys)}" for fold, trial in chosen.items()) or (
            table.MISSING
        )
        numbers.append(row)
        text.append(cells)
    return pd.DataFrame(numbers), pd.DataFrame(text)


def _compact(settings: Settings, keys: list[str]) -> str:
    values = [settings.get(key) for key in keys]
    return " / ".join(f"{value:.3g}" if isinstance(value, int | float) else table.cell(value) for value in values)


def note(tuning: Tuning, curves: Curves) -> str:
    """The line below the table."""
    folds = {len(curve.by_fold) for curve in curves.values()}
    interval = "of trials drawn again (other folds and validation images are not covered)"
    if folds != {1}:
        interval = "over folds" if 1 not in folds else f"over folds, or with a single fold {interval}"
    return (
        f"{tuning.metric} in percent on validation images held out of the training images, mean over folds. Untuned: "
        f"trial 0, the study's own recipe. Best of k: expected best score of k of the {tuning.budget} trials, with a "
        f"95 % interval {interval}; of each variant by itself, not of differences. The best of {tuning.budget} is the "
        "score that the settings were chosen by, and so higher than on other images. A trial that diverged counts as 0."
    )


def order_lines(curves: Curves) -> list[str]:
    """How soon the order of the variants is that of the whole budget, in words."""
    if len(curves) < 2:
        return []
    stability = order_stability({variant: curve.values for variant, curve in curves.items()})
    most = len(stability.leaders)
    shown = [(k, stability.tau[k - 1]) for k in budgets(most)[:-1]]
    taus = ", ".join(f"{tau:.2f} with {k}" for k, tau in shown if not math.isnan(tau))
    order = f"order of {len(curves)} variants by validation score, Kendall's tau to that of all {most} trials: {taus}"
    if stability.last_change == 1:
        leader = f"{stability.leaders[-1]} leads with any number of trials"
    else:
        before = stability.leaders[stability.last_change - 2]
        leader = f"{stability.leaders[-1]} leads from {stability.last_change} trials on, before that {before}"
    return [f"{order}\n{leader}" if taus else leader]


def budget(curves: Curves, untuned: dict[str, float], tuning: Tuning) -> Figure:
    """Expected best validation score against the number of trials: a panel a variant, with its band, among the lines of
    the others; the first variant, the baseline, is in every panel."""
    style = looks(list(curves))
    columns = min(_COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(max(4.0, 3.0 * columns + 0.5), 2.3 * rows + 1.0), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, variant in zip(panels, curves, strict=False):
        _panel(axes, variant, curves, style)
        axes.axhline(untuned[variant], color=style[variant].colour, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_title(table.wrap(variant, 26), fontsize=9.5, linespacing=0.95)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    # the lowest panel of each column, below which there may be none
    for axes in panels[max(0, len(curves) - columns) : len(curves)]:
        axes.tick_params(labelbottom=True)
    lowest = min(min(curve.values.min(), untuned[variant]) for variant, curve in curves.items())
    highest = max(float(curve.high.max()) for curve in curves.values())
    room = 0.15 * (highest - lowest) + 0.5
    panels[0].set_ylim(max(0.0, lowest - room), min(100.0, highest + 0.3 * room))
    panels[0].set_xlim(0.8, tuning.budget + 0.2)
    figure.supxlabel("trials", fontsize=10)
    figure.supylabel(f"validation {tuning.metric.replace('_', ' ')} (%)", fontsize=10)
    caption(
        figure,
        f"Expected best of k of {tuning.budget} trials, mean over folds. Band: its 95 % interval; dotted: untuned; "
        f"black: {next(iter(curves))}; grey: the other heads",
    )
    return figure


def _panel(axes: Axes, variant: str, curves: Curves, style: dict[str, Look]) -> None:
    baseline, curve, colour = next(iter(curves)), curves[variant], style[variant].colour
    numbers = np.arange(1, len(curve.values) + 1)
    for other, line in curves.items():
        if other not in (variant, baseline):
            axes.plot(numbers, line.values, color="#cfcfcf", linewidth=0.8, zorder=1)
    if variant != baseline:
        axes.plot(numbers, curves[baseline].values, color=style[baseline].colour, linewidth=1.1, zorder=2)
    axes.fill_between(numbers, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0, zorder=1.5)
    look = style[variant]
    markers: dict[str, Any] = {"marker": look.marker, "markerfacecolor": look.face, "markersize": 4}
    axes.plot(numbers, curve.values, color=colour, linewidth=1.8, zorder=3, **markers)


SECTION = Section("tuning", make, figure="budget")

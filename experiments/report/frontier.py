"""Mask AP against FLOPs, as differences to the baseline: the widths of the FCN as a frontier, the U-Net's, the rest."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from experiments.config import control
from experiments.config.run import load_config
from experiments.render import table
from experiments.render.labels import label_points
from experiments.render.plot import Look, caption, label_logarithms, looks, rival_name
from experiments.report.compare import VariantScores, difference_columns, verdict_columns
from experiments.report.cost import read_costs
from experiments.report.section import Content, Findings, Section
from experiments.report.tuning import tuned_name
from experiments.report.tuning_file import Tuning
from experiments.runs.study import MAIN, Study
from instseg import timing
from instseg.errors import UserError
from instseg.statistics.estimate import UNKNOWN, Estimate
from instseg.statistics.verdict import Interval

Line = Literal["FCN", "U-Net", ""]
LINES: tuple[Line, ...] = ("FCN", "U-Net")
_TUNED = ("loss_weight", "lr_mult", "decay_mult")
"""Options that make no other head."""


@dataclass(frozen=True)
class Point:
    """A variant in one panel.

    Attributes:
        mflop: per RoI.
        line: whose widths it is one of.
        value, interval: difference to the baseline, in percent.
        dots: the same of each fold and seed.
    """

    label: str
    mflop: float
    line: Line
    value: float
    interval: Interval
    dots: list[float]


def make(findings: Findings) -> Content:
    """``frontier.csv|md|tex|png|pdf``, where the study has an FCN or a U-Net of two widths or more."""
    study, scores = findings.study, findings.scores
    groups = {line: labels for line, labels in lines(study, findings.tuning).items() if len(labels) > 1}
    if not groups or not scores.rivals:
        return Content()
    flops, notes = flops_per_roi(study, scores.order, findings.speed)
    groups = {line: labels for line, labels in groups.items() if len({flops.get(label) for label in labels}) > 1}
    if not groups:
        return Content(notes=notes)
    line_of: dict[str, Line] = {label: line for line, labels in groups.items() for label in labels}
    after, before = {}, {}
    for variant in scores.variants:
        place = (variant.label, flops.get(variant.label, math.nan) / 1e6, line_of.get(variant.label, ""))
        after[variant.label] = Point(*place, *_after(study, variant))
        if findings.tuning is not None and variant.compared_with is not None:
            before[variant.label] = Point(*place, *_before(study, findings.tuning, variant))
    numbers, text = tables(scores.variants, after, before)
    source = "timed heads of speed.json" if findings.speed is not None else "the runs' configurations"
    note = (
        f"Δ mask AP: difference to {findings.baseline}, as in ap.md. MFLOP/RoI: of predicting one RoI's mask, RoIAlign "
        f"left out, from {source}. Line: variants that the figure joins, widths of one head."
    )
    if before:
        note += (
            " Before tuning: difference of the validation score of trial 0, the study's own recipe, mean over folds "
            "with Student's 95 % interval; not on the images of Δ mask AP, and not corrected."
        )
    panels = {"": after}
    if findings.tuning is not None:
        metric = findings.tuning.metric.replace("_", " ")
        panels = {
            f"before tuning: {metric} on validation images": before,
            "after tuning: mask AP on test images": after,
        }
    return Content(
        table.Table(numbers, text, note),
        figure=partial(frontier, panels, scores.order, rival_name(scores.rivals.values())),
        notes=notes,
    )


def lines(study: Study, tuning: Tuning | None) -> dict[Line, list[str]]:
    """The variants that are widths of one head: FCNs without losses on shape, of any control but those of parameters or
    pull, and the largest set of U-Nets that differ in width alone. What tuning chooses makes no other head."""
    chosen = {*_TUNED, *(key for trial in (tuning.chosen if tuning else []) for key in trial.settings)}
    fcn: list[str] = []
    unets: dict[str, list[str]] = defaultdict(list)
    for label in study.variants:
        run = study.counted(label).iloc[0]
        options, by = run["options"], run["control_by"]
        if run["head"] == "fcn" and by in ("", "flops"):
            if not options.get("dice_weight") and not options.get("boundary_weight"):
                fcn.append(label)
        elif run["head"] == "unet":
            others = {key: value for key, value in options.items() if key != "width" and key not in chosen}
            unets[repr(sorted(others.items()))].append(label)
    return {"FCN": fcn, "U-Net": max(unets.values(), key=len, default=[])}


def flops_per_roi(study: Study, labels: list[str], speed: dict[str, Any] | None) -> tuple[dict[str, float], list[str]]:
    """FLOPs per RoI of each variant's head, and notes: from ``speed.json``, or, of a variant that it lacks, counted for
    the head that the variant's first run has trained."""
    measured = read_costs(speed or {"variants": {}}, labels)["head_flops_per_roi"]
    flops, notes = {}, []
    for label in labels:
        known = float(measured[label])
        try:
            flops[label] = _counted(study, label) if math.isnan(known) else known
        except UserError as error:
            notes.append(f"{label} is not in the frontier: {error}")
    return flops, notes


def _counted(study: Study, label: str) -> float:
    run = study.counted(label).iloc[0]
    config = load_config(study.files.run(run["folder"]) / "config.yaml")
    classes = 1 + len(study.files.ground_truth(run["ground_truth"]).dataset["categories"])
    rois = timing.random_rois(config.trunk.out_channels, control.image_size(config), control.ROIS, control.META)
    return control.cost(config.make_head(classes), "flops", rois)


def _after(study: Study, variant: VariantScores) -> tuple[float, Interval, list[float]]:
    """The mean difference of mask AP, its interval as tables show it, and the difference of each fold and seed."""
    comparison, dots = variant.comparisons[MAIN], []
    if variant.is_baseline:
        return 0.0, (0.0, 0.0), []
    if comparison.rival is not None:
        keys = ["fold", "seed", "ground_truth"]
        pair = [study.counted(label)[[*keys, "mask_AP"]] for label in (variant.label, comparison.rival)]
        both = pair[0].merge(pair[1], on=keys, suffixes=("", "_rival"))
        dots = (both["mask_AP"] - both["mask_AP_rival"]).to_list()
    corrected = comparison.corrected_interval
    return comparison.value, comparison.interval if math.isnan(corrected[0]) else corrected, dots


def _before(study: Study, tuning: Tuning, variant: VariantScores) -> tuple[float, Interval, list[float]]:
    """The mean difference of trial 0's validation score, Student's interval, and the difference of each fold; a trial
    that diverged counts as 0."""
    if variant.is_baseline:
        return 0.0, (0.0, 0.0), []
    names = [tuned_name(study, tuning, str(label)) for label in (variant.label, variant.compared_with)]
    own, rival = ({} if name is None else tuning.scores(name) for name in names)
    dots = [float(np.nan_to_num(own[fold][0]) - np.nan_to_num(rival[fold][0])) for fold in own if fold in rival]
    estimate = UNKNOWN
    if dots:
        error = float(np.std(dots, ddof=1)) / math.sqrt(len(dots)) if len(dots) > 1 else math.nan
        estimate = Estimate.of(float(np.mean(dots)), error, len(dots) - 1)
    return estimate.value, estimate.interval(), dots


def tables(
    variants: list[VariantScores], after: Mapping[str, Point], before: Mapping[str, Point]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table for machines (``results/README.md`` says what each column is), and as people read it."""
    numbers, text = [], []
    for variant in variants:
        point, comparison = after[variant.label], variant.comparisons[MAIN]
        row: dict[str, Any] = {"variant": variant.label, "line": point.line, "mflop_per_roi": point.mflop}
        row |= difference_columns(comparison, "mask_AP_") | verdict_columns(comparison, "mask_AP_")
        cells = {"variant": variant.label, "line": point.line or table.MISSING}
        cells |= {"MFLOP/RoI": table.number(point.mflop, 1, comma=True)}
        if before:
            untuned = before.get(variant.label)
            known = untuned is not None and not variant.is_baseline
            value, (low, high) = (untuned.value, untuned.interval) if known and untuned else (math.nan, (math.nan,) * 2)
            row |= {"before_diff": value, "before_diff_low": low, "before_diff_high": high}
            shown = table.MISSING if math.isnan(value) else table.signed(value)
            ends = "" if math.isnan(low) else f" [{table.signed(low)}, {table.signed(high)}]"
            cells["Δ before tuning [95 %]"] = shown + ends
        numbers.append(row)
        text.append(cells | {"Δ mask AP [95 %]": table.difference(comparison)})
    return pd.DataFrame(numbers), pd.DataFrame(text)


def frontier(panels: Mapping[str, Mapping[str, Point]], order: list[str], rival: str) -> Figure | None:
    """The difference of mask AP to the baseline against FLOPs per RoI, in each of ``panels``: a large mark with its
    interval for a variant, a small dot for a fold and seed, a line through the widths of one head."""
    shown = {title: [p for p in points.values() if _is_known(p)] for title, points in panels.items()}
    shown = {title: points for title, points in shown.items() if len(points) > 1}
    if not shown:
        return None
    style = point_looks([point for points in shown.values() for point in points], order)
    figure = Figure(figsize=((6.3 if len(shown) > 1 else 7.4) * len(shown), 6.0), dpi=150, layout="constrained")
    all_axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (title, points) in zip(all_axes, shown.items(), strict=True):
        _panel(axes, points, style)
        axes.set(xlabel="MFLOP per RoI", title=title)
    all_axes[0].set_ylabel(f"Δ to {rival} (%)" if len(shown) > 1 else f"Δ mask AP to {rival}")
    handles = [line for line in all_axes[-1].get_lines() if line.get_label() in LINES]
    figure.legend(
        handles, [f"{line.get_label()}, by width" for line in handles], loc="outside lower center", ncols=len(LINES)
    )
    both = len(shown) > 1
    corrected = "corrected for all heads"
    caption(
        figure,
        f"Large: mean; bar: its 95 % interval{f', after tuning {corrected}' if both else f' {corrected}'}; "
        f"small: a fold and seed{', before tuning a fold' if both else ''}",
    )
    # the layout must stand before labels can be measured against it, and must not move afterwards
    FigureCanvasAgg(figure).draw()
    figure.set_layout_engine("none")
    for axes, points in zip(all_axes, shown.values(), strict=True):
        places = np.array([[point.mflop, point.value] for point in points])
        labels = [table.wrap(point.label, 22) for point in points]
        label_points(axes, places, labels, [style[point.label].colour for point in points])
    return figure


def _panel(axes: Axes, points: list[Point], style: Mapping[str, Look]) -> None:
    axes.axhline(0, color="#888888", linewidth=0.9, zorder=1)
    for line in LINES:
        joined = sorted((point for point in points if point.line == line), key=lambda point: point.mflop)
        if len(joined) > 1:
            colour = style[joined[0].label].colour
            xs, ys = zip(*((point.mflop, point.value) for point in joined), strict=True)
            axes.plot(xs, ys, color=colour, linewidth=2.2, alpha=0.55, label=line, zorder=2)
    for point in points:
        look = style[point.label]
        for place, dot in enumerate(point.dots):
            # side by side, in points, whatever the scale of the axis
            beside = 12 * ((place + 0.5) / len(point.dots) - 0.5)
            moved = offset_copy(axes.transData, axes.get_figure(root=True), x=beside, units="points")
            small: dict[str, Any] = {"color": look.colour, "markersize": 3.2, "alpha": 0.4, "markeredgewidth": 0}
            axes.plot(point.mflop, dot, "o", transform=moved, zorder=2.5, **small)
        low, high = point.interval
        error = None if math.isnan(low) or low == high else [[point.value - low], [high - point.value]]
        _, caps, bars = axes.errorbar(
            *(point.mflop, point.value, error),
            fmt=look.marker,
            color=look.colour,
            markerfacecolor=look.face,
            markeredgecolor=look.colour if look.hollow else "white",
            markersize=9.5,
            elinewidth=1.2,
            capsize=2.5,
            zorder=3,
        )
        for bar in (*caps, *bars):
            bar.set_alpha(0.55)
    mflops = [point.mflop for point in points]
    if max(mflops) > 3 * min(mflops) > 0:
        axes.set_xscale("log")
        label_logarithms(axes.xaxis)
    axes.margins(x=0.16, y=0.08)


def point_looks(points: list[Point], order: list[str]) -> dict[str, Look]:
    """One look for all FCNs of the line, black, one for all U-Nets of theirs, and one for each other variant."""
    groups = {point.label: point.line or point.label for point in points}
    names = dict.fromkeys([*LINES, *(groups.get(label, label) for label in order)])
    style = looks(list(names))
    return {label: style[group] for label, group in groups.items()}


def _is_known(point: Point) -> bool:
    return not (math.isnan(point.mflop) or math.isnan(point.value))


SECTION = Section("frontier", make, figure="frontier")

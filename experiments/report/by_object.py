"""AP by size of the objects, as COCO has it, and mask AP by the complexity of their outlines."""

import math
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.render import table
from experiments.render.plot import row_figure
from experiments.report.compare import Mean, StudyScores, ranked
from experiments.report.predictions import THIRDS, Edges, Predictions
from experiments.report.section import Content, Findings, Section
from instseg.evaluation.kinds import METRIC_KINDS

_SIZES = {"APs": ("small", "small (< 32² px)"), "APm": ("medium", "medium"), "APl": ("large", "large (> 96² px)")}
# From light to dark, apart in grey too.
_SHADES, _MARKERS = ("#8fc1e3", "#3a84bd", "#0b2f5c"), ("o", "s", "D")


class ByComplexity(NamedTuple):
    """Mask AP of one variant in each of :data:`experiments.report.predictions.THIRDS`, and the complexities that part
    them in its data set."""

    means: tuple[Mean, ...] = (Mean(),) * len(THIRDS)
    edges: Edges = (math.nan, math.nan)


def make(findings: Findings) -> Content:
    """``ap_by_object.csv|md|tex|png|pdf``."""
    scores = findings.scores
    complexity = by_complexity(findings.predictions, scores)
    numbers, text = [], []
    for variant in scores.variants:
        thirds, (low, high) = complexity.get(variant.label, ByComplexity())
        row: dict[str, Any] = {"variant": variant.label}
        cells = {"variant": variant.label}
        for kind in scores.kinds:
            for metric, (size, _) in _SIZES.items() if METRIC_KINDS[kind].of_masks else ():
                row |= variant.metrics[kind][metric].columns(f"{kind}_{metric}")
                cells[f"{kind} {size}"] = str(variant.metrics[kind][metric])
        for third, mean in zip(THIRDS, thirds, strict=True):
            row |= mean.columns(f"mask_AP_{third}")
            cells[f"mask {third}"] = str(mean)
        numbers.append(row | {"edge_low": low, "edge_high": high})
        text.append(cells)
    parted = "; ".join(f"{low:.2f} and {high:.2f}" for low, high in _all_edges(complexity))
    note = (
        "AP in percent, mean ± sample standard deviation over runs. Small, medium and large: COCO's sizes, parted at "
        "32² and 96² pixels. Simple, middling and complex: thirds of the data set's objects by perimeter² / (4π · area)"
        f"{f', parted at {parted}' if parted else ''}. {table.MISSING}: no such objects."
    )
    return Content(
        table.Table(pd.DataFrame(numbers), pd.DataFrame(text), note),
        figure=partial(dots, scores, complexity),
        reason="no variant has AP by size or complexity",
    )


def by_complexity(predictions: Predictions, scores: StudyScores) -> dict[str, ByComplexity]:
    """Mask AP of each third of the objects, over the runs of each variant that has any."""
    result = {}
    for variant in scores.variants:
        runs = predictions.complexity[predictions.complexity["variant"] == variant.label]
        if len(runs):
            means = tuple(Mean.over(runs[third]) for third in THIRDS)
            result[variant.label] = ByComplexity(means, predictions.edges[str(variant.settings["dataset"])])
    return result


def _all_edges(complexity: dict[str, ByComplexity]) -> list[Edges]:
    """Those of all data sets of the study."""
    return list(dict.fromkeys(each.edges for each in complexity.values() if not math.isnan(each.edges[0])))


def dots(scores: StudyScores, complexity: dict[str, ByComplexity]) -> Figure | None:
    """AP of masks (and boundaries) by COCO's object sizes, and mask AP by complexity; None without any."""
    rows = ranked(scores.variants)
    # title -> a column a size or third, a row a variant
    panels = {
        f"{kind} AP (%) by size": pd.DataFrame(
            {name: [row.metrics[kind][key].mean for row in rows] for key, (_, name) in _SIZES.items()}
        )
        for kind in scores.kinds
        if METRIC_KINDS[kind].of_masks
    }
    edges = _all_edges(complexity)
    parted = "" if len(edges) != 1 else f" (parted at {edges[0][0]:.2f} and {edges[0][1]:.2f})"
    thirds = [[mean.mean for mean in complexity.get(row.label, ByComplexity()).means] for row in rows]
    panels[f"mask AP (%) by complexity{parted}"] = pd.DataFrame(thirds, columns=list(THIRDS))
    panels = {title: values for title, values in panels.items() if values.notna().any(axis=None)}
    if not panels:
        return None
    figure, all_axes = row_figure([row.label for row in rows], len(panels), 4.6)
    for axes, (title, values) in zip(all_axes, panels.items(), strict=True):
        lowest, highest = values.min(axis=1), values.max(axis=1)
        axes.hlines(range(len(rows)), lowest, highest, color="#bbbbbb", linewidth=1.5, zorder=1)
        for name, marker, shade in zip(values, _MARKERS, _SHADES, strict=True):
            if values[name].notna().any():
                axes.plot(values[name], range(len(rows)), marker, color=shade, label=name, markersize=7)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9)
        axes.set(xlabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(7))
    return figure


SECTION = Section("ap_by_object", make, figure="ap_by_object")

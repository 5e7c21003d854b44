"""What each variant costs: the table of ``speed.json``, and AP against cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.render import table
from experiments.render.labels import label_points
from experiments.render.plot import MANY, label_logarithms, looks
from experiments.report.compare import StudyScores, VariantScores
from experiments.report.section import Content, Findings, Section
from experiments.runs.study import MAIN, load_json
from experiments.runs.study_files import number
from instseg.errors import UserError

_RANGES = {"head_ms": "head ms", "images_per_s": "images/s", "train_images_per_s": "train images/s"}
# Key of speed.json -> heading, and what one unit of the heading is.
_NUMBERS = {
    "peak_memory_mib": ("peak MiB", 1.0),
    "parameters": ("parameters M", 1e6),
    "head_parameters": ("head parameters M", 1e6),
    "head_flops_per_roi": ("head MFLOP/RoI", 1e6),
    "flops_per_image": ("GFLOP/image", 1e9),
}
_SHORT = {
    "images/s": "im/s",
    "train images/s": "train im/s",
    "parameters M": "par. M",
    "head parameters M": "head M",
    "head MFLOP/RoI": "MFLOP/RoI",
    "GFLOP/image": "GFLOP/im",
}
Range = tuple[float, float, float]
"""Median, low and high."""


@dataclass(frozen=True)
class Cost:
    """What one variant costs, in the units of ``speed.json``; nan where it was not measured.

    Attributes:
        variant: its label.
        ranges: of each timing its median, low and high.
        numbers: memory, parameters and FLOPs.
    """

    variant: str
    ranges: dict[str, Range]
    numbers: dict[str, float]


def make(findings: Findings) -> Content:
    """``speed.csv|md|tex`` and ``ap_latency.png|pdf``."""
    if findings.speed is None:
        why = "there is no speed.json; run the benchmark first"
        return Content(skipped=[f"speed table and AP against cost: {why}"])
    scores = findings.scores
    costs = read_costs(findings.speed, scores.order)
    unmeasured = [label for label in scores.order if label not in findings.speed["variants"]]
    return Content(
        speed_table(findings.speed, scores.order),
        text=[table.fitted(text(costs, ranges=False).rename(columns=_SHORT))],
        figure=partial(ap_against_cost, scores, costs),
        reason="no variant has both mask AP and a timing or FLOPs",
        notes=[f"speed.json has no {', '.join(unmeasured)}"] if unmeasured else [],
    )


def read_speed(folder: Path) -> dict[str, Any] | None:
    """The content of a study's ``speed.json``, or None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / "speed.json"
    if not path.is_file():
        return None
    remedy = "delete it and run the benchmark again"
    speed = load_json(path, remedy)
    if not isinstance(speed, dict) or not isinstance(speed.get("variants"), dict):
        raise UserError(f'{path} has no "variants": {remedy}')
    try:
        read_costs(speed, [])
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    return speed


def read_costs(speed: dict[str, Any], variants: list[str]) -> list[Cost]:
    """The costs of variants, in their order; variants that only the benchmark knows come last."""
    measured = speed["variants"]
    costs = []
    for label in [*variants, *(label for label in measured if label not in variants)]:
        entry = measured.get(label) or {}
        timings = {key: entry.get(key) or {} for key in _RANGES}
        costs.append(
            Cost(
                label,
                {
                    key: (number(part.get("median")), number(part.get("low")), number(part.get("high")))
                    for key, part in timings.items()
                },
                {key: number(entry.get(key)) for key in _NUMBERS},
            )
        )
    return costs


def speed_table(speed: dict[str, Any], variants: list[str]) -> table.Table:
    """The table of ``speed.json``: for machines ``<quantity>_median|_low|_high`` and the plain numbers."""
    costs = read_costs(speed, variants)
    device = (speed.get("provenance") or {}).get("device")
    rows = []
    for cost in costs:
        row: dict[str, Any] = {"variant": cost.variant}
        for key, values in cost.ranges.items():
            row |= {f"{key}_{part}": value for part, value in zip(("median", "low", "high"), values, strict=True)}
        rows.append(row | cost.numbers | {"device": device})
    settings = (speed.get("what") or {}).items()
    what = ", ".join(f"{key} {table.cell(value)}" for key, value in settings if not isinstance(value, dict | list))
    note = f"Median (low–high). Device: {table.cell(device)}." + (f" Measured with: {what}." if what else "")
    return table.Table(pd.DataFrame(rows), text(costs), note)


def text(costs: Sequence[Cost], ranges: bool = True) -> pd.DataFrame:
    """The table as people read it; ``ranges=False`` leaves all but the head's range out."""
    columns = {"variant": [cost.variant for cost in costs]}
    for key, heading in _RANGES.items():
        values = [cost.ranges[key] for cost in costs]
        full = ranges or key == "head_ms"
        columns[heading] = [table.ranged(*value) if full else table.number(value[0]) for value in values]
    for key, (heading, unit) in _NUMBERS.items():
        columns[heading] = [table.number(cost.numbers[key] / unit) for cost in costs]
    return pd.DataFrame(columns)


def ap_against_cost(scores: StudyScores, costs: Sequence[Cost]) -> Figure | None:
    """Mask AP against the mask head's time for 100 RoIs and against its FLOPs, as far as they are known; None where
    no variant has both AP and a cost. Bars: AP's deviation over runs, or its 95 % interval where there is one run;
    the range of the timings."""
    cost_of = {cost.variant: cost for cost in costs}
    variants = [v for v in scores.variants if v.label in cost_of and not math.isnan(v.metrics[MAIN]["AP"].mean)]
    times = {v.label: cost_of[v.label].ranges["head_ms"] for v in variants}
    flops = {v.label: cost_of[v.label].numbers["head_flops_per_roi"] / 1e6 for v in variants}
    panels = [
        ("mask head: ms per 100 RoIs", times),
        ("mask head: MFLOP per RoI", {label: (value, math.nan, math.nan) for label, value in flops.items()}),
    ]
    panels = [(title, cost) for title, cost in panels if any(not math.isnan(x) for x, _, _ in cost.values())]
    if not panels:
        return None
    style = looks(scores.order)
    many = len(variants) > MANY
    size = (7.6, 6.8) if many else (6.4, 5.4)
    figure = Figure(figsize=(size[0] * len(panels), size[1]), dpi=150, layout="constrained")
    all_points = []
    for axes, (title, cost) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        present = [v for v in variants if not math.isnan(cost[v.label][0])]
        points = np.array([(cost[v.label][0], v.metrics[MAIN]["AP"].mean) for v in present])
        all_points.append((present, points))
        # the baseline on top
        for variant, (x, y) in zip(present[::-1], points[::-1].tolist(), strict=True):
            look = style[variant.label]
            _, low, high = cost[variant.label]
            known = not (math.isnan(low) or math.isnan(high))
            _, caps, bars = axes.errorbar(
                x,
                y,
                xerr=[[max(x - low, 0)], [max(high - x, 0)]] if known else None,
                yerr=_ap_error(variant),
                fmt=look.marker,
                color=look.colour,
                markerfacecolor=look.face,
                markersize=7,
                elinewidth=1,
                capsize=2.5,
            )
            for bar in (*caps, *bars) if many else ():
                bar.set_alpha(0.4)
        if points[:, 0].max() > 3 * points[:, 0].min() > 0:
            axes.set_xscale("log")
            label_logarithms(axes.xaxis)
        axes.set(xlabel=title, ylabel="mask AP (%)")
        axes.margins(0.15)
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    deviations = any(not math.isnan(variant.metrics[MAIN]["AP"].std) for variant in variants)
    bars = f"{'deviation over runs' if deviations else '95 % interval'} of AP"
    timings = ", range of the timings" if panels[0][1] is times else ""
    figure.suptitle(f"Bars: {bars}{timings}", fontsize=9, color="#555555")
    # The layout must stand before labels can be measured against it, and must not move afterwards.
    FigureCanvasAgg(figure).draw()
    figure.set_layout_engine("none")
    for axes, (present, points) in zip(figure.axes, all_points, strict=True):
        labels = [table.wrap(variant.label, 22) for variant in present]
        label_points(axes, points, labels, [style[variant.label].colour for variant in present])
    return figure


def _ap_error(variant: VariantScores) -> Any:
    ap, (low, high) = variant.metrics[MAIN]["AP"], variant.intervals[MAIN]
    if not math.isnan(ap.std):
        return ap.std
    return None if math.isnan(low) else [[max(ap.mean - low, 0)], [max(high - ap.mean, 0)]]


SECTION = Section("speed", make, figure="ap_latency")

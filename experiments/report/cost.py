"""What each variant costs: the table of ``speed.json``, AP against cost, and both in a small table for a README."""

import math
from functools import partial
from pathlib import Path
from typing import Any

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
_PARTS = ("median", "low", "high")
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


def make(findings: Findings) -> Content:
    """``speed.csv|md|tex`` and ``ap_latency.png|pdf``."""
    speed, order = findings.speed, findings.scores.order
    if speed is None:
        why = "there is no speed.json; run the benchmark first"
        return Content(skipped=[f"speed table and AP against cost: {why}"])
    costs = read_costs(speed, order)
    unmeasured = [label for label in order if label not in speed["variants"]]
    return Content(
        speed_table(speed, order),
        text=[table.fitted(text(costs, ranges=False).rename(columns=_SHORT))],
        figure=partial(ap_against_cost, findings.scores, costs),
        reason="no variant has both mask AP and a timing or FLOPs",
        notes=[f"speed.json has no {', '.join(unmeasured)}"] if unmeasured else [],
    )


def summarize(findings: Findings) -> Content:
    """``summary.md``, where there is a ``speed.json``."""
    if findings.speed is None:
        return Content()
    scores = findings.scores
    costs = read_costs(findings.speed, scores.order)
    rows = []
    for variant in scores.variants:
        cost = costs.loc[variant.label].to_dict()
        rows.append(
            {
                "mask head": variant.label,
                **{f"{kind} AP": str(variant.metrics[kind]["AP"]) for kind in scores.kinds},
                "Δ mask AP [95 %]": table.difference(variant.comparisons[MAIN]),
                "head parameters": table.number(cost["head_parameters"], 0, comma=True),
                "MFLOP/RoI": table.number(cost["head_flops_per_roi"] / 1e6, 1, comma=True),
                "ms/100 RoIs": table.number(cost["head_ms_median"], 1, comma=True),
            }
        )
    text = pd.DataFrame(rows)
    return Content(table.Table(text, text))


def read_speed(folder: Path) -> dict[str, Any] | None:
    """The content of a study's ``speed.json``, or None where there is none; a ``UserError`` says how it is damaged."""
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


def read_costs(speed: dict[str, Any], variants: list[str]) -> pd.DataFrame:
    """What variants cost, in the units of ``speed.json``; nan where it was not measured.

    Returns:
        A row a variant, by label, in the order given; those that only the benchmark knows come last. Columns: of each
        timing ``<timing>_median, _low, _high``; memory, parameters and FLOPs.
    """
    rows = {}
    for label in dict.fromkeys([*variants, *speed["variants"]]):
        entry = speed["variants"].get(label) or {}
        timings = {key: entry.get(key) or {} for key in _RANGES}
        rows[label] = {
            f"{key}_{part}": number(timing.get(part)) for key, timing in timings.items() for part in _PARTS
        } | {key: number(entry.get(key)) for key in _NUMBERS}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def speed_table(speed: dict[str, Any], variants: list[str]) -> table.Table:
    """The table of ``speed.json``."""
    costs = read_costs(speed, variants)
    device = (speed.get("provenance") or {}).get("device")
    settings = (speed.get("what") or {}).items()
    what = ", ".join(f"{key} {table.cell(value)}" for key, value in settings if not isinstance(value, dict | list))
    note = f"Median (low–high). Device: {table.cell(device)}." + (f" Measured with: {what}." if what else "")
    return table.Table(costs.assign(device=device).reset_index(), text(costs), note)


def text(costs: pd.DataFrame, ranges: bool = True) -> pd.DataFrame:
    """The table as people read it; ``ranges=False`` leaves all but the head's range out."""
    columns = {"variant": list(costs.index)}
    for key, heading in _RANGES.items():
        full = ranges or key == "head_ms"
        values = costs[[f"{key}_{part}" for part in _PARTS]].to_numpy().tolist()
        columns[heading] = [table.ranged(*value) if full else table.number(value[0]) for value in values]
    for key, (heading, unit) in _NUMBERS.items():
        columns[heading] = [table.number(value) for value in costs[key] / unit]
    return pd.DataFrame(columns)


def ap_against_cost(scores: StudyScores, costs: pd.DataFrame) -> Figure | None:
    """Mask AP against the mask head's time for 100 RoIs and against its FLOPs, as far as they are known; None where
    no variant has both AP and a cost. Bars: AP's deviation over runs, or its 95 % interval where there is one run;
    the range of the timings."""
    variants = [v for v in scores.variants if v.label in costs.index and not math.isnan(v.metrics[MAIN]["AP"].mean)]
    costs = costs.loc[[variant.label for variant in variants]]
    ap = [variant.metrics[MAIN]["AP"].mean for variant in variants]
    times = costs[[f"head_ms_{part}" for part in _PARTS]].set_axis(list(_PARTS), axis=1).assign(ap=ap)
    flops = times.assign(median=costs["head_flops_per_roi"] / 1e6, low=math.nan, high=math.nan)
    panels = {"mask head: ms per 100 RoIs": times, "mask head: MFLOP per RoI": flops}
    panels = {title: cost.dropna(subset="median") for title, cost in panels.items() if cost["median"].notna().any()}
    if not panels:
        return None
    style, by_label = looks(scores.order), {variant.label: variant for variant in variants}
    many = len(variants) > MANY
    size = (7.6, 6.8) if many else (6.4, 5.4)
    figure = Figure(figsize=(size[0] * len(panels), size[1]), dpi=150, layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, cost) in zip(all_axes, panels.items(), strict=True):
        # the baseline on top
        for label, x, low, high, y in cost[::-1].itertuples(name=None):
            look = style[label]
            known = not (math.isnan(low) or math.isnan(high))
            _, caps, bars = axes.errorbar(
                x,
                y,
                xerr=[[max(x - low, 0)], [max(high - x, 0)]] if known else None,
                yerr=_ap_error(by_label[label]),
                fmt=look.marker,
                color=look.colour,
                markerfacecolor=look.face,
                markersize=7,
                elinewidth=1,
                capsize=2.5,
            )
            for bar in (*caps, *bars) if many else ():
                bar.set_alpha(0.4)
        if cost["median"].max() > 3 * cost["median"].min() > 0:
            axes.set_xscale("log")
            label_logarithms(axes.xaxis)
        axes.set(xlabel=title, ylabel="mask AP (%)")
        axes.margins(0.15)
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    deviations = any(not math.isnan(variant.metrics[MAIN]["AP"].std) for variant in variants)
    bars = f"{'deviation over runs' if deviations else '95 % interval'} of AP"
    timings = ", range of the timings" if times["median"].notna().any() else ""
    figure.suptitle(f"Bars: {bars}{timings}", fontsize=9, color="#555555")
    # The layout must stand before labels can be measured against it, and must not move afterwards.
    FigureCanvasAgg(figure).draw()
    figure.set_layout_engine("none")
    for axes, cost in zip(all_axes, panels.values(), strict=True):
        points = cost[["median", "ap"]].to_numpy()
        labels = [table.wrap(label, 22) for label in cost.index]
        label_points(axes, points, labels, [style[label].colour for label in cost.index])
    return figure


def _ap_error(variant: VariantScores) -> Any:
    ap, (low, high) = variant.metrics[MAIN]["AP"], variant.intervals[MAIN]
    if not math.isnan(ap.std):
        return ap.std
    return None if math.isnan(low) else [[max(ap.mean - low, 0)], [max(high - ap.mean, 0)]]


SECTION = Section("speed", make, figure="ap_latency")
SUMMARY = Section("summary", summarize, endings=("md",))

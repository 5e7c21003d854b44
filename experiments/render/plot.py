"""The plots of a study: learning curves, and AP against cost. A plot without data is skipped, never empty."""

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments.render.labels import label_points
from experiments.render.table import wrap
from experiments.runs.study import Study
from instseg.files import write_atomically

# Okabe and Ito's colours, safe for colour-blind eyes, without their yellow, which is faint on white, and without
# black, which the baseline has.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_BLACKS = ("#000000", "#777777", "#aaaaaa")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))
# An FCN of another head's size.
_CONTROL = re.compile(r"_(params|flops)_of_")
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "pdf.fonttype": 42,
    # A variant's name is never a formula.
    "text.parse_math": False,
}
CURVES = {"loss_mask": "mask loss (each head's own)", "box_AP": "box AP (%)", "mask_AP": "mask AP (%)"}
Logs = dict[str, list[pd.DataFrame]]
# With more variants than this, plots are larger and leave details out.
_MANY = 6
# From this ratio on, losses need a logarithmic axis.
_LOG_FROM = 8
# Share of the logged points that the smoothed loss is a mean over.
_SMOOTHED = 0.08


class Look(NamedTuple):
    """How one variant is drawn, in every plot; beyond six variants marker and dash tell them apart too."""

    colour: str
    marker: str
    dash: Any
    hollow: bool = False

    @property
    def face(self) -> str:
        """Colour inside the marker."""
        return "white" if self.hollow else self.colour


def looks(variants: list[str]) -> dict[str, Look]:
    """One look a variant, in the order of the tables: the first, the baseline, is black; controls are black too, with
    hollow markers."""
    controls = [variant for variant in variants[1:] if _CONTROL.search(variant)]
    found = {variant: Look(_BLACKS[0], _MARKERS[0], _DASHES[0]) for variant in variants[:1]}
    for position, variant in enumerate(controls):
        turn, kind = divmod(position, len(_MARKERS) - 1)
        found[variant] = Look(_BLACKS[turn % len(_BLACKS)], _MARKERS[kind + 1], _DASHES[kind + 1], hollow=True)
    for position, variant in enumerate(variant for variant in variants[1:] if variant not in controls):
        turn, colour = divmod(position, len(_COLOURS))
        found[variant] = Look(_COLOURS[colour], _MARKERS[turn % len(_MARKERS)], _DASHES[turn % len(_DASHES)])
    return found


def save(stem: Path, figure: Figure) -> list[Path]:
    """Write ``stem.png`` (150 dpi) and ``stem.pdf``, without dates, so that the same data give the same bytes."""
    paths = []
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=150, metadata=metadata)
        # Not with_suffix: a variant's name may hold a dot.
        paths.append(write_atomically(stem.with_name(f"{stem.name}.{kind}"), data.getvalue()))
    return paths


def draw(stem: Path, make: Callable[[], Figure | None]) -> list[Path]:
    """Make a figure in this module's style and save it; nothing is written where ``make`` gives None."""
    with mpl.rc_context(STYLE):
        figure = make()
        return [] if figure is None else save(stem, figure)


def read_log(path: Path) -> pd.DataFrame:
    """``metrics.jsonl`` as a frame by iteration; half a last line (a crash) is left out, and of lines with the
    same iteration (a resumed run) the last counts."""
    entries: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            values = entry | entry.pop("eval", {})
            entries.setdefault(int(values.pop("iteration")), {}).update(values)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    frame = pd.DataFrame.from_dict(entries, orient="index").sort_index()
    return frame.apply(pd.to_numeric, errors="coerce")


def read_logs(study: Study, order: list[str]) -> Logs:
    """The logs of every variant's counted runs."""
    runs = study.folder / "runs"
    return {
        label: [read_log(runs / name / "metrics.jsonl") for name in study.counted(label)["folder"]] for label in order
    }


def logged(logs: Logs, key: str) -> bool:
    """Whether any run logged ``key``."""
    return any(key in log and log[key].notna().any() for runs in logs.values() for log in runs)


def learning_curves(logs: Logs, order: list[str]) -> Figure | None:
    """Mask loss (smoothed) and box and mask AP over iterations, as far as logged; None where nothing is. With few
    variants the raw loss and each run are there too, faint."""
    shown = [(key, title) for key, title in CURVES.items() if logged(logs, key)]
    if not shown:
        return None
    style = looks(order)
    many = len(order) > _MANY
    names = {label: wrap(label, 34) for label in order}
    # Inches, at most, that the legend's longest line of text and its line and gap take.
    entry = 0.75 + 0.08 * max(len(line) for name in names.values() for line in name.splitlines())
    width = 4.6 * len(shown) + 0.4
    columns = max(1, min(len(order), int(width / entry)))
    height = (5.0 if many else 4.2) + 0.22 * math.ceil(len(order) / columns)
    figure = Figure(figsize=(width, height), layout="constrained")
    handles: dict[str, Any] = {}
    for axes, (key, title) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        # The baseline on top.
        for label in reversed(order):
            series = [log[key].dropna() for log in logs[label] if key in log and log[key].notna().any()]
            if series:
                handles[label] = _curve(axes, series, style[label], smooth=key == "loss_mask", label=label, many=many)
        axes.set(xlabel="iteration", title=title)
        _set_height(axes, loss=key == "loss_mask")
    figure.legend(
        [handles[label] for label in order if label in handles],
        [names[label] for label in order if label in handles],
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        handlelength=3,
    )
    return figure


def _curve(axes: Axes, series: list[pd.Series], look: Look, *, smooth: bool, label: str, many: bool) -> Any:
    """Draw each run faint, unless there are many variants, and their mean on top; gives the mean's line."""
    for one in series if (smooth or len(series) > 1) and not many else []:
        axes.plot(one.index, one, color=look.colour, alpha=0.22, linewidth=0.8)
    mean = pd.concat(series, axis=1).mean(axis=1)
    if smooth:
        window = max(1, round(_SMOOTHED * len(mean)))
        mean = mean.rolling(window, center=True, min_periods=1).mean()
    (line,) = axes.plot(
        mean.index,
        mean,
        color=look.colour,
        linestyle=look.dash,
        linewidth=1.2 if many else 1.5,
        marker="" if smooth else look.marker,
        markerfacecolor=look.face,
        markersize=4,
        label=label,
    )
    return line


def _set_height(axes: Axes, *, loss: bool) -> None:
    """Limits of y that show the curves apart: from 0 unless all are far above it; logarithmic where one loss is
    many times another; a loss's top is none that a few spikes of the raw one set."""
    lines = axes.get_lines()
    values = [np.asarray(line.get_ydata(), dtype=float) for line in lines]
    means = [y for y, line in zip(values, lines, strict=True) if not str(line.get_label()).startswith("_")]
    low, high = min(map(np.nanmin, means)), max(map(np.nanmax, means))
    if loss and 0 < _LOG_FROM * low < high:
        axes.set_yscale("log")
        _label_logarithms(axes.yaxis)
        axes.set_ylim(bottom=0.9 * low)
    elif low < high / 2:
        axes.set_ylim(bottom=0)
    if loss:
        axes.set_ylim(top=1.05 * max(float(np.nanpercentile(np.concatenate(values), 99)), high))


def _label_logarithms(axis: Axis) -> None:
    """Plain numbers at a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
    axis.set_minor_locator(NullLocator())


def ap_against_cost(ap: pd.DataFrame, speed: pd.DataFrame, order: list[str]) -> Figure | None:
    """Mask AP against the mask head's time for 100 RoIs and against its FLOPs, as far as they are known; None where
    no variant has both AP and a cost. Bars: AP's deviation over runs, or its 95 % interval where there is one run;
    the range of the timings."""
    both = ap.merge(speed, on="variant").dropna(subset=["mask_AP_mean"])
    choices = (
        ("head_ms_median", "mask head: ms per 100 RoIs", 1.0),
        ("head_flops_per_roi", "mask head: MFLOP per RoI", 1e6),
    )
    panels = [choice for choice in choices if both[choice[0]].notna().any()]
    if not panels:
        return None
    style = looks(order)
    many = len(both) > _MANY
    size = (7.6, 6.8) if many else (6.4, 5.4)
    figure = Figure(figsize=(size[0] * len(panels), size[1]), dpi=150, layout="constrained")
    for axes, (column, title, unit) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        present = both.dropna(subset=[column])
        # the baseline on top
        for _, row in present.iloc[::-1].iterrows():
            look = style[row["variant"]]
            x = row[column] / unit
            low, high = (row.get(column.replace("median", end), math.nan) / unit for end in ("low", "high"))
            known = column.endswith("median") and not (math.isnan(low) or math.isnan(high))
            _, caps, bars = axes.errorbar(
                x,
                row["mask_AP_mean"],
                xerr=[[max(x - low, 0)], [max(high - x, 0)]] if known else None,
                yerr=_ap_error(row),
                fmt=look.marker,
                color=look.colour,
                markerfacecolor=look.face,
                markersize=7,
                elinewidth=1,
                capsize=2.5,
            )
            for bar in (*caps, *bars) if many else ():
                bar.set_alpha(0.4)
        if present[column].max() > 3 * present[column].min() > 0:
            axes.set_xscale("log")
            _label_logarithms(axes.xaxis)
        axes.set(xlabel=title, ylabel="mask AP (%)")
        axes.margins(0.15)
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    bars = "deviation over runs" if both["mask_AP_std"].notna().any() else "95 % interval"
    timings = ", range of the timings" if panels[0][0].endswith("median") else ""
    figure.suptitle(f"Bars: {bars} of AP{timings}", fontsize=9, color="#555555")
    # The layout must stand before labels can be measured against it, and must not move afterwards.
    FigureCanvasAgg(figure).draw()
    figure.set_layout_engine("none")
    for axes, (column, _, unit) in zip(figure.axes, panels, strict=True):
        present = both.dropna(subset=[column])
        points = np.column_stack([present[column] / unit, present["mask_AP_mean"]])
        colours = [style[variant].colour for variant in present["variant"]]
        label_points(axes, points, [wrap(variant, 22) for variant in present["variant"]], colours)
    return figure


def _ap_error(row: pd.Series) -> Any:
    mean, std, low, high = (row[f"mask_AP_{part}"] for part in ("mean", "std", "low", "high"))
    if not math.isnan(std):
        return std
    return None if math.isnan(low) else [[max(mean - low, 0)], [max(high - mean, 0)]]

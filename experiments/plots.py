"""The plots of a study: learning curves, and AP against cost. A plot without data is skipped, never empty."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from experiments.aggregate import Study
from experiments.tables import wrap
from instseg.files import write_atomically

# Okabe and Ito's colours, safe for colour-blind eyes, without their yellow, which is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_STYLE: Any = {
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
CURVES = {"loss_mask": "mask loss", "box_AP": "box AP (%)", "mask_AP": "mask AP (%)"}
Logs = dict[str, list[pd.DataFrame]]
# Share of the logged points that the smoothed loss is a mean over.
_SMOOTHED = 0.08


class Look(NamedTuple):
    """How one variant is drawn, in every plot; beyond seven variants marker and dash tell them apart too."""

    colour: str
    marker: str
    dash: Any


def looks(variants: list[str]) -> dict[str, Look]:
    """One look a variant, in the order of the tables."""
    found = {}
    for position, variant in enumerate(variants):
        turn, colour = divmod(position, len(_COLOURS))
        found[variant] = Look(_COLOURS[colour], _MARKERS[turn % 4], _DASHES[turn % 4])
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
    with mpl.rc_context(_STYLE):
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
    """Mask loss (smoothed; raw and each run faint) and box and mask AP over iterations, as far as logged; None
    where nothing is."""
    shown = [(key, title) for key, title in CURVES.items() if logged(logs, key)]
    if not shown:
        return None
    style = looks(order)
    figure = Figure(figsize=(4.6 * len(shown) + 0.4, 4.2 + 0.22 * math.ceil(len(order) / 3)), layout="constrained")
    figures = figure.subplots(1, len(shown), squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, (key, title) in zip(figures, shown, strict=True):
        for label in order:
            series = [log[key].dropna() for log in logs[label] if key in log and log[key].notna().any()]
            if series:
                handles[label] = _curve(axes, series, style[label], smooth=key == "loss_mask", label=label)
        axes.set(xlabel="iteration", title=title)
        axes.set_ylim(bottom=0)
        if key == "loss_mask":
            axes.set_ylim(top=_loss_top(axes))
    figure.legend(
        [handles[label] for label in order if label in handles],
        [wrap(label, 34) for label in order if label in handles],
        loc="outside lower center",
        ncols=min(3 if len(shown) > 1 else 1, len(handles)),
        handlelength=3,
    )
    return figure


def _curve(axes: Axes, series: list[pd.Series], look: Look, *, smooth: bool, label: str) -> Any:
    """Draw each run faint and their mean on top; gives the mean's line."""
    for one in series if smooth or len(series) > 1 else []:
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
        linewidth=1.5,
        marker="" if smooth else look.marker,
        markersize=4,
        label=label,
    )
    return line


def _loss_top(axes: Axes) -> float:
    """An upper limit that a few spikes of the raw loss don't set."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    means = [y for y, line in zip(lines, axes.get_lines(), strict=True) if not str(line.get_label()).startswith("_")]
    return 1.05 * max(float(np.nanpercentile(np.concatenate(lines), 99)), max(map(np.nanmax, means)))


def ap_against_cost(ap: pd.DataFrame, speed: pd.DataFrame, order: list[str]) -> Figure | None:
    """Mask AP against the mask head's time for 100 RoIs and, where known, images/s or else the head's FLOPs;
    None where no variant has both numbers. Bars: AP's deviation over runs, or its 95 % interval where there is
    one run; the range of the timings."""
    both = ap.merge(speed, on="variant").dropna(subset=["mask_AP_mean"])
    choices = (
        ("head_ms_median", "mask head: ms per 100 RoIs", 1.0),
        ("images_per_s_median", "whole model: images per second", 1.0),
        ("head_flops_per_roi", "mask head: MFLOP per RoI", 1e6),
    )
    panels = [choice for choice in choices if both[choice[0]].notna().any()][:2]
    if not panels:
        return None
    style = looks(order)
    figure = Figure(figsize=(6.4 * len(panels), 5.4), dpi=150, layout="constrained")
    for axes, (column, title, unit) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        present = both.dropna(subset=[column])
        for _, row in present.iterrows():
            look = style[row["variant"]]
            x = row[column] / unit
            low, high = (row.get(column.replace("median", end), math.nan) / unit for end in ("low", "high"))
            known = column.endswith("median") and not (math.isnan(low) or math.isnan(high))
            axes.errorbar(
                x,
                row["mask_AP_mean"],
                xerr=[[max(x - low, 0)], [max(high - x, 0)]] if known else None,
                yerr=_ap_error(row),
                fmt=look.marker,
                color=look.colour,
                markersize=7,
                elinewidth=1,
                capsize=2.5,
            )
        if present[column].max() > 20 * present[column].min() > 0:
            axes.set_xscale("log")
        axes.set(xlabel=title, ylabel="mask AP (%)")
        axes.margins(0.15)
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    bars = "deviation over runs" if both["mask_AP_std"].notna().any() else "95 % interval"
    figure.suptitle(f"Bars: {bars} of AP, range of the timings", fontsize=9, color="#555555")
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


def label_points(axes: Axes, points: np.ndarray, labels: list[str], colours: list[str]) -> None:
    """Write a label beside each point where it covers no other point or label and few error bars, as near as
    there is room, with a thin line to its point where it had to move away.

    Args:
        axes: axes with their final layout and limits.
        points: (N, 2) in data coordinates.
        labels, colours: N texts, and the colours of the lines to them.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    pixel = figure.dpi / 72
    places = axes.transData.transform(points)
    taken = [Bbox.from_bounds(x - 5 * pixel, y - 5 * pixel, 10 * pixel, 10 * pixel) for x, y in places]
    frame = axes.get_window_extent(renderer)
    segments = [s for lines in axes.collections if isinstance(lines, LineCollection) for s in lines.get_segments()]
    bars = [Bbox.from_extents(*axes.transData.transform(s).ravel()).padded(pixel) for s in segments]
    # Crowded points choose first.
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    for index in np.argsort(np.sort(distance, axis=1)[:, :4].sum(axis=1), kind="stable"):
        x, y = places[index]
        text = axes.text(0, 0, labels[index], fontsize=8.5, linespacing=0.95)
        size = text.get_window_extent(renderer)
        text.remove()
        best = None
        for radius in (9, 14, 20, 28, 38, 50, 64, 80):
            for angle in np.deg2rad([0, 180, 90, 270, 45, 135, 225, 315, 22, 158, 202, 338]):
                # The label's nearest side, not its middle, is at this distance.
                middle_x = x + np.cos(angle) * (radius * pixel + size.width / 2)
                middle_y = y + np.sin(angle) * (radius * pixel + size.height / 2)
                box = Bbox.from_bounds(middle_x - size.width / 2, middle_y - size.height / 2, size.width, size.height)
                outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
                cost = 100 * outside + 10 * box.count_overlaps(taken) + box.count_overlaps(bars) + radius / 15
                if best is None or cost < best[0]:
                    best = (cost, box, radius)
        assert best is not None
        taken.append(best[1])
        centre = ((best[1].x0 + best[1].x1) / 2, (best[1].y0 + best[1].y1) / 2)
        axes.annotate(
            labels[index],
            xy=tuple(points[index]),
            xytext=((centre[0] - x) / pixel, (centre[1] - y) / pixel),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            linespacing=0.95,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": colours[index], "lw": 0.7, "shrinkB": 4} if best[2] > 14 else None,
        )

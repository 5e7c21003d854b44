"""Learning curves: mask loss, box and mask AP over iterations, from the runs' logs."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.render.plot import MANY, Look, label_logarithms, looks
from experiments.render.table import wrap
from experiments.report.section import Content, Findings, Section

CURVES = {"loss_mask": "mask loss (each head's own)", "box_AP": "box AP (%)", "mask_AP": "mask AP (%)"}
Logs = dict[str, list[pd.DataFrame]]
# From this ratio on, losses need a logarithmic axis.
_LOG_FROM = 8
# Share of the logged points that the smoothed loss is a mean over.
_SMOOTHED = 0.08


def make(findings: Findings) -> Content:
    """``learning_curves.png|pdf``."""
    study, order = findings.study, findings.study.ordered(findings.baseline)
    logs = {
        label: [read_log(study.files.run(name) / "metrics.jsonl") for name in study.counted(label)["folder"]]
        for label in order
    }
    missing = [key for key in CURVES if not logged(logs, key)]
    skipped = [f"learning curves of {', '.join(missing)}: in no run's metrics.jsonl"] if missing else []
    return Content(figure=partial(learning_curves, logs, order), skipped=skipped)


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
    many = len(order) > MANY
    names = {label: wrap(label, 34) for label in order}
    # Inches, at most, that the legend's longest line of text and its line and gap take.
    entry = 0.75 + 0.08 * max(len(line) for name in names.values() for line in name.splitlines())
    width = max(4.6 * len(shown) + 0.4, 9.0 if many else 0.0)
    columns = max(1, min(len(order), int(width / entry)))
    height = (5.0 if many else 4.2) + 0.22 * math.ceil(len(order) / columns)
    figure = Figure(figsize=(width, height), layout="constrained")
    handles: dict[str, Line2D] = {}
    for axes, (key, title) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        # The baseline on top.
        for label in reversed(order):
            series = [log[key].dropna() for log in logs[label] if key in log and log[key].notna().any()]
            if series:
                handles[label] = _curve(axes, series, style[label], smooth=key == "loss_mask", label=label, many=many)
        axes.set(xlabel="iteration", title=title)
        _set_height(axes, loss=key == "loss_mask")
    drawn = [label for label in order if label in handles]
    figure.legend(
        [handles[label] for label in drawn],
        [names[label] for label in drawn],
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        handlelength=3,
    )
    return figure


def _curve(axes: Axes, series: list[pd.Series], look: Look, *, smooth: bool, label: str, many: bool) -> Line2D:
    """Draw each run faint, unless there are many variants, and their mean on top, as far as all runs go; gives the
    mean's line."""
    for run in series if (smooth or len(series) > 1) and not many else []:
        axes.plot(run.index, run, color=look.colour, alpha=0.22, linewidth=0.8)
    # runs may end apart; a mean over those that are left would jump
    together = pd.concat(series, axis=1).sort_index()
    mean = (shared if len(shared := together.dropna()) else together).mean(axis=1)
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
    """Limits of y at which the curves can be distinguished: from 0 unless all are far above it; logarithmic where one
    loss is many times another. A few spikes of the raw loss do not set the upper limit."""
    lines = axes.get_lines()
    values = [np.asarray(line.get_ydata(), dtype=float) for line in lines]
    means = [y for y, line in zip(values, lines, strict=True) if not str(line.get_label()).startswith("_")]
    low, high = min(map(np.nanmin, means)), max(map(np.nanmax, means))
    if loss and 0 < _LOG_FROM * low < high:
        axes.set_yscale("log")
        label_logarithms(axes.yaxis)
        axes.set_ylim(bottom=0.9 * low)
    elif low < high / 2:
        axes.set_ylim(bottom=0)
    if loss:
        axes.set_ylim(top=1.05 * max(float(np.nanpercentile(np.concatenate(values), 99)), high))


SECTION = Section("learning_curves", make, endings=(), figure="learning_curves")

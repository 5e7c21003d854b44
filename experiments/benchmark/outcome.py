"""The result of a benchmark: its rows, and how they become a table, CSV, Markdown and JSON files."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.config.apps import Benchmark
from experiments.config.run import Config
from experiments.render import plot as plots
from experiments.render.table import MISSING
from experiments.runs.provenance import now, provenance
from instseg import timing
from instseg.files import write_atomically

SHARE = "share_"
"""Prefix of the columns with a stage's share of the time."""
STAGES = {
    "transform": "#F0E442",
    "trunk": "#0072B2",
    "rpn": "#56B4E9",
    "box": "#009E73",
    "mask": "#D55E00",
    "paste": "#E69F00",
    "backward": "#CC79A7",
    "optimizer": "#000000",
    "rest": "#dddddd",
}
"""Stages in the order of a step and their colours; others come last."""
_HEADINGS = {
    "peak_memory_mib": "peak MiB",
    "gflop_per_image": "GFLOP/image",
    "detections_per_image": "detections/image",
    "mflop_per_roi": "MFLOP/RoI",
}


@dataclass
class Row:
    """The times of an implementation."""

    name: str
    seconds: list[float] = field(default_factory=list)
    """Of a call, a number for each round; empty where it was not run."""
    items: int = 1
    """Number of the result's units in a call."""
    base: str | None = None
    """Name of an earlier row, or its own, that it is compared with."""
    numbers: dict[str, float | str] = field(default_factory=dict)
    """Further columns."""
    note: str = ""


@dataclass
class BenchmarkResult:
    """A benchmark's rows; each comes after the one that it is compared with."""

    rows: list[Row]
    unit: str
    """Of ``Row.items``, in the plural."""
    measured: dict[str, Any]
    """Sizes, counts and other settings of the measurement."""
    notes: list[str] = field(default_factory=list)
    """Lines below the table."""
    plot: Callable[[pd.DataFrame, str], Figure] | None = None
    """Makes a figure of the frame and a caption."""


def frame(result: BenchmarkResult) -> pd.DataFrame:
    """A line for each row: ``name``, ``seconds_median|low|high`` of a call, ``compared_with`` and the ``ratio`` of the
    medians, ``<unit>_per_s_median|low|high``, the row's numbers and ``note``; nan where there is no value."""
    lines: list[dict[str, Any]] = []
    medians: dict[str, float] = {}
    for row in result.rows:
        line: dict[str, Any] = {"name": row.name}
        if row.seconds:
            rates = [row.items / s for s in row.seconds]
            line |= _spread("seconds", row.seconds)
            medians[row.name] = line["seconds_median"]
            ratio = medians[row.name] / medians[row.base] if row.base else math.nan
            line |= {"compared_with": row.base, "ratio": ratio, **_spread(f"{result.unit}_per_s", rates)}
        lines.append({**line, **row.numbers, "note": row.note})
    table = pd.DataFrame(lines)
    return table[[*table.columns.drop("note"), "note"]]


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {f"{name}_{part}": value for part, value in timing.spread(values).items()}


def text(table: pd.DataFrame, result: BenchmarkResult) -> str:
    """The frame as Markdown: times, the shares of stages where there are any, the ratios in words, and the notes."""
    rate = f"{result.unit}_per_s"
    shown = pd.DataFrame({"": table["name"]})
    if "seconds_median" in table:
        shown["ms (quartiles)"] = table.apply(_range, axis=1, key="seconds", unit=1000)
        shown["time to base"] = table["ratio"].map(figure)
        shown[f"{result.unit}/s (quartiles)"] = table.apply(_range, axis=1, key=rate, unit=1)
    for key in table.columns:
        if not key.startswith((rate, "seconds_", SHARE)) and key not in ("name", "ratio", "compared_with", "note"):
            shown[_HEADINGS.get(key, key.replace("_", " "))] = table[key].map(figure)
    parts = [_markdown(shown.assign(note=table["note"]))]
    shares = [f"{SHARE}{stage}" for stage in stages(table)]
    if shares:
        timed = table.dropna(subset=shares, how="all")
        percent = (100 * timed[shares]).map("{:.0f} %".format, na_action="ignore")
        percent.columns = percent.columns.str.removeprefix(SHARE)
        parts.append(_markdown(pd.concat([timed["name"].rename("share of the time in"), percent], axis=1)))
    comparisons = [
        f"{row['name']} takes {figure(row['ratio'])} times as long as {row['compared_with']}."
        for _, row in table.iterrows()
        if row.get("compared_with") not in (None, row["name"]) and pd.notna(row["ratio"])
    ]
    return "\n\n".join([*parts, "\n".join([*comparisons, *result.notes])]).rstrip()


def stages(table: pd.DataFrame) -> list[str]:
    """The stages that take half a percent of the time of a row or more, in the order of a step."""
    shares = table.filter(regex=f"^{SHARE}").max()
    large = shares.index[shares >= 0.005].str.removeprefix(SHARE)
    return [stage for stage in STAGES if stage in large] + [stage for stage in large if stage not in STAGES]


def write(result: BenchmarkResult, options: Benchmark, config: Config, device: Any) -> str:
    """Write ``<out>/<what>-<study>.csv|md|json`` and the plot, and return the text for the terminal."""
    table = frame(result)
    body = text(table, result)
    about = {**provenance(device), "finished": now()}
    stem = Path(options.out) / f"{options.what}-{options.study}"
    write_atomically(Path(f"{stem}.csv"), table.to_csv(index=False, lineterminator="\n"))
    commit = f"{about['commit']}{' with changes' if about['dirty'] else ''}"
    origin = f"{about['device']}; torch {about['versions']['torch']}; commit {commit}"
    settings = ", ".join(f"{key} {value}" for key, value in result.measured.items())
    write_atomically(Path(f"{stem}.md"), f"{body}\n\n{settings}\n\n{origin}\n")
    record = {
        "provenance": about,
        "what": {"what": options.what, "study": options.study, "rounds": options.rounds, **result.measured},
        "settings": config.settings(),
        "unit": result.unit,
        "rows": [asdict(row) for row in result.rows],
        "notes": result.notes,
    }
    write_atomically(Path(f"{stem}.json"), json.dumps(record, indent=1))
    if (make := result.plot) is not None:
        plots.draw(stem, lambda: make(table, f"{settings}; {about['device']}"))
    return f"{settings}\n{origin}\n\n{body}\n\nwritten: {stem}.*"


def figure(value: float | str) -> str:
    """A number with three figures and no exponent; words stay."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return MISSING
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _markdown(table: pd.DataFrame) -> str:
    filled = table.loc[:, [bool((table[column] != "").any()) for column in table]].fillna(MISSING)
    align = ["left" if column in (table.columns[0], "note") else "right" for column in filled]
    return str(filled.to_markdown(index=False, disable_numparse=True, colalign=align))


def _range(row: pd.Series, key: str, unit: float) -> str:
    median, low, high = (figure(unit * row[f"{key}_{part}"]) for part in ("median", "low", "high"))
    return median if median == MISSING else f"{median} ({low}–{high})"

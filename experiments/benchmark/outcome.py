"""What a benchmark found, as a table for people and as CSV, Markdown and JSON files."""

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
STAGES = ("transform", "trunk", "rpn", "box", "mask", "paste", "backward", "optimizer", "rest")
"""Stages in the order of a step; others come behind."""
_HEADINGS = {
    "peak_memory_mib": "peak MiB",
    "gflop_per_image": "GFLOP/image",
    "detections_per_image": "detections/image",
    "mflop_per_roi": "MFLOP/RoI",
}


@dataclass
class Row:
    """One implementation's times.

    Attributes:
        name: what was timed.
        seconds: of a call, one a round; empty where it was not run.
        items: how many of the outcome's units a call does.
        base: name of the row that it is compared with; None: it is not compared.
        numbers: further columns.
        note: what else must be said, such as why it was not run.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    items: int = 1
    base: str | None = None
    numbers: dict[str, float | str] = field(default_factory=dict)
    note: str = ""


@dataclass
class BenchmarkResult:
    """A benchmark's rows.

    Attributes:
        rows: the first one is what others are compared with, as a rule.
        unit: of ``Row.items``, in the plural.
        measured: what was measured: sizes, counts and the like.
        notes: lines to print below the table.
        plot: makes a figure of the frame, with a line on what was measured where.
    """

    rows: list[Row]
    unit: str
    measured: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    plot: Callable[[pd.DataFrame, str], Figure] | None = None


def frame(outcome: BenchmarkResult) -> pd.DataFrame:
    """One line a row: ``name, seconds_median|low|high`` of a call, ``ratio`` to the base's median, units a second
    and the further columns; empty where there is nothing."""
    rate = f"{outcome.unit}_per_s"
    lines: list[dict[str, Any]] = []
    medians: dict[str, float] = {}
    for row in outcome.rows:
        line: dict[str, Any] = {"name": row.name}
        if row.seconds:
            took = timing.spread(row.seconds)
            medians[row.name] = took["median"]
            line |= {f"seconds_{part}": value for part, value in took.items()}
            line["compared_with"] = row.base
            line["ratio"] = took["median"] / medians[row.base] if row.base else math.nan
            for part, value in timing.spread([row.items / s for s in row.seconds]).items():
                line[f"{rate}_{part}"] = value
        lines.append({**line, **row.numbers, "note": row.note})
    table = pd.DataFrame(lines)
    # whatever columns there are, words come last
    return table[[*table.columns.drop("note"), "note"]]


def text(table: pd.DataFrame, outcome: BenchmarkResult) -> str:
    """The frame as Markdown: times, then shares of stages where there are any, then notes and ratios in words."""
    rate = f"{outcome.unit}_per_s"
    shown = []
    for _, row in table.iterrows():
        cells = {"": row["name"]}
        if "seconds_median" in table:
            cells["ms (quartiles)"] = _range(row, "seconds", 1000)
            cells["time to base"] = _figure(row["ratio"])
            cells[f"{outcome.unit}/s (quartiles)"] = _range(row, rate, 1)
        for key in table.columns:
            if key.startswith((rate, "seconds_", SHARE)) or key in ("name", "ratio", "compared_with", "note"):
                continue
            cells[_HEADINGS.get(key, key.replace("_", " "))] = (
                row[key] if isinstance(row[key], str) else _figure(row[key])
            )
        shown.append({**cells, "note": row["note"]})
    parts = [_markdown(pd.DataFrame(shown))]
    shares = [f"{SHARE}{stage}" for stage in stages(table)]
    if shares:
        some = table.dropna(subset=shares, how="all")
        lines = [
            {"share of the time in": row["name"], **{key.removeprefix(SHARE): _percent(row[key]) for key in shares}}
            for _, row in some.iterrows()
        ]
        parts.append(_markdown(pd.DataFrame(lines)))
    words = []
    for _, row in table.iterrows():
        if row.get("compared_with") and row["compared_with"] != row["name"] and row["ratio"] == row["ratio"]:
            words.append(f"{row['name']} takes {_figure(row['ratio'])} times as long as {row['compared_with']}.")
    return "\n\n".join([*parts, "\n".join([*words, *outcome.notes])]).rstrip()


def stages(table: pd.DataFrame) -> list[str]:
    """The stages that take half a percent of any row's time, in the order of a step."""
    shares = table[[column for column in map(str, table) if column.startswith(SHARE)]].max()
    found = [column.removeprefix(SHARE) for column in map(str, shares.index) if shares[column] >= 0.005]
    return sorted(found, key=lambda stage: STAGES.index(stage) if stage in STAGES else len(STAGES))


def write(outcome: BenchmarkResult, options: Benchmark, config: Config, device: Any) -> str:
    """Write ``<out>/<what>-<study>.csv|md|json`` and the plot, and return the text for the terminal."""
    table = frame(outcome)
    words = text(table, outcome)
    about = {**provenance(device), "finished": now()}
    stem = Path(options.out) / f"{options.what}-{options.study}"
    write_atomically(stem.with_name(f"{stem.name}.csv"), table.to_csv(index=False, na_rep="", lineterminator="\n"))
    commit = f"{about['commit']}{' with changes' if about['dirty'] else ''}"
    origin = f"{about['device']}; torch {about['versions']['torch']}; commit {commit}"
    settings = ", ".join(f"{key} {value}" for key, value in outcome.measured.items())
    write_atomically(stem.with_name(f"{stem.name}.md"), f"{words}\n\n{settings}\n\n{origin}\n")
    record = {
        "provenance": about,
        "what": {"what": options.what, "study": options.study, "rounds": options.rounds, **outcome.measured},
        "settings": config.settings(),
        "unit": outcome.unit,
        "rows": [asdict(row) for row in outcome.rows],
        "notes": outcome.notes,
    }
    write_atomically(stem.with_name(f"{stem.name}.json"), json.dumps(record, indent=1))
    if outcome.plot is not None:
        make = outcome.plot
        plots.draw(stem, lambda: make(table, f"{settings}; {about['device']}"))
    return f"{settings}\n{origin}\n\n{words}\n\nwritten: {stem}.*"


def _markdown(table: pd.DataFrame) -> str:
    filled = table.loc[:, [bool((table[column] != "").any()) for column in table]].fillna(MISSING)
    words = [column in ("", "note") or column == table.columns[0] for column in filled]
    align = ["left" if word else "right" for word in words]
    return str(filled.to_markdown(index=False, disable_numparse=True, colalign=align))


def _figure(value: float) -> str:
    """Three figures and no exponent."""
    if not isinstance(value, int | float) or math.isnan(value):
        return MISSING
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _percent(value: float) -> str:
    return MISSING if math.isnan(value) else f"{100 * value:.0f} %"


def _range(row: pd.Series, key: str, unit: float) -> str:
    median, low, high = (_figure(unit * row[f"{key}_{part}"]) for part in ("median", "low", "high"))
    return median if median == MISSING else f"{median} ({low}–{high})"

"""A plan as people read it."""

import math
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from experiments.plan.outlooks import Outlooks, Row
from experiments.render import table
from instseg.statistics.power import PARTS

_ROUGH = 5
"""Degrees of freedom below which a spread is called rough."""


def text(outlooks: Outlooks) -> str:
    """Tables of comparisons and designs, the answer, and notes."""
    planned, detect, power = outlooks.planned, outlooks.options.detect, outlooks.options.power
    plural = "s" if planned.folds > 1 else ""
    parts = [
        f"study {planned.first.study.name}: {len(planned.configs)} runs, {len(planned.study.variants)} variants, "
        f"{planned.seeds} seeds, {planned.folds} fold{plural} of {outlooks.images} test images\n"
        f"judged by mask AP, margin {outlooks.margin:g}; comparisons that are judged together: {outlooks.comparisons}",
        table.fitted(_comparisons(outlooks)),
        "Images to training set: standard deviations of the difference in AP points, for one seed on one fold; runs: "
        "those\nof the pilot. Detectable: the smallest true difference that gets a verdict of better or worse with "
        f"probability {power:g}\nand {_seeds(outlooks.as_planned.seeds)}, as planned. Seeds needed: for "
        f"detect={detect:g}.",
        table.fitted(_designs(outlooks)),
        f"Told at {detect:g}: chance of that verdict where the true difference is {detect:g} AP; equivalent at 0: of "
        "equivalent\nwhere the heads are equal. A range is over the comparisons.",
        *_answer(outlooks),
    ]
    return "\n\n".join(parts) + "\n\n" + "".join(f"note: {note}\n" for note in _notes(outlooks))


def _comparisons(outlooks: Outlooks) -> pd.DataFrame:
    rows, as_planned = [], outlooks.as_planned
    for i, expected in enumerate(outlooks.expected):
        enough = outlooks.enough(i)
        rows.append(
            {
                "comparison": str(expected),
                **{name.replace("_", " "): f"{getattr(expected.spreads, name):.2f}" for name in PARTS},
                "runs": str(expected.pilot.runs) if expected.pilot else table.MISSING,
                "detectable": points(as_planned.detectable[i]),
                "seeds needed": str(enough.seeds) if enough else f"> {outlooks.rows[-1].seeds}",
            }
        )
    return pd.DataFrame(rows)


def _designs(outlooks: Outlooks) -> pd.DataFrame:
    rows = [
        {
            "seeds": str(row.seeds),
            "detectable": _range([points(value) for value in (min(row.detectable), max(row.detectable))]),
            f"told at {outlooks.options.detect:g}": _range(_percent(row.told)),
            "equivalent at 0": _range(_percent(row.equivalent)),
            "hours": hours(row.hours),
        }
        for row in outlooks.rows
    ]
    return pd.DataFrame(rows)


def _percent(chances: Sequence[float]) -> list[str]:
    return [f"{100 * chance:.0f} %" for chance in (min(chances), max(chances))]


def _range(ends: Sequence[str]) -> str:
    low, high = ends
    return low if low == high else f"{low.removesuffix(' %')}–{high}"


def points(value: float) -> str:
    """A difference in AP points; a dash where none can be told."""
    return table.MISSING if math.isinf(value) else table.number(value, 1)


def hours(value: float) -> str:
    """Hours, small ones with a figure behind the point that says something."""
    return table.number(value, 2 if value < 1 else 1)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _answer(outlooks: Outlooks) -> list[str]:
    options, as_planned = outlooks.options, outlooks.as_planned
    asked = f"detect={options.detect:g} with power={options.power:g}"
    enough = outlooks.enough_for_all()
    if enough is not None:
        lines = [f"{asked} needs {_seeds(enough.seeds)}{_taking(enough)}."]
    else:
        worst = max(range(outlooks.comparisons), key=lambda i: outlooks.rows[-1].detectable[i])
        most = outlooks.rows[-1].seeds
        lines = [f"{asked}: no number of seeds up to {most} will do for {outlooks.expected[worst]}."]
        if (images := outlooks.images_needed(worst)) is not None:
            lines.append(f"With {_seeds(most)} it would take about {images:,} test images a fold.")
        else:
            lines.append("More test images alone would not help: trainings differ by too much.")
        if outlooks.planned.folds > 1 and (folds := outlooks.folds_needed(worst)) is not None:
            lines.append(f"With {_seeds(most)} it would take about {folds:,} folds of as many test images.")
    lines.append(_told(as_planned, "as planned"))
    if options.hours is not None:
        affordable = [row for row in outlooks.rows if row.hours <= options.hours]
        if affordable:
            lines.append(_told(affordable[-1], f"for which hours={options.hours:g} is enough"))
        elif not math.isnan(as_planned.hours):
            lines.append(f"hours={options.hours:g} is not enough for {_seeds(outlooks.rows[0].seeds)}.")
    return ["\n".join(lines)]


def _told(row: Row, why: str) -> str:
    if math.isinf(max(row.detectable)):
        return f"With {_seeds(row.seeds)}, {why}, there is no verdict: two seeds are needed."
    can_be = _range([points(min(row.detectable)), points(max(row.detectable))])
    return f"With {_seeds(row.seeds)}, {why}{_taking(row)}, differences of {can_be} AP can be told."


def _taking(row: Row) -> str:
    return "" if math.isnan(row.hours) else f" ({hours(row.hours)} hours)"


def _notes(outlooks: Outlooks) -> list[str]:
    planned, pilot, options, notes = outlooks.planned, outlooks.pilot, outlooks.options, list(outlooks.planned.notes)
    given = options.given_spreads()
    if given:
        notes.append(f"given spreads: {', '.join(f'{key} {value:g}' for key, value in given.items())}")
    if options.detect < outlooks.margin:
        notes.append(
            f"detect={options.detect:g} is within the margin of {outlooks.margin:g} AP: a study that measures such a "
            "difference well calls the heads equivalent"
        )
    if pilot is None:
        notes.append("hours are not known: timing needs a finished run, of this study or of pilot=STUDY")
        return notes
    notes += _on_spreads(outlooks)
    by_group = planned.first.protocol == "frozen_core"
    if math.isnan(outlooks.as_planned.hours):
        notes.append(f"hours are not known: the pilot has no run of protocol {planned.first.protocol}")
    else:
        what = "a pass trains all heads of a fold and seed" if by_group else "by the seconds of each head's runs"
        without = ", without the trials of the tuning" if planned.first.tuning else ""
        notes.append(
            f"hours as of pilot {pilot.study.folder.name} on {pilot.devices}: {what}, "
            f"runtime.jobs={planned.first.runtime.jobs}{without}"
        )
    return notes


def _on_spreads(outlooks: Outlooks) -> list[str]:
    planned, pilot, given = outlooks.planned, outlooks.pilot, outlooks.options.given_spreads()
    assert pilot is not None
    notes = []
    rests = [each.pilot for each in outlooks.expected if each.pilot is not None]
    if len(rests) < len(outlooks.expected) and set(PARTS) - given.keys():
        unknown = [str(each) for each in outlooks.expected if each.pilot is None]
        notes.append(f"no two pilot runs of {', '.join(unknown)}: root mean squares of the pilot's other comparisons")
    if rests and "training" not in given:
        df = min(rest.seed_df for rest in rests)
        if df == 0:
            notes.append(
                "the pilot has one seed a fold: all that folds differ by beyond their images is taken for their "
                "training sets, and nothing is promised of more seeds"
            )
        elif df < _ROUGH:
            notes.append(f"spreads of training are rough: {_freedom(df)}")
    if rests and planned.folds > 1 and "training_set" not in given:
        df = min(rest.fold_df for rest in rests)
        if df == 0:
            notes.append("one fold tells nothing of training sets: their spread is taken for 0; spread.training_set=AP")
        elif df < _ROUGH:
            notes.append(f"spreads of training sets are rough: {_freedom(df)}")
    if differing := _differing(outlooks):
        notes.append(f"the pilot's runs differ from the planned ones in {', '.join(differing)}")
    return notes


def _freedom(df: int) -> str:
    low, high = (math.sqrt(df / stats.chi2.ppf(q, df)) for q in (0.9, 0.1))
    degrees = f"{df} degree{'s' if df > 1 else ''} of freedom"
    return f"with {degrees} the true one is {low:.1f} to {high:.1f} times as large, with probability 0.8"


def _differing(outlooks: Outlooks) -> list[str]:
    """Keys of the settings that all planned runs have in common, and some pilot run has otherwise."""
    assert outlooks.pilot is not None
    planned = outlooks.planned.settings
    found = set()
    for row in outlooks.pilot.study.counted_rows():
        settings = {**row["settings"], "iterations": row["iterations"]}
        found |= {key for key in planned.keys() & settings.keys() if planned[key] != settings[key]}
    return sorted(found)

"""How long each variant was trained, and whether it was still getting better when training stopped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.render import table
from experiments.report.curves import read_log
from experiments.report.section import Content, Findings, Section
from experiments.runs.study import Study
from instseg.statistics.estimate import UNKNOWN, Estimate
from instseg.statistics.trend import mean_over_runs, slope
from instseg.training.plateau import MASK_LOSS

LAST = 0.2
"""The part of training, at its end, that slopes are of."""
FEWEST = 4
"""Scores of AP in that part below which the slope is that of the loss."""
LEAST = {"mask AP": 0.5, "mask loss": 2.0}
"""Smallest change over that part that counts: points of AP, or percent of the loss."""


@dataclass(frozen=True)
class Trend:
    """How the training of a variant ended.

    Attributes:
        limit: ``schedule.iterations``.
        trained: iterations that each run was trained.
        until_plateau: whether the runs were to end on a plateau.
        limits_reached: of such runs, how many ended by the limit.
        measure: what the slope is of, ``mask AP`` or ``mask loss``; empty where no log tells.
        slope: of AP in points per 1,000 iterations, of the loss in percent of it per tenth of training.
        change: over the last fifth, in points of AP or percent of the loss.
    """

    label: str
    limit: int
    trained: list[int]
    until_plateau: bool
    limits_reached: int
    measure: str
    slope: Estimate
    change: float

    @property
    def is_rising(self) -> bool | None:
        """Whether the interval of the slope excludes 0 on the side of getting better, by a change that counts; None
        where there is no interval."""
        sign = -1 if self.measure == "mask loss" else 1
        nearest = min(sign * end for end in self.slope.interval())
        return None if math.isnan(nearest) else nearest > 0 and sign * self.change > LEAST[self.measure]


def trends(study: Study, labels: Sequence[str]) -> list[Trend]:
    """How the training of each variant ended, from the runs that count and their logs."""
    return [_trend(study, label) for label in labels]


def _trend(study: Study, label: str) -> Trend:
    runs = study.counted(label)
    ends: list[tuple[int, pd.Series, pd.Series]] = []
    for name, trained, tail in zip(runs["folder"], runs["trained_iterations"], runs["tail_start"], strict=True):
        log = read_log(study.files.run(name) / "metrics.jsonl")
        # in the tail the falling rate takes the loss with it
        end = int(trained if pd.isna(tail) else tail)
        losses = log.filter(regex=f"^{MASK_LOSS}").sum(axis=1, min_count=1)
        scores = log["mask_AP"] if "mask_AP" in log else pd.Series(dtype=float)
        ends.append((end, _last(scores, end), _last(losses, end)))
    by_score = all(len(scores) >= FEWEST for _, scores, _ in ends)
    slopes, changes = [], []
    for end, scores, losses in ends:
        points = scores if by_score else losses
        each = slope(points.index, points)
        # to points of AP per 1,000 iterations, or percent per tenth
        unit = 1000.0 if by_score else 100 * end / 10 / float(points.mean()) if len(points) else math.nan
        slopes.append(Estimate.of(each.value * unit, each.error * unit, each.df) if each != UNKNOWN else UNKNOWN)
        changes.append(slopes[-1].value * (LAST * end / 1000 if by_score else LAST * 10))
    mean = mean_over_runs(slopes)
    known = not math.isnan(mean.value)
    return Trend(
        label,
        limit=int(runs["iterations"].iloc[0]),
        trained=[int(each) for each in runs["trained_iterations"]],
        until_plateau=bool(runs["limit_reached"].notna().any()),
        limits_reached=sum(each is True for each in runs["limit_reached"]),
        measure=("mask AP" if by_score else "mask loss") if known else "",
        slope=mean,
        change=float(np.nanmean(changes)) if known else math.nan,
    )


def _last(points: pd.Series, end: int) -> pd.Series:
    """Points of a log, by iteration, in the last part of so many iterations."""
    return points[(points.index > (1 - LAST) * end) & (points.index <= end)].dropna()


def make(findings: Findings) -> Content:
    """``trained.csv|md|tex``."""
    ends = trends(findings.study, findings.study.ordered(findings.baseline))
    note = (
        "Iterations: mean over runs (least to most). Slope: over the last fifth of training, or with "
        "schedule.until=plateau of what comes before the rate goes down; of mask AP on held-out images in points per "
        f"1,000 iterations where it was logged {FEWEST} times or more, else of the mask loss in percent of it per "
        "tenth of training; with a 95 % interval over runs, or over blocks of a single run. Still rising: the interval "
        f"excludes 0, AP rises or the loss falls, and the last fifth changed AP by more than {LEAST['mask AP']} or the "
        f"loss by more than {LEAST['mask loss']:.0f} %. Where the rate goes down to 0 a flat end does not show that "
        f"longer training gives nothing. {table.MISSING}: not logged."
    )
    shown = text(ends)
    told = any(each.until_plateau or each.is_rising for each in ends)
    skipped = [] if any(each.measure for each in ends) else ["slopes when training stopped: in no run's metrics.jsonl"]
    lines = [table.fitted(shown), *filter(None, [caption(ends).strip()])] if told else []
    return Content(table.Table(numbers(ends), shown, note), text=lines, skipped=skipped)


def caption(ends: Sequence[Trend]) -> str:
    """What a table of AP should say of the training, sentences that begin with a space; empty where there is nothing
    to say."""
    sentence = ""
    if any(each.until_plateau for each in ends):
        sentence = (
            " Trained until the mask loss no longer fell: iterations are the limit, trained.csv has the real ones."
        )
    if rising := [each.label for each in ends if each.is_rising]:
        sentence += f" Still rising when training stopped: {', '.join(rising)}."
    return sentence


def numbers(ends: Sequence[Trend]) -> pd.DataFrame:
    """The table for machines, one row a variant; ``results/README.md`` says what each column is."""
    rows: list[dict[str, Any]] = [
        {
            "variant": each.label,
            "n": len(each.trained),
            "iterations": each.limit,
            "trained_mean": float(np.mean(each.trained)),
            "trained_min": min(each.trained),
            "trained_max": max(each.trained),
            "limit_reached": each.limits_reached if each.until_plateau else None,
            "measure": each.measure or None,
            "slope": each.slope.value,
            "slope_low": each.slope.low,
            "slope_high": each.slope.high,
            "change": each.change,
            "still_rising": each.is_rising,
        }
        for each in ends
    ]
    return pd.DataFrame(rows)


def text(ends: Sequence[Trend]) -> pd.DataFrame:
    """The table as people read it."""
    rows = []
    for each in ends:
        least, most = min(each.trained), max(each.trained)
        iterations = table.number(float(np.mean(each.trained)), 0, comma=True)
        cells = {
            "variant": each.label,
            "iterations": iterations if least == most else f"{iterations} ({least:,}–{most:,})",
            "limit reached": f"{each.limits_reached} of {len(each.trained)}" if each.until_plateau else table.MISSING,
            "slope of": each.measure or table.MISSING,
            "slope [95 %]": _slope(each.slope),
            "still rising": table.cell(each.is_rising),
        }
        rows.append(cells)
    return pd.DataFrame(rows)


def _slope(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return table.MISSING
    return f"{table.signed(estimate.value)} [{table.signed(estimate.low)}, {table.signed(estimate.high)}]"


SECTION = Section("trained", make)

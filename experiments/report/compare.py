"""A study's runs -> one row a variant: means, deviations, and differences to the baseline with intervals."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pycocotools.coco import COCO

from experiments.runs.study import METRICS, Study
from instseg.errors import DataError
from instseg.evaluation import coco
from instseg.evaluation.coco import Kind
from instseg.evaluation.matches import Matches, match
from instseg.statistics.estimate import Estimate, Spread, holm
from instseg.statistics.resampling import RunKey, average_precision, own_interval, paired_difference, pooled_spread

ALPHA = 0.05
"""Chance of a false alarm among the differences of one kind."""
NOTHING = Estimate(math.nan, math.nan, math.nan)
# Recomputed AP may differ from result.json by rounding of scores and boxes, not by more.
_AP_TOLERANCE = 0.1
# By variant, then by (fold, seed): which ground truth, and the matches.
_Matched = dict[str, dict[RunKey, tuple[str, Matches]]]


def compare(study: Study, baseline: str, resamples: int = 1000) -> pd.DataFrame:
    """One row a variant, the baseline first; notes are added to ``study.notes``.

    Columns: ``variant, is_baseline, compared_with, protocol, dataset, trunk, iterations, n, folds`` (runs and folds),
    for each kind of ``study.kinds`` and each metric ``<kind>_<metric>_mean|_std|_n`` (percent; sample deviation over
    runs), for each kind's AP ``_low|_high`` (95 % interval) and ``_diff|_diff_low|_diff_high|_diff_n`` (to the
    baseline, over the pairs of runs with the same fold, seed and ground truth), ``_diff_p``, and with Holm's correction
    for all the differences of the kind ``_diff_p_holm``, ``_diff_holm_low|_diff_holm_high`` and ``_real``: whether that
    interval excludes 0, None where there is none.
    """
    matches = _match_runs(study)
    labels = study.ordered(baseline)
    rivals = {label: rival_of(study, label, baseline) for label in labels}
    spreads = {kind: _Spreads(matches[kind], rivals, resamples) for kind in study.kinds}
    differences: dict[Kind, list[Estimate]] = {kind: [] for kind in study.kinds}
    rows: list[dict[str, Any]] = []
    for label in labels:
        runs = study.counted(label)
        other = study.baseline_of(label, baseline)
        differing = _other_settings(runs, study.counted(other)) if other is not None else []
        rival = rivals[label]
        row: dict[str, Any] = {"variant": label, "is_baseline": label == other, "compared_with": other}
        row |= {key: runs[key].iloc[0] for key in ("protocol", "dataset", "trunk", "iterations")}
        row |= {"n": len(runs), "folds": runs["fold"].nunique()}
        for kind in study.kinds:
            for metric in METRICS:
                column = f"{kind}_{metric}"
                values = runs[column].dropna() if column in runs else pd.Series(dtype=float)
                row |= {f"{column}_mean": values.mean(), f"{column}_std": values.std(ddof=1)}
                row[f"{column}_n"] = len(values)
            found, judged = _intervals(matches[kind], label, rival, f"{kind}_AP", resamples, spreads[kind])
            row |= found
            differences[kind].append(judged)
        if differing:
            study.notes.append(
                f"{label} and {other} differ in {', '.join(differing)}: no difference is given, as it would not be the "
                "head's alone"
            )
        elif other is not None and other != label and not row["mask_AP_diff_n"]:
            study.notes.append(f"{label}: no run has the fold, seed and ground truth of a run of {other}")
        given = [kind for kind in study.kinds if not math.isnan(row[f"{kind}_AP_diff"])]
        bare = [kind for kind in given if math.isnan(differences[kind][-1].value)]
        if bare:
            study.notes.append(unjudged_note(label, f"{', '.join(bare)} AP", rival, row[f"{bare[0]}_AP_diff_n"]))
        rows.append(row)
    for kind, of_rows in differences.items():
        for row, corrected in zip(rows, _corrected(of_rows, f"{kind}_AP"), strict=True):
            row |= corrected
    if all(row["compared_with"] is None for row in rows):
        why = "is no single variant" if baseline in set(study.runs["name"]) else "has no finished run"
        study.notes.append(f"baseline {baseline!r} {why}, so differences are –; variants: {', '.join(labels)}")
    return pd.DataFrame(rows)


def _other_settings(runs: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """Keys of the configuration, the head's apart, in which two variants differ."""
    mine, theirs = ({"protocol": one["protocol"].iloc[0], **one["settings"].iloc[0]} for one in (runs, others))
    return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))


def rival_of(study: Study, label: str, baseline: str) -> str | None:
    """The variant that one is compared with; None where they differ in more than the head."""
    other = study.baseline_of(label, baseline)
    if other is None or _other_settings(study.counted(label), study.counted(other)):
        return None
    return other


class _Spreads:
    """The spread between seeds or folds in the differences to a variant, told by all variants that have the runs."""

    def __init__(self, matched: _Matched, rivals: dict[str, str | None], resamples: int) -> None:
        self._matched, self._rivals, self._resamples = matched, rivals, resamples
        self._known: dict[tuple[str, tuple[RunKey, ...]], Spread | None] = {}

    def over(self, rival: str, keys: list[RunKey]) -> Spread | None:
        """Over the runs (fold, seed) that a difference to ``rival`` is of."""
        known = rival, tuple(sorted(keys))
        if known not in self._known:
            truths = {key: self._matched[rival][key][0] for key in keys}
            alike = [
                {key: self._matched[label][key][1] for key in keys}
                for label, other in self._rivals.items()
                if other == rival and all(self._matched[label].get(k, ("",))[0] == truth for k, truth in truths.items())
            ]
            self._known[known] = pooled_spread(alike, self._resamples)
        return self._known[known]


def _intervals(
    matched: _Matched, label: str, other: str | None, column: str, resamples: int, spreads: _Spreads
) -> tuple[dict[str, float], Estimate]:
    """Own interval of AP and the paired difference where there is one; and that difference again, to be corrected and
    marked, where it is over enough runs for it."""
    mine = matched[label]
    own = own_interval({key: one for key, (_, one) in mine.items()}, resamples) if mine else NOTHING
    theirs = matched[other] if other is not None and other != label else {}
    shared = [key for key in mine if key in theirs and mine[key][0] == theirs[key][0]]
    difference = NOTHING
    if shared:
        a, b = ({key: runs[key][1] for key in shared} for runs in (mine, theirs))
        assert other is not None
        difference = paired_difference(a, b, resamples, spread=spreads.over(other, shared)).difference
    numbers = {
        # no AP lies outside
        f"{column}_low": max(own.low, 0.0),
        f"{column}_high": min(own.high, 100.0),
        f"{column}_diff": difference.value,
        f"{column}_diff_low": difference.low,
        f"{column}_diff_high": difference.high,
        f"{column}_diff_n": len(shared),
        f"{column}_diff_p": difference.p,
    }
    return numbers, difference if comparable_runs(shared, list(theirs)) else NOTHING


def comparable_runs(shared: Sequence[RunKey], theirs: Sequence[RunKey]) -> bool:
    """Whether an interval over the shared runs is of more than one seed, and of more than one fold, where one over
    all runs of the other variant would be. A mark of a narrower one would not mean what the others' do."""
    folds, of_all = ({fold for fold, _ in keys} for keys in (shared, theirs))
    return (len(shared) > 1 or len(theirs) < 2) and (len(folds) > 1 or len(of_all) < 2)


def unjudged_note(label: str, what: str, rival: str | None, pairs: int) -> str:
    """Why a difference has neither a corrected interval nor a mark."""
    shared = f"{pairs} run{'s' if pairs > 1 else ''}"
    return f"{label}: shares {shared} with {rival}, of one seed or fold where there are more: {what} get no mark"


def _corrected(differences: list[Estimate], column: str) -> list[dict[str, float | bool | None]]:
    """What Holm's correction makes of differences that are judged together."""
    found = []
    for difference, factor in zip(differences, holm([one.p for one in differences]), strict=True):
        low, high = difference.interval(ALPHA / factor)
        row: dict[str, float | bool | None] = {
            f"{column}_diff_p_holm": min(1.0, difference.p * factor) if factor == factor else math.nan,
            f"{column}_diff_holm_low": low,
            f"{column}_diff_holm_high": high,
            f"{column}_real": low > 0 or high < 0 if factor == factor else None,
        }
        found.append(row)
    return found


def _match_runs(study: Study) -> dict[Kind, _Matched]:
    """Match every counted run's predictions once; a run whose files can't be used gets a note instead."""
    truths: dict[str, COCO] = {}
    matched: dict[Kind, _Matched] = {kind: {label: {} for label in study.variants} for kind in study.kinds}
    for row in study.runs[study.runs["counted"]].to_dict("records"):
        truth = str(row["ground_truth"])
        try:
            if truth not in truths:
                truths[truth] = load_ground_truth(study.folder / truth)
            found = study.results(row["folder"])
            for kind in coco.IOU_TYPES:  # boundaries need what masks do
                coco.check_results(truths[truth].dataset, found, kind)
            # results of before boundary AP don't have it
            kinds = [kind for kind in study.kinds if kind != "boundary" or not math.isnan(row["boundary_AP"])]
            of_kinds = {kind: match(truths[truth], found, kind) for kind in kinds}
        except (DataError, OSError, ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            study.notes.append(f"{row['folder']}: no interval, its predictions can't be scored ({reason})")
            continue
        for kind, matches in of_kinds.items():
            matched[kind][row["variant"]][row["fold"], row["seed"]] = (truth, matches)
            again = float(average_precision(matches)[0])
            if abs(again - row[f"{kind}_AP"]) > _AP_TOLERANCE:
                study.notes.append(
                    f"{row['folder']}: {study.predictions} gives {kind} AP {again:.2f}, "
                    f"its metrics say {row[f'{kind}_AP']:.2f}"
                )
    return matched


def load_ground_truth(path: Path) -> COCO:
    """The index of a ground truth file."""
    return coco.load(json.loads(path.read_text(encoding="utf-8")))

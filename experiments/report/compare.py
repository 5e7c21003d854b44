"""A study's runs -> what is said of each variant: means, deviations, and differences to the baseline with verdicts."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pycocotools.coco import COCO

from experiments.render import table
from experiments.runs.study import MAIN, METRICS, REQUIRED, Study
from instseg.evaluation import coco
from instseg.evaluation.coco import Kind
from instseg.evaluation.matches import match
from instseg.statistics.estimate import UNKNOWN
from instseg.statistics.resampling import RunKey, RunScores, differences, mean_over_runs, score_run
from instseg.statistics.verdict import MARGIN, Comparison, Interval, judge

SETTINGS = ("protocol", "dataset", "trunk", "iterations")
"""What tables say of a variant's runs."""
AP_TOLERANCE = 0.1
"""Recomputed AP may differ from ``result.json`` by rounding of scores and boxes, not by more."""

Scores = dict[Kind, dict[str, dict[RunKey, RunScores]]]
"""AP of runs on resampled images, by kind, by variant."""


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation of a number over the ``n`` runs that have it; as text ``71.2 ± 0.4``, or what
    of it is known."""

    mean: float = math.nan
    std: float = math.nan
    n: float = math.nan

    @classmethod
    def over(cls, values: pd.Series) -> "Mean":
        """Over the runs that have the number."""
        values = values.dropna().astype(float)
        return cls(values.mean(), values.std(ddof=1), len(values))

    def columns(self, name: str) -> dict[str, float]:
        """As columns of a CSV file."""
        return {f"{name}_mean": self.mean, f"{name}_std": self.std, f"{name}_n": self.n}

    def __str__(self) -> str:
        texts = table.number(self.mean, 1), table.number(self.std, 1)
        return texts[0] if table.MISSING in texts else " ± ".join(texts)


def difference_columns(comparison: Comparison, prefix: str = "") -> dict[str, Any]:
    """A difference as it was measured, as columns of a CSV file."""
    low, high = comparison.interval
    measured = {"": comparison.value, "_low": low, "_high": high, "_n": comparison.runs, "_p": comparison.p}
    return {f"{prefix}diff{name}": value for name, value in measured.items()}


def verdict_columns(comparison: Comparison, prefix: str = "") -> dict[str, Any]:
    """What the correction makes of it, what could have been detected, and the verdict."""
    low, high = comparison.corrected_interval
    corrected: dict[str, Any] = {"diff_corrected_low": low, "diff_corrected_high": high}
    corrected |= {"diff_p_holm": comparison.corrected_p, "diff_detectable": comparison.detectable}
    return {f"{prefix}{name}": value for name, value in (corrected | {"verdict": comparison.verdict}).items()}


@dataclass(frozen=True)
class VariantScores:
    """One variant's numbers over its runs.

    Attributes:
        compared_with: label of the baseline, which may be the variant itself; None where there is no single one.
        settings: of its runs, each of :data:`SETTINGS`.
        runs, folds: their number, and that of the folds that they are of.
        metrics: of each kind each of :data:`experiments.runs.study.METRICS`, in percent.
        intervals: of each kind the 95 % interval of AP.
        comparisons: of each kind the difference of AP to the baseline.
    """

    label: str
    compared_with: str | None
    settings: dict[str, Any]
    runs: int
    folds: int
    metrics: dict[Kind, dict[str, Mean]]
    intervals: dict[Kind, Interval]
    comparisons: dict[Kind, Comparison]

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with it."""
        return self.label == self.compared_with


@dataclass(frozen=True)
class StudyScores:
    """All variants, the baseline first, the kinds of AP that they have, and what a reader should know of them."""

    variants: list[VariantScores]
    kinds: list[Kind]
    notes: list[str]

    @property
    def order(self) -> list[str]:
        """The labels."""
        return [variant.label for variant in self.variants]

    @property
    def rivals(self) -> dict[str, str]:
        """The variants that have a difference of mask AP, each with the baseline it is to."""
        main = [variant.comparisons[MAIN] for variant in self.variants]
        return {each.variant: each.rival for each in main if each.exists and each.rival is not None}


def ranked(variants: Iterable[VariantScores]) -> list[VariantScores]:
    """The best masks last, as plots count rows from below; first those without mask AP."""
    return sorted(variants, key=lambda variant: float(np.nan_to_num(variant.metrics[MAIN]["AP"].mean, nan=-1.0)))


def add_scores(
    scores: Scores, run: Mapping[str, Any], truth: COCO, results: coco.Results, file: str, resamples: int
) -> list[str]:
    """Add AP of one run, on its images and resamples of them, to each kind of ``scores`` that it was scored by.

    Args:
        run: its row of ``study.runs``.
        truth, results: as :class:`experiments.runs.study_files.StudyFiles` gives them.

    Returns:
        A line for each kind of which the results, of ``file``, give another AP than the run's metrics say.
    """
    notes = []
    for kind, by_variant in scores.items():
        before = run[f"{kind}_AP"]
        if kind in REQUIRED or not math.isnan(before):
            scored = score_run(match(truth, results, kind), run["fold"], resamples, data=str(run["ground_truth"]))
            by_variant.setdefault(run["variant"], {})[run["fold"], run["seed"]] = scored
            again = float(scored.values[0])
            if abs(again - before) > AP_TOLERANCE:
                notes.append(f"{run['folder']}: {file} gives {kind} AP {again:.2f}, its metrics say {before:.2f}")
    return notes


def compare(study: Study, scores: Scores, baseline: str, margin: float = MARGIN) -> StudyScores:
    """Compare the variants of a study by the kinds of ``scores`` with its baseline, the label or name of a variant that
    may be absent, over the runs of the same folds and ground truth; the differences of a kind are judged together.
    ``margin``: of equivalence, in AP points."""
    labels, kinds = study.ordered(baseline), list(scores)
    rivals = {label: study.rival_of(label, baseline) for label in labels}
    judged = {kind: judge(differences(scores[kind], rivals), kind, "AP", margin) for kind in kinds}
    variants, notes, absent = [], [], pd.Series(dtype=float)
    for label in labels:
        runs, other = study.counted(label), study.baseline_of(label, baseline)
        comparisons = {kind: judged[kind][label] for kind in kinds}
        variants.append(
            VariantScores(
                label,
                other,
                settings={key: runs[key].iloc[0] for key in SETTINGS},
                runs=len(runs),
                folds=runs["fold"].nunique(),
                metrics={kind: {m: Mean.over(runs.get(f"{kind}_{m}", absent)) for m in METRICS} for kind in kinds},
                intervals={kind: _own_interval(scores[kind].get(label, {})) for kind in kinds},
                comparisons=comparisons,
            )
        )
        if other is not None and (differing := study.differing_settings(label, other)):
            notes.append(
                f"{label} and {other} differ in {', '.join(differing)}: no difference is given, as it would not be the "
                "head's alone"
            )
        elif other not in (None, label) and not comparisons[MAIN].runs:
            notes.append(f"{label}: no run has the fold and ground truth of a run of {other}")
    notes += unjudged_notes(judged[MAIN].values(), "differences")
    if any(each.verdict is not None and each.trainings == 2 for each in judged[MAIN].values()):
        notes.append(
            "two trainings tell next to nothing of how trainings differ: take three seeds at least, better five"
        )
    if all(variant.compared_with is None for variant in variants):
        why = "is no single variant" if baseline in set(study.runs["name"]) else "has no finished run"
        notes.append(f"baseline {baseline!r} {why}, so differences are –; variants: {', '.join(labels)}")
    return StudyScores(variants, kinds, notes)


def _own_interval(runs: Mapping[RunKey, RunScores]) -> Interval:
    """Of a variant's AP; no AP lies below 0 or above 100."""
    own = mean_over_runs(runs) if runs else UNKNOWN
    return max(own.low, 0.0), min(own.high, 100.0)


def unjudged_notes(comparisons: Iterable[Comparison], what: str) -> list[str]:
    """Why differences have no verdict: a line for those of one training, and one for those of one fold among more."""
    unjudged = [each for each in comparisons if each.exists and each.verdict is None]
    reasons = {
        "one training": [each for each in unjudged if each.trainings < 2],
        "runs of one fold": [each for each in unjudged if each.trainings > 1],
    }
    notes = []
    for reason, of_reason in reasons.items():
        if of_reason:
            names, rivals = ({getattr(each, key): None for each in of_reason} for key in ("variant", "rival"))
            pair = f"{', '.join(names)} to compare with {', '.join(map(str, rivals))}"
            notes.append(f"{reason} of {pair}: no verdict on {what}")
    return notes


def verdict_key(margin: float, unit: str = "AP") -> str:
    """What the four words mean, for the notes of tables."""
    return (
        f"Better, worse: the interval excludes 0; equivalent: it lies within ±{margin:g} {unit}; undecided: neither. "
        "One training gives no verdict."
    )

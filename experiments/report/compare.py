"""A study's runs -> what is said of each variant: means, deviations, and differences to the baseline with verdicts."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pycocotools.coco import COCO

from experiments.report.columns import Mean
from experiments.runs.study import MAIN, METRICS, REQUIRED, Study
from instseg.evaluation import coco
from instseg.evaluation.coco import Kind
from instseg.evaluation.matches import match
from instseg.statistics.estimate import UNKNOWN
from instseg.statistics.resampling import RunKey, RunScores, differences, mean_over_runs, score_run
from instseg.statistics.verdict import Comparison, Difference, Interval, judge

SETTINGS = ("protocol", "dataset", "trunk", "iterations")
"""What tables say of a variant's runs."""
AP_TOLERANCE = 0.1
"""Recomputed AP may differ from ``result.json`` by rounding of scores and boxes, not by more."""

Scores = dict[Kind, dict[str, dict[RunKey, RunScores]]]
"""AP of runs on resampled images, by kind, by variant."""


@dataclass(frozen=True)
class VariantScores:
    """One variant's numbers over its runs.

    Attributes:
        label: of the variant.
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

    @property
    def rank(self) -> float:
        """AP of masks, by which variants are ranked; least where there is none."""
        mean = self.metrics[MAIN]["AP"].mean
        return -math.inf if math.isnan(mean) else mean


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
    """The best masks last, as plots count rows from below."""
    return sorted(variants, key=lambda variant: variant.rank)


def score(
    run: Mapping[str, Any], truth: COCO, results: coco.Results, kinds: Iterable[Kind], resamples: int
) -> dict[Kind, RunScores]:
    """AP of one run on its images and resamples of them, by the kinds that it was scored by.

    Args:
        run: its row of ``study.runs``.
        truth, results: as :class:`experiments.runs.study_files.StudyFiles` gives them.
        kinds: what the study is scored by.
        resamples: bootstrap replicates.
    """
    scored = [kind for kind in kinds if kind in REQUIRED or not math.isnan(run[f"{kind}_AP"])]
    return {
        kind: score_run(match(truth, results, kind), run["fold"], resamples, data=str(run["ground_truth"]))
        for kind in scored
    }


def contradictions(run: Mapping[str, Any], scores: Mapping[Kind, RunScores], file: str) -> list[str]:
    """A line for each kind of which a run's file gives another AP than its metrics say."""
    lines = []
    for kind, scored in scores.items():
        again, before = float(scored.values[0]), run[f"{kind}_AP"]
        if abs(again - before) > AP_TOLERANCE:
            lines.append(f"{run['folder']}: {file} gives {kind} AP {again:.2f}, its metrics say {before:.2f}")
    return lines


def compare(study: Study, scores: Scores, baseline: str) -> StudyScores:
    """Compare the variants of a study with its baseline, over the pairs of runs with the same fold, seed and ground
    truth; the differences of a kind are judged together.

    Args:
        study: whose runs hold the metrics.
        scores: of the kinds to compare by.
        baseline: label or name of a variant; may be absent.
    """
    labels, kinds = study.ordered(baseline), list(scores)
    rivals = {label: study.rival_of(label, baseline) for label in labels}
    measured = {kind: differences(scores[kind], rivals) for kind in kinds}
    comparisons = {kind: judge(measured[kind], kind, "AP") for kind in kinds}
    variants, notes = [], []
    for label in labels:
        runs, other = study.counted(label), study.baseline_of(label, baseline)
        variants.append(
            VariantScores(
                label,
                other,
                settings={key: runs[key].iloc[0] for key in SETTINGS},
                runs=len(runs),
                folds=runs["fold"].nunique(),
                metrics={kind: {metric: _mean(runs, f"{kind}_{metric}") for metric in METRICS} for kind in kinds},
                intervals={kind: _own_interval(scores[kind].get(label, {})) for kind in kinds},
                comparisons={kind: comparisons[kind][label] for kind in kinds},
            )
        )
        if other is not None and (differing := study.differing_settings(label, other)):
            notes.append(
                f"{label} and {other} differ in {', '.join(differing)}: no difference is given, as it would not be the "
                "head's alone"
            )
        elif other is not None and other != label and not comparisons[MAIN][label].pairs:
            notes.append(f"{label}: no run has the fold, seed and ground truth of a run of {other}")
        unjudged = [kind for kind in kinds if comparisons[kind][label].exists and not measured[kind][label].comparable]
        if unjudged:
            notes.append(unjudged_note(label, f"{', '.join(unjudged)} AP", measured[unjudged[0]][label]))
    if all(variant.compared_with is None for variant in variants):
        why = "is no single variant" if baseline in set(study.runs["name"]) else "has no finished run"
        notes.append(f"baseline {baseline!r} {why}, so differences are –; variants: {', '.join(labels)}")
    return StudyScores(variants, kinds, notes)


def _mean(runs: pd.DataFrame, column: str) -> Mean:
    return Mean.over(runs[column] if column in runs else pd.Series(dtype=float))


def _own_interval(runs: Mapping[RunKey, RunScores]) -> Interval:
    """Of a variant's AP; no AP lies below 0 or above 100."""
    own = mean_over_runs(runs) if runs else UNKNOWN
    return max(own.low, 0.0), min(own.high, 100.0)


def unjudged_note(label: str, what: str, difference: Difference) -> str:
    """Why a difference has neither a corrected interval nor a mark."""
    runs = f"{difference.pairs} run{'s' if difference.pairs > 1 else ''} with {difference.rival}"
    return f"{label}: shares {runs}, of one seed or fold where there are more: {what} get no mark"

"""Scores of variants made up by hand, for tables and plots of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.compare import Mean, StudyScores, VariantScores
from experiments.runs.study import METRICS
from instseg.evaluation.coco import Kind
from instseg.statistics.verdict import NO_INTERVAL, Comparison


def study_scores(
    rows: Mapping[str, Any], kinds: Sequence[Kind], sizes: Mapping[str, float] | None = None, std: float = math.nan
) -> StudyScores:
    """Variants that are compared with "fcn".

    Args:
        rows: by variant: AP, and as far as there is a difference its value, interval and corrected interval; or such
            rows by kind.
        kinds: the kinds of AP.
        sizes: by metric, how far it lies from AP; other metrics than AP are nan.
        std: deviation of AP.
    """
    by_kind = rows if set(rows) == set(kinds) else dict.fromkeys(kinds, rows)
    variants = []
    for label in by_kind[kinds[0]]:
        metrics, comparisons = {}, {}
        for kind in kinds:
            mean, *difference = by_kind[kind][label]
            metrics[kind] = {metric: Mean() for metric in METRICS} | {"AP": Mean(mean, std, 1)}
            metrics[kind] |= {metric: Mean(mean + by, n=1) for metric, by in (sizes or {}).items()}
            value, interval, corrected = difference or (math.nan, NO_INTERVAL, NO_INTERVAL)
            comparisons[kind] = Comparison(
                label, "fcn", kind, "AP", value, interval, corrected_interval=corrected, runs=len(difference[:1])
            )
        intervals = dict.fromkeys(kinds, NO_INTERVAL)
        variants.append(VariantScores(label, "fcn", {}, 1, 1, metrics, intervals, comparisons))
    return StudyScores(variants, list(kinds), [])

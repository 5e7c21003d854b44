"""How sure the order of the variants is: probability of being best, ranks, and probability of improvement."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.render import table
from experiments.report.compare import StudyScores
from experiments.report.section import Content, Findings, Section
from experiments.runs.study import MAIN
from instseg.statistics.ranks import Floats, Improvement, Ranks, improvement, ranks
from instseg.statistics.resampling import Runs, RunScores

TestSet = tuple[int, str]
"""Fold and name of the ground truth."""
Run = tuple[TestSet, int]
"""A test set, and the seed of a run on it."""


class Ranked(NamedTuple):
    """Variants over the runs that all of them have.

    Attributes:
        variants: labels, the best mean mask AP first.
        means: (V,) their mask AP in percent, mean over test sets of the mean over seeds.
        ranks: of these.
        improvements: of each over the baseline; None for the baseline itself.
        runs, units: number of runs of each, and of the test sets, or seeds of a single one, that are drawn again.
        left_out: what a reader should know of variants that lack runs.
    """

    variants: list[str]
    means: Floats
    ranks: Ranks
    improvements: list[Improvement | None]
    runs: int
    units: int
    left_out: list[str]


def make(findings: Findings) -> Content:
    """``ranking.csv|md|tex``."""
    runs = findings.predictions.scores[MAIN]
    ranked = {}
    for baseline, labels in comparable(findings.scores).items():
        with_runs = {label: runs[label] for label in labels if label in runs}
        if len(with_runs) > 1 and baseline in with_runs:
            ranked[baseline] = rank(with_runs, baseline)
    notes = [line for each in ranked.values() for line in each.left_out]
    ranked = {baseline: each for baseline, each in ranked.items() if len(each.variants) > 1}
    if not ranked:
        few = "no variant has the runs of the baseline and differs from it in the head alone"
        return Content(skipped=[f"ranking: {few}"], notes=notes)
    note = (
        "Mask AP in percent over the runs that all variants have. Best: probability of having the highest mean AP; "
        f"rank: mean and 95 % interval; both over {_resampled(ranked.values(), findings.resamples)}. Run better: "
        "probability that a run has a higher AP than a run of the baseline on the same test images (Agarwal et al., "
        "2021), with a 95 % interval over folds, or over the runs of a single one. These numbers describe and give no "
        f"verdict. {table.MISSING}: nothing to compare."
    )
    shown = text(ranked)
    return Content(
        table.Table(numbers(ranked), shown, note),
        text=[
            table.fitted(shown),
            "probability of the highest mask AP, rank, and probability that a run is better than the baseline's; no "
            "verdicts",
        ],
        notes=notes,
    )


def _resampled(ranked: Iterable[Ranked], resamples: int) -> str:
    images = f"{resamples} resamples of the images"
    if all(each.units == 1 for each in ranked):
        return f"{images} alone, as one training doesn't tell what another would give"
    return f"{images} and of the seeds or folds"


def comparable(scores: StudyScores) -> dict[str, list[str]]:
    """By baseline the variants that differ from it in the head alone, itself among them."""
    groups: dict[str, list[str]] = defaultdict(list)
    for variant in scores.variants:
        rival = variant.comparisons[MAIN].rival
        if rival is not None:
            groups[rival].append(variant.label)
    return groups


def rank(variants: Mapping[str, Runs], baseline: str) -> Ranked:
    """Rank variants over the runs of the baseline that all of them have but those that lack too many."""
    by_run = {label: _by_run(runs) for label, runs in variants.items()}
    shared = shared_runs(by_run, baseline)
    kept = {label: runs for label, runs in by_run.items() if runs.keys() >= shared}
    left_out = [
        f"ranking: {label} is left out, as it lacks {len(shared - runs.keys())} of the {len(shared)} runs that are "
        "compared"
        for label, runs in by_run.items()
        if label not in kept
    ]
    tests: dict[TestSet, list[int]] = defaultdict(list)
    for test, seed in sorted(shared):
        tests[test].append(seed)
    scores = np.stack([_units(runs, tests) for runs in kept.values()])
    means = scores[:, :, 0].mean(axis=1)
    order = np.argsort(-means, kind="stable")
    labels = [list(kept)[place] for place in order]
    alone = {label: [np.array([kept[label][t, s].values[0] for s in tests[t]]) for t in tests] for label in labels}
    improvements = [None if label == baseline else improvement(alone[label], alone[baseline]) for label in labels]
    return Ranked(labels, means[order], ranks(scores[order]), improvements, len(shared), scores.shape[1], left_out)


def _by_run(runs: Runs) -> dict[Run, RunScores]:
    return {((fold, run.data), seed): run for (fold, seed), run in runs.items()}


def shared_runs(variants: Mapping[str, Mapping[Run, Any]], baseline: str) -> set[Run]:
    """Runs of the baseline, chosen so that most runs of its rivals are kept, where only rivals that have all of those
    chosen are: one that lacks runs doesn't cost the others theirs. All of them where no rival has any."""
    rivals = [runs.keys() for label, runs in variants.items() if label != baseline]
    candidates = [variants[baseline].keys() & runs for runs in rivals]
    chosen = max(candidates, key=lambda chosen: len(chosen) * sum(runs >= chosen for runs in rivals))
    return chosen or set(variants[baseline])


def _units(runs: Mapping[Run, RunScores], tests: Mapping[TestSet, list[int]]) -> Floats:
    """(U, 1 + B) AP by test set, mean over seeds; of a single test set, by seed."""
    by_test = [np.stack([runs[test, seed].values for seed in seeds]) for test, seeds in tests.items()]
    return by_test[0] if len(by_test) == 1 else np.stack([values.mean(axis=0) for values in by_test])


def numbers(ranked: Mapping[str, Ranked]) -> pd.DataFrame:
    """The table for machines, one row a variant; ``results/README.md`` says what each column is."""
    rows = []
    for baseline, each in ranked.items():
        for i, label in enumerate(each.variants):
            better = each.improvements[i] or Improvement(math.nan, math.nan, math.nan)
            rows.append(
                {
                    "variant": label,
                    "compared_with": baseline,
                    "n": each.runs,
                    "units": each.units,
                    "mask_AP_mean": each.means[i],
                    "best_probability": each.ranks.best[i],
                    "rank_mean": each.ranks.mean[i],
                    "rank_low": each.ranks.low[i],
                    "rank_high": each.ranks.high[i],
                    "improvement": better.value,
                    "improvement_low": better.low,
                    "improvement_high": better.high,
                }
            )
    return pd.DataFrame(rows)


def text(ranked: Mapping[str, Ranked]) -> pd.DataFrame:
    """The table as people read it."""
    rows = []
    for baseline, each in ranked.items():
        for i, label in enumerate(each.variants):
            best, mean, low, high = (part[i] for part in each.ranks)
            better = each.improvements[i]
            cells = {
                "variant": label,
                "mask AP": table.number(each.means[i], 1),
                "best": f"{100 * best:.0f} %",
                "rank": f"{mean:.1f} [{low:g}, {high:g}]",
                "run better": table.MISSING if better is None else _improved(better),
                "runs": str(each.runs),
            }
            rows.append(cells if len(ranked) == 1 else cells | {"baseline": baseline})
    return pd.DataFrame(rows)


def _improved(better: Improvement) -> str:
    """``80 % [60, 100]``"""
    share = f"{100 * better.value:.0f} %"
    return share if math.isnan(better.low) else f"{share} [{100 * better.low:.0f}, {100 * better.high:.0f}]"


SECTION = Section("ranking", make)

"""Intervals of runs that are given by their matches."""

from collections.abc import Mapping

from instseg.evaluation.matches import Matches
from instseg.statistics.estimate import Estimate
from instseg.statistics.resampling import RunKey, RunScores, differences, mean_over_runs, score_run
from instseg.statistics.verdict import Difference

MatchedRuns = Mapping[RunKey, Matches]


def score_runs(runs: MatchedRuns, resamples: int, seed: int = 0) -> dict[RunKey, RunScores]:
    """AP of each run on its images and on resamples of them."""
    return {key: score_run(matches, key[0], resamples, seed) for key, matches in runs.items()}


def mean_ap(runs: MatchedRuns, resamples: int) -> Estimate:
    """Mean AP over the runs of one variant."""
    return mean_over_runs(score_runs(runs, resamples))


def paired_difference(runs: MatchedRuns, rival_runs: MatchedRuns, resamples: int, seed: int = 0) -> Difference:
    """How much better one variant is than another, over the folds that both have."""
    scores = {"variant": score_runs(runs, resamples, seed), "rival": score_runs(rival_runs, resamples, seed)}
    return differences(scores, {"rival": None, "variant": "rival"})["variant"]

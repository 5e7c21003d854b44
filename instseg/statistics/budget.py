"""What tuning with fewer trials would have given: the expected best of k of N trials, and the order of heads by it.

Dodge et al. (*Show Your Work: Improved Reporting of Experimental Results*, EMNLP 2019) propose to report the expected
best validation score as a function of the budget. Their estimator takes the empirical distribution of the N scores for
the true one, which draws the k trials with replacement: the best trial is missing from about a third of the draws of
N, so the estimate is too low, most of all where k is near N. Tang et al. (*Showing Your Work Doesn't Always Work*,
ACL 2020) show this, and give the estimator without replacement that is used here. It is unbiased for trials that are
drawn independently; points of a Sobol sequence cover the space more evenly than independent ones.

Scores are in percent, higher is better. A trial that diverged has no score, nan, and counts as 0, the least that a
score can be.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
RESAMPLES = 2000
"""Bootstrap replicates of the trials of a single fold."""


class BudgetCurve(NamedTuple):
    """The expected best score of k = 1..N trials, mean over folds, with 95 % intervals.

    Attributes:
        values, low, high: (N,) in percent; entry k - 1 is of k trials.
        by_fold: (folds, N).
    """

    values: Floats
    low: Floats
    high: Floats
    by_fold: Floats


class OrderStability(NamedTuple):
    """How soon the order of heads is that which all N trials give.

    Attributes:
        leaders: the head with the highest expected best score of k = 1..N trials.
        tau: (N,) Kendall's tau-b between the heads' scores of k trials and those of N; nan where all heads tie.
        last_change: the least k from which on the leader stays the same; 1 where it is the same throughout.
    """

    leaders: list[str]
    tau: Floats
    last_change: int


def expected_best(scores: Floats) -> Floats:
    """The expected best of k of N trials, drawn without replacement, for k = 1..N.

    With the scores in rising order s_1 <= ... <= s_N,

        E_k = sum over i of C(i - 1, k - 1) / C(N, k) * s_i,

    as s_i is the best of C(i - 1, k - 1) of the C(N, k) subsets of k trials (Tang et al., ACL 2020). E_1 is the mean,
    E_N the best score.

    Args:
        scores: (..., N); nan counts as 0.

    Returns:
        (..., N); entry k - 1 is E_k.
    """
    ordered = np.sort(np.nan_to_num(scores, nan=0.0), axis=-1)
    numbers = np.arange(1, ordered.shape[-1] + 1)
    subsets = special.comb(numbers[None] - 1, numbers[:, None] - 1)  # (k, i)
    return np.asarray(ordered @ (subsets / subsets.sum(axis=1, keepdims=True)).T)


def budget_curve(scores: Floats, seed: int = 0) -> BudgetCurve:
    """The expected best score against the budget.

    With several folds the interval is Student's over the folds' curves. It covers what differs from fold to fold: the
    validation images, and how the head does on them. Folds share training images, and what those do is not covered.

    With one fold it is the percentile bootstrap of the trials: N of them drawn again with replacement. It covers which
    points of the space were tried, and nothing else: neither other validation images nor other folds. No resample holds
    a better trial than the best, so near k = N it is too narrow upwards.

    In both cases the best of N is the score that the winner was chosen by, which is higher than what it would score on
    other images.

    Args:
        scores: (folds, N); nan counts as 0.
        seed: the bootstrap's own.
    """
    by_fold = expected_best(scores)
    values, folds = by_fold.mean(axis=0), len(by_fold)
    if folds > 1:
        half = stats.t.isf(0.025, folds - 1) * by_fold.std(axis=0, ddof=1) / np.sqrt(folds)
        return BudgetCurve(values, values - half, values + half, by_fold)
    random, trials = np.random.default_rng(seed), scores.shape[1]
    drawn = scores[0, random.integers(0, trials, (RESAMPLES, trials))]
    low, high = np.quantile(expected_best(drawn), [0.025, 0.975], axis=0)
    return BudgetCurve(values, low, high, by_fold)


def best_trial(scores: Floats) -> NDArray[np.intp]:
    """The trial with the best score, the first of several; nan counts as the worst. (..., N) -> (...)."""
    return np.asarray(np.nan_to_num(scores, nan=-np.inf).argmax(axis=-1))


def order_stability(curves: Mapping[str, Floats]) -> OrderStability:
    """Compare the order of heads by the expected best of k trials with that by the best of all N.

    Kendall's tau-b (Biometrika, 1945): pairs of heads in the same order less those in the reverse order, over all
    pairs, ties allowed for; 1 is the same order, -1 its reverse.

    Args:
        curves: two heads or more: by name (N,) expected best scores of 1..N trials.
    """
    names, table = list(curves), np.stack(list(curves.values()))
    tau = [float(stats.kendalltau(column, table[:, -1]).statistic) for column in table.T]
    leaders = [names[place] for place in table.argmax(axis=0)]
    last_change = max((k for k in range(2, len(leaders) + 1) if leaders[k - 1] != leaders[k - 2]), default=1)
    return OrderStability(leaders, np.asarray(tau), last_change)

"""How a difference between two heads spreads, from a pilot: a few runs of both.

By the method of moments: what images do from the bootstrap, and what seeds and folds differ by beyond that from their
sample variances (Searle, Casella & McCulloch, *Variance Components*, 1992).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from instseg.statistics.power import Spreads
from instseg.statistics.resampling import Runs, RunScores


class Pilot(NamedTuple):
    """Spreads as runs show them.

    Attributes:
        spreads: a part that the runs can't show is 0, and one that comes out negative, too.
        seed_df: degrees of freedom of what seeds differ by; 0: the pilot has one seed a fold. All that its folds differ
            by beyond their images is then taken for their training sets, and what images do for alike in all seeds, so
            that nothing is promised of more seeds.
        fold_df: the same of folds; 0: the pilot has one fold, and ``training_set`` is not known.
        runs: number of pairs of runs.
    """

    spreads: Spreads
    seed_df: int
    fold_df: int
    runs: int


def from_pilot(runs: Runs, rival_runs: Runs) -> Pilot | None:
    """The spreads of a variant's difference to its rival, over the folds and seeds that both have; None where these are
    fewer than two, or scored on fewer than two images."""
    folds = list(_paired(runs, rival_runs))
    if not folds or (len(folds) == 1 and folds[0].seeds < 2) or min(fold.images for fold in folds) < 2:
        return None
    seed_df = sum(fold.seeds - 1 for fold in folds)
    by_mean = float(np.mean([fold.of_mean for fold in folds]))
    own = between = 0.0
    if seed_df:
        own, between = (
            sum((fold.seeds - 1) * getattr(fold, part) for fold in folds) / seed_df for part in ("own", "between")
        )
    training = max(0.0, between - own)
    per_seed = float(np.mean([1 / fold.seeds for fold in folds]))
    training_set = 0.0
    if len(folds) > 1:
        observed = float(np.var([fold.difference for fold in folds], ddof=1))
        training_set = max(0.0, observed - by_mean - training * per_seed)
    spreads = Spreads(
        images=math.sqrt(max(0.0, by_mean - own * per_seed)),
        training=math.sqrt(training),
        seed_images=math.sqrt(own),
        training_set=math.sqrt(training_set),
        test_images=round(np.mean([fold.images for fold in folds])),
    )
    return Pilot(spreads, seed_df, len(folds) - 1, sum(fold.seeds for fold in folds))


class _Fold(NamedTuple):
    """Paired runs of a fold: their mean difference, and variances: by the bootstrap that of their mean and of what each
    seed does by itself, and the sample variance between seeds."""

    seeds: int
    images: int
    difference: float
    of_mean: float
    own: float
    between: float


def _paired(runs: Runs, rival_runs: Runs) -> Iterator[_Fold]:
    tests: dict[tuple[int, str], list[RunScores]] = {}
    for (fold, seed), run in sorted(runs.items()):
        rival = rival_runs.get((fold, seed))
        if rival is not None and rival.data == run.data:
            tests.setdefault((fold, run.data), []).append(run._replace(values=run.values - rival.values))
    for pairs in tests.values():
        table, seeds, images = np.stack([pair.values for pair in pairs], axis=1), len(pairs), pairs[0].images
        resampled = table[1:][~np.isnan(table[1:]).any(axis=1)]
        # the variance of n draws from n values is (n - 1) / n of the values' own
        scale = images / max(images - 1, 1)
        of_mean = scale * float(resampled.mean(axis=1).var(ddof=1))
        own = between = 0.0
        if seeds > 1:
            around = resampled - resampled.mean(axis=1, keepdims=True)
            own = scale * float(around.var(axis=0, ddof=1).mean()) * seeds / (seeds - 1)
            between = float(table[0].var(ddof=1))
        yield _Fold(seeds, images, float(table[0].mean()), of_mean, own, between)

"""Studies of heads that are no different, tuned and untuned, to count how often the suite calls one different."""

import math
from dataclasses import dataclass

import numpy as np

from instseg.statistics.budget import best_trial
from instseg.statistics.resampling import RunScores, differences
from instseg.statistics.verdict import judge

IMAGES, RESAMPLES = 50, 200


@dataclass(frozen=True)
class NullStudy:
    """How the AP of heads that are no different comes about; standard deviations in AP.

    Attributes:
        heads: the baseline among them.
        trials: their true scores are drawn anew for each study, and the same for all heads and folds.
        spread: of the true scores of trials.
        validation: of the noise of a trial's validation score, in multiples of ``spread``; of each head and fold anew.
        choice: ``each fold`` takes the best trial of its own, ``first fold`` gives its own to all; None: trial 0.
        image: of a head's AP for the draw of a fold's test images, alike for all seeds.
        seed: of a training's AP, on all images alike; drawn for each fold and seed.
    """

    heads: int = 9
    folds: int = 5
    seeds: int = 2
    trials: int = 8
    spread: float = 2.0
    validation: float = 1.0
    choice: str | None = "each fold"
    image: float = 1.0
    seed: float = 1.0

    def levels(self, random: np.random.Generator) -> np.ndarray:
        """(heads, folds) true AP of the settings that are trained."""
        true = random.normal(0, self.spread, self.trials)
        if self.choice is None:
            return np.full((self.heads, self.folds), true[0])
        noise = random.normal(0, self.validation * self.spread, (self.heads, self.folds, self.trials))
        chosen = best_trial(true + noise)
        return true[chosen[:, :1] if self.choice == "first fold" else chosen] * np.ones((1, self.folds))

    def alarms(self, random: np.random.Generator) -> list[tuple[bool, bool]]:
        """Of each head but the baseline, in one study: whether its own 95 % interval excludes 0, and whether it gets a
        mark."""
        shape = (self.heads, self.folds, self.seeds)
        own = self.image * math.sqrt(IMAGES) * random.normal(size=(*shape[:2], 1, IMAGES))
        runs = 50 + self.levels(random)[..., None, None] + own + self.seed * random.normal(size=(*shape, 1))
        drawn = random.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=(self.folds, RESAMPLES)) / IMAGES
        weights = np.concatenate([np.full((self.folds, 1, IMAGES), 1 / IMAGES), drawn], axis=1)
        values = np.einsum("hfsi,fbi->hfsb", runs, weights)
        variants = {
            str(head): {(f, s): RunScores(values[head, f, s], IMAGES) for f in range(shape[1]) for s in range(shape[2])}
            for head in range(self.heads)
        }
        judged = judge(differences(variants, dict.fromkeys(variants, "0")), "mask", "AP")
        rivals = [comparison for head, comparison in judged.items() if head != "0"]
        return [(each.interval[0] > 0 or each.interval[1] < 0, bool(each.is_real)) for each in rivals]


def false_alarms(study: NullStudy, studies: int) -> tuple[float, float, float]:
    """The share of heads whose own interval excludes 0, of heads that get a mark, and of studies in which any does."""
    random = np.random.default_rng(7)
    alarms = np.array([study.alarms(random) for _ in range(studies)])  # (studies, heads - 1, 2)
    marks = alarms[..., 1]
    return float(alarms[..., 0].mean()), float(marks.mean()), float(marks.any(axis=1).mean())

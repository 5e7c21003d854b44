"""Artificial studies whose true differences are known: how often the suite's verdicts are right and wrong.

The runs go through :func:`instseg.statistics.resampling.differences` and :func:`instseg.statistics.verdict.judge`, as
those of a real study do; only matching and AP are left out: an image has a score of its own, and a run's AP is their
mean. ``python -m experiments.error_rates`` makes the tables of ``docs/statistics.md`` and ``docs/tuning.md``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import optimize, special

from instseg.statistics.budget import best_trial
from instseg.statistics.estimate import Estimate, Floats, Part
from instseg.statistics.resampling import RunScores, differences
from instseg.statistics.verdict import MARGIN, Comparison, Difference, judge

IMAGES, RESAMPLES = 50, 200
Choice = Literal["each fold", "first fold"]


@dataclass(frozen=True)
class Tuning:
    """How settings are chosen before the runs; standard deviations in AP.

    Attributes:
        trials: their true scores are drawn anew for each study, and the same for all heads and folds.
        spread: of the true scores of trials.
        validation: of the noise of a trial's validation score, in multiples of ``spread``; of each head and fold anew.
        choice: whether each fold takes the best trial of its own, or all that of the first.
    """

    trials: int = 8
    spread: float = 2.0
    validation: float = 1.0
    choice: Choice = "each fold"


@dataclass(frozen=True)
class ArtificialStudy:
    """How the AP of heads comes about; standard deviations in AP.

    Attributes:
        effects: true difference of each head to the baseline.
        folds, seeds: of each head.
        baseline_seeds: of the baseline; None: as many.
        image: of a head's AP for the draw of a fold's test images, alike for all seeds.
        own_image: of what a fold's test images do to one training alone.
        training: of a training's AP, on all images alike; drawn for each fold and seed.
        restless: how many times as far apart the trainings of single heads lie, by number, for what the training
            images do, too; 0 is the baseline.
        training_images: of a head's AP for the training images of its fold. Two folds resemble each other as much as
            their training images overlap under Nadeau and Bengio's assumption: correlation 1 / folds.
        tuning: None: all heads are trained with the same settings.
    """

    effects: tuple[float, ...] = (0.0,) * 8
    folds: int = 1
    seeds: int = 3
    baseline_seeds: int | None = None
    image: float = 0.7
    own_image: float = 0.5
    training: float = 0.7
    restless: Mapping[int, float] | None = None
    training_images: float = 0.0
    tuning: Tuning | None = None

    def runs(self, random: np.random.Generator) -> dict[str, dict[tuple[int, int], RunScores]]:
        """The runs of the baseline, ``"0"``, and of the heads, ``"1"`` and so on, by fold and seed."""
        heads, seeds = len(self.effects) + 1, max(self.seeds, self.baseline_seeds or 0)
        shape, root = (heads, self.folds, seeds), math.sqrt(IMAGES)
        times = np.array([(self.restless or {}).get(head, 1.0) for head in range(heads)])
        scores = 50 + np.array([0.0, *self.effects])[:, None, None, None]
        scores = scores + self._settings(random)[..., None, None]
        scores = scores + self.image * root * random.normal(size=(*shape[:2], 1, IMAGES))
        scores = scores + self.own_image * root * random.normal(size=(*shape, IMAGES))
        scores = scores + self.training * times[:, None, None, None] * random.normal(size=(*shape, 1))
        common = math.sqrt(1 / self.folds) * random.normal(size=(heads, 1, 1))
        own = math.sqrt(1 - 1 / self.folds) * random.normal(size=(*shape[:2], 1))
        scores = scores + self.training_images * times[:, None, None, None] * (common + own)[..., None]
        drawn = random.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=(self.folds, RESAMPLES)) / IMAGES
        weights = np.concatenate([np.full((self.folds, 1, IMAGES), 1 / IMAGES), drawn], axis=1)
        values = np.einsum("hfsi,fbi->hfsb", scores, weights)
        return {
            str(head): {
                (fold, seed): RunScores(values[head, fold, seed], IMAGES)
                for fold in range(self.folds)
                for seed in range(self.seeds if head else self.baseline_seeds or self.seeds)
            }
            for head in range(heads)
        }

    def _settings(self, random: np.random.Generator) -> Floats:
        """(heads, folds) what the settings that are trained add."""
        shape = len(self.effects) + 1, self.folds
        if self.tuning is None:
            return np.zeros(shape)
        true = random.normal(0, self.tuning.spread, self.tuning.trials)
        noise = random.normal(0, self.tuning.validation * self.tuning.spread, (*shape, self.tuning.trials))
        chosen = best_trial(true + noise)
        return true[chosen[:, :1] if self.tuning.choice == "first fold" else chosen] * np.ones((1, self.folds))

    def measured(self, random: np.random.Generator) -> dict[str, Difference]:
        """The differences of all heads to the baseline in one study."""
        rivals: dict[str, str | None] = {str(head + 1): "0" for head in range(len(self.effects))}
        return differences(self.runs(random), rivals)


Rule = Callable[[Sequence[Estimate]], list[Estimate]]
"""Makes estimates of all differences of a study from those of each by itself."""


def own_spread(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The suite's rule: each difference has the spread of its own trainings."""
    return list(estimates)


def pooled_spread(estimates: Sequence[Estimate]) -> list[Estimate]:
    """All differences have the mean of their spreads, as Dunnett has it (JASA, 1955)."""
    own = [each.parts[-1] for each in estimates]
    pooled = Part(float(np.mean([part.variance for part in own])), len(own) * own[0].df)
    return [Estimate(each.value, (*each.parts[:-1], pooled)) for each in estimates]


def moderated_spread(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Each spread is drawn towards a common one, as far as they resemble each other: Smyth's moderated t (Statistical
    Applications in Genetics and Molecular Biology, 2004)."""
    df = estimates[0].parts[-1].df
    variances = np.array([each.parts[-1].variance for each in estimates])
    logs = np.log(variances) - special.digamma(df / 2) + math.log(df / 2)
    beyond = float(logs.var(ddof=1) - special.polygamma(1, df / 2))
    if beyond > 0:
        prior_df = 2 * math.exp(
            optimize.brentq(lambda x: float(special.polygamma(1, math.exp(x))) - beyond, -20.0, 20.0)
        )
        prior = math.exp(float(logs.mean()) + float(special.digamma(prior_df / 2)) - math.log(prior_df / 2))
        moderated = (prior_df * prior + df * variances) / (prior_df + df)
    else:
        prior_df, moderated = 1e6, np.full(len(variances), math.exp(float(logs.mean())))
    return [
        Estimate(each.value, (*each.parts[:-1], Part(float(variance), prior_df + df)))
        for each, variance in zip(estimates, moderated, strict=True)
    ]


RULES: dict[str, Rule] = {"own": own_spread, "moderated": moderated_spread, "pooled": pooled_spread}


@dataclass(frozen=True)
class Rates:
    """Shares of heads, by verdict, and of studies with any false verdict.

    Attributes:
        own: of heads, whose own 95 % interval excludes 0.
        better, worse, equivalent, undecided: of heads with this verdict, by head: (heads,).
        any_told_apart: of studies in which any head of no true difference is called better or worse.
        any_equivalent: of studies in which any head of a true difference of the margin or more is called equivalent.
    """

    own: float
    better: Floats
    worse: Floats
    equivalent: Floats
    undecided: Floats
    any_told_apart: float
    any_equivalent: float

    @property
    def told_apart(self) -> Floats:
        """(heads,) better or worse."""
        return self.better + self.worse


def rates(
    study: ArtificialStudy,
    studies: int,
    rules: Mapping[str, Rule] | None = None,
    margin: float = MARGIN,
    seed: int = 7,
) -> dict[str, Rates]:
    """Verdicts on so many artificial studies, drawn from ``seed``, by each rule; without ``rules`` by the suite's,
    ``"own"``."""
    random = np.random.default_rng(seed)
    rules = rules or {"own": own_spread}
    judged: dict[str, list[list[Comparison]]] = {name: [] for name in rules}
    for _ in range(studies):
        measured = study.measured(random)
        for name, rule in rules.items():
            estimates = rule([difference.estimate for difference in measured.values()])
            ruled = {
                label: difference._replace(estimate=estimate)
                for (label, difference), estimate in zip(measured.items(), estimates, strict=True)
            }
            judged[name].append(list(judge(ruled, "mask", "AP", margin).values()))
    return {name: _rates(comparisons, np.array(study.effects), margin) for name, comparisons in judged.items()}


def _rates(judged: list[list[Comparison]], effects: Floats, margin: float) -> Rates:
    words = np.array([[comparison.verdict for comparison in study] for study in judged], dtype=object)
    own = [[each.interval[0] > 0 or each.interval[1] < 0 for each in study] for study in judged]
    apart = ((words == "better") | (words == "worse"))[:, effects == 0]
    equal = (words == "equivalent")[:, abs(effects) >= margin]
    return Rates(
        own=float(np.mean(own)),
        better=(words == "better").mean(axis=0),
        worse=(words == "worse").mean(axis=0),
        equivalent=(words == "equivalent").mean(axis=0),
        undecided=(words == "undecided").mean(axis=0),
        any_told_apart=float(apart.any(axis=1).mean()),
        any_equivalent=float(equal.any(axis=1).mean()),
    )


def with_restless_head(study: ArtificialStudy, head: int, ratio: float) -> ArtificialStudy:
    """The study in which the variance between trainings of one head, 0 being the baseline, is ``ratio`` times that of
    the others."""
    return replace(study, restless={head: math.sqrt(ratio)})

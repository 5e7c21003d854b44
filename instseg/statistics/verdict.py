"""What is concluded from differences: better, worse, equivalent or undecided, corrected for their number.

- **better**, **worse**: the corrected interval excludes 0.
- **equivalent**: it lies inside the margin, which is stated before the runs (two one-sided tests; Schuirmann, Journal
  of Pharmacokinetics and Biopharmaceutics, 1987). An interval inside the margin that excludes 0 is equivalent, too:
  what it shows is smaller than what was said to matter.
- **undecided**: neither.

One training of each head gives no verdict, as nothing then tells what another training would do.

The corrected interval is Bonferroni's, so that all intervals of a table hold the truth together, and claims of
equivalence are safe however many there are. Only where Holm's step-down rejects 0 and Bonferroni does not is it Holm's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from instseg.statistics.estimate import Estimate

ALPHA = 0.05
"""Chance of a false alarm among all differences that are judged together."""
MARGIN = 1.0
"""AP points within which heads are equivalent, where a study doesn't say otherwise."""

Interval = tuple[float, float]
Verdict = Literal["better", "worse", "equivalent", "undecided"]
NO_INTERVAL: Interval = (math.nan, math.nan)


class Difference(NamedTuple):
    """How far a variant is from its rival, before it is judged.

    Attributes:
        rival: None where there is nothing to compare with.
        estimate: of the variant's number minus the rival's, with its error.
        runs: number of the variant's runs in it.
        units: number of seeds or folds that the estimate's error sees, of the side that has fewer.
        comparable: whether the runs cover the folds as those of other variants do.
    """

    rival: str | None
    estimate: Estimate
    runs: int
    units: int
    comparable: bool


@dataclass(frozen=True)
class Comparison:
    """A variant's difference to its rival, and the verdict.

    Attributes:
        variant, rival: labels; ``rival`` is None where there is nothing to compare with.
        kind, metric: of what, such as ``"mask"`` and ``"AP"``.
        value: the variant's number minus the rival's, in percent; nan where they share no test images.
        interval: its own 95 % interval.
        p: two-sided p-value of no difference.
        corrected_interval: corrected for the number of differences that are judged together; nan where it is not
            corrected, as the runs are not those of the other variants.
        corrected_p: by Holm.
        detectable: the smallest true difference that would have got a verdict of better or worse with probability 0.8,
            from the error as it was measured; nan where there is no verdict.
        runs: number of the variant's runs in it.
        trainings: number of seeds or folds that the error sees; below 2 there is no verdict.
        margin: of equivalence, in percent.
    """

    variant: str
    rival: str | None
    kind: str
    metric: str
    value: float = math.nan
    interval: Interval = NO_INTERVAL
    p: float = math.nan
    corrected_interval: Interval = NO_INTERVAL
    corrected_p: float = math.nan
    detectable: float = math.nan
    runs: int = 0
    trainings: int = 2
    margin: float = MARGIN

    @property
    def exists(self) -> bool:
        """Whether there is a difference to show."""
        return not math.isnan(self.value)

    @property
    def is_corrected(self) -> bool:
        """Whether it is judged together with others."""
        return not math.isnan(self.corrected_interval[0])

    @property
    def verdict(self) -> Verdict | None:
        """What the corrected interval says; None where the difference is not judged. Every table, plot and text has it
        from here."""
        if not self.is_corrected or self.trainings < 2:
            return None
        return read_interval(self.corrected_interval, self.margin)

    @property
    def is_told_apart(self) -> bool:
        """Whether the verdict is better or worse."""
        return self.verdict in ("better", "worse")


def read_interval(interval: Interval, margin: float) -> Verdict:
    """The verdict that a corrected interval gives."""
    low, high = interval
    if -margin < low and high < margin:
        return "equivalent"
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def judge(
    differences: Mapping[str, Difference], kind: str, metric: str, margin: float = MARGIN
) -> dict[str, Comparison]:
    """Judge differences by variant together, corrected for the number of comparable ones; single trainings among more
    are left out, as they get no verdict."""
    several = any(each.units > 1 for each in differences.values())
    together = [each.comparable and (each.units > 1 or not several) for each in differences.values()]
    p = [each.estimate.p if judged else math.nan for each, judged in zip(differences.values(), together, strict=True)]
    number = sum(not math.isnan(value) for value in p)
    comparisons = {}
    for (variant, difference), factor in zip(differences.items(), holm(p), strict=True):
        estimate, known = difference.estimate, not math.isnan(factor)
        judged = known and difference.units > 1
        comparisons[variant] = Comparison(
            *(variant, difference.rival, kind, metric, estimate.value, estimate.interval(), estimate.p),
            corrected_interval=_corrected(estimate, number, factor, margin) if known else NO_INTERVAL,
            corrected_p=min(1.0, estimate.p * factor) if known else math.nan,
            detectable=estimate.detectable(ALPHA / number) if judged else math.nan,
            runs=difference.runs,
            trainings=difference.units,
            margin=margin,
        )
    return comparisons


def _corrected(estimate: Estimate, number: int, factor: float, margin: float) -> Interval:
    interval, by_holm = estimate.interval(ALPHA / number), estimate.interval(ALPHA / factor)
    told_apart = {"better", "worse"}
    if read_interval(interval, margin) == "undecided" and read_interval(by_holm, margin) in told_apart:
        return by_holm
    return interval


def holm(p: Sequence[float]) -> list[float]:
    """By how much to multiply each of m p-values so that the chance of any false alarm among them stays below alpha
    (Holm, Scandinavian Journal of Statistics, 1979).

    ``min(1, p * factor)`` is Holm's corrected p-value, and ``estimate.interval(alpha / factor)`` the interval that
    excludes 0 exactly where it is below alpha. The factors lie between 1 and m; nan stays nan and doesn't count.
    """
    factors = [math.nan] * len(p)
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    highest = 0.0
    for rank, (value, index) in enumerate(known):
        highest = max(highest, (len(known) - rank) * value)
        factors[index] = highest / value if value > 0 else float(len(known) - rank)
    return factors

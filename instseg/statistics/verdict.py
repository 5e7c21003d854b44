"""Is a difference real? Holm's correction for several of them, and the verdict from the corrected interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from instseg.statistics.estimate import Estimate

ALPHA = 0.05
"""Chance of a false alarm among all differences that are judged together."""

Interval = tuple[float, float]
Verdict = Literal["better", "worse", "undecided"]
NO_INTERVAL: Interval = (math.nan, math.nan)


class Difference(NamedTuple):
    """How far a variant is from its rival, before it is judged.

    Attributes:
        rival: None where there is nothing to compare with.
        estimate: of the variant's number minus the rival's, with its error.
        pairs: number of pairs of runs that it is the mean over.
        comparable: whether these are enough for a verdict that means the same as those of the other variants.
    """

    rival: str | None
    estimate: Estimate
    pairs: int
    comparable: bool


@dataclass(frozen=True)
class Comparison:
    """A variant's difference to its rival, and the verdict.

    Attributes:
        variant, rival: labels; ``rival`` is None where there is nothing to compare with.
        kind, metric: of what, such as ``"mask"`` and ``"AP"``.
        value: the variant's number minus the rival's, in percent; nan without a pair of runs.
        interval: its own 95 % interval.
        p: two-sided p-value of no difference.
        corrected_interval, corrected_p: the same after Holm's correction; nan where it is not judged.
        pairs: number of pairs of runs.
        comparable: whether these are enough for a verdict; see :class:`Difference`.
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
    pairs: int = 0
    comparable: bool = True

    @property
    def exists(self) -> bool:
        """Whether there is a difference to show."""
        return not math.isnan(self.value)

    @property
    def verdict(self) -> Verdict | None:
        """What the corrected interval says; None where the difference is not judged. Every table, plot and text has it
        from here."""
        low, high = self.corrected_interval
        if math.isnan(low):
            return None
        return "better" if low > 0 else "worse" if high < 0 else "undecided"

    @property
    def is_real(self) -> bool | None:
        """Whether the verdict is that there is a difference; None where it is not judged."""
        return None if self.verdict is None else self.verdict != "undecided"


def judge(differences: Mapping[str, Difference], kind: str, metric: str) -> dict[str, Comparison]:
    """Judge differences by variant together, with Holm's correction for the number of comparable ones."""
    factors = holm([each.estimate.p if each.comparable else math.nan for each in differences.values()])
    comparisons = {}
    for (variant, (rival, estimate, pairs, comparable)), factor in zip(differences.items(), factors, strict=True):
        known = not math.isnan(factor)
        comparisons[variant] = Comparison(
            *(variant, rival, kind, metric, estimate.value, estimate.interval(), estimate.p),
            corrected_interval=estimate.interval(ALPHA / factor) if known else NO_INTERVAL,
            corrected_p=min(1.0, estimate.p * factor) if known else math.nan,
            pairs=pairs,
            comparable=comparable,
        )
    return comparisons


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

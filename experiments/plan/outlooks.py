"""What designs of more and more seeds could tell, comparison by comparison."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

from experiments.config.apps import Plan
from experiments.plan.pilot import Pilot
from experiments.plan.planned import Planned
from instseg.errors import UserError
from instseg.statistics import pilot as measured
from instseg.statistics import power
from instseg.statistics.power import Chances, Design, Outlook, Spreads


@dataclass(frozen=True)
class Expected:
    """A planned comparison with the spreads that are expected of it.

    Attributes:
        pilot: what the spreads rest on; None where they are given, or those of other comparisons.
    """

    variant: str
    rival: str
    spreads: Spreads
    pilot: measured.Pilot | None

    def __str__(self) -> str:
        return f"{self.variant} against {self.rival}"


@dataclass(frozen=True)
class Row:
    """What one design could tell; lists have a number a comparison.

    Attributes:
        detectable: smallest difference, in AP points, that is told with the power that is asked for.
        told: chance that the difference that is asked about is told.
        equivalent: chance of that verdict where the heads are equal.
        hours: nan where they are not known.
    """

    seeds: int
    detectable: list[float]
    told: list[float]
    equivalent: list[float]
    hours: float


@dataclass(frozen=True)
class Outlooks:
    """The designs that are considered for a study.

    Attributes:
        images: test images of a fold.
    """

    planned: Planned
    pilot: Pilot | None
    expected: list[Expected]
    options: Plan
    images: int

    @property
    def margin(self) -> float:
        """AP points within which heads are equivalent."""
        return self.planned.first.study.margin

    @property
    def comparisons(self) -> int:
        """How many differences are judged together."""
        return len(self.expected)

    def design(self, seeds: int) -> Design:
        """Of so many seeds, and all else as planned."""
        return Design(seeds, self.images, self.planned.folds, self.options.baseline_seeds)

    def row(self, seeds: int) -> Row:
        """What a design of so many seeds could tell."""
        outlooks = [
            Outlook.of(each.spreads, self.design(seeds), self.comparisons, self.margin) for each in self.expected
        ]
        asked = [outlook.chances(self.options.detect) for outlook in outlooks]
        equal: list[Chances] = [outlook.chances(0) for outlook in outlooks]
        seconds = math.nan
        if self.pilot is not None:
            seconds = self.pilot.seconds(self.planned, seeds, self.options.baseline_seeds)
        return Row(
            seeds,
            [outlook.detectable(self.options.power) for outlook in outlooks],
            [chances.better for chances in asked],
            [chances.equivalent for chances in equal],
            seconds / 3600,
        )

    @cached_property
    def rows(self) -> list[Row]:
        """Designs that can give a verdict, from the fewest seeds on; those planned are among them."""
        fewest = 1 if self.planned.folds > 1 else 2
        seeds = {*range(fewest, self.options.max_seeds + 1), *([self.planned.seeds] * (self.planned.seeds >= fewest))}
        return [self.row(count) for count in sorted(seeds)]

    @property
    def as_planned(self) -> Row:
        """The design of the seeds that are planned."""
        return next((row for row in self.rows if row.seeds == self.planned.seeds), self.row(self.planned.seeds))

    def enough(self, comparison: int) -> Row | None:
        """The smallest design that tells a comparison's difference as asked."""
        return next((row for row in self.rows if row.detectable[comparison] <= self.options.detect), None)

    def enough_for_all(self) -> Row | None:
        """The smallest design that tells the difference as asked in every comparison."""
        return next((row for row in self.rows if max(row.detectable) <= self.options.detect), None)

    def images_needed(self, comparison: int) -> int | None:
        """Test images of a fold with which the largest design would tell a comparison's difference; None: no number of
        them would do."""
        return power.images_needed(*self._asked(comparison))

    def folds_needed(self, comparison: int) -> int | None:
        """The same of folds with as many test images."""
        return power.folds_needed(*self._asked(comparison))

    def _asked(self, comparison: int) -> tuple[Spreads, Design, float, float, int, float]:
        asked = self.options.detect, self.options.power, self.comparisons, self.margin
        return self.expected[comparison].spreads, self.design(self.rows[-1].seeds), *asked


def outlooks(planned: Planned, pilot: Pilot | None, options: Plan) -> Outlooks:
    """The designs, with spreads from a pilot or as given. A UserError where neither tells them, or the data set can't
    be read."""
    images = options.images or len(planned.first.make_dataset("val").image_ids)
    expected = []
    for variant, rival in planned.pairs:
        known = pilot.known.get((variant, rival)) if pilot is not None else None
        typical = pilot.typical if pilot is not None else None
        expected.append(
            Expected(variant, rival, _spreads(known.spreads if known else typical, options, planned, images), known)
        )
    return Outlooks(planned, pilot, expected, options, images)


def _spreads(of_pilot: Spreads | None, options: Plan, planned: Planned, images: int) -> Spreads:
    given = options.given_spreads()
    if of_pilot is not None:
        return replace(of_pilot.of_images(images), **given)
    if missing := [key for key in ("images", "training") if key not in given]:
        name = options.pilot or planned.first.study.name
        raise UserError(
            f"study {name} has no two finished runs of two heads that tell how differences spread: run two seeds of it "
            f"first, or give pilot=STUDY, or {' and '.join(f'spread.{key}=AP' for key in missing)}"
        )
    return replace(Spreads(images=0.0, training=0.0, test_images=images), **given)

"""What a section of a report is: it makes its content of what is known of a study, and says which files that makes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from matplotlib.figure import Figure

from experiments.config.groups import Contrast
from experiments.render.table import Table
from experiments.report import compare, predictions
from experiments.report.tuning_file import Tuning
from experiments.runs.plan_file import FrozenPlan
from experiments.runs.study import Study
from instseg.statistics.verdict import MARGIN

Draw = Callable[[], Figure | None]
"""Makes a figure, or None where there is nothing to draw."""


@dataclass
class Findings:
    """What the sections draw on; what several of them need is worked out once.

    Attributes:
        baseline: the variant that the others are compared with; may be absent.
        resamples: bootstrap replicates for the intervals.
        data_root: where the data sets lie; None: where the runs found them.
        speed: the content of ``speed.json``; None where there is none.
        tuning: the content of ``tuning.json``; None where there is none.
        contrasts: the comparisons that the study names beforehand.
        margin: AP points within which variants are equivalent.
        plan: what was frozen before the first run; None: nothing.
    """

    study: Study
    baseline: str
    resamples: int
    data_root: str | None = None
    speed: dict[str, Any] | None = None
    tuning: Tuning | None = None
    contrasts: Sequence[Contrast] = ()
    margin: float = MARGIN
    plan: FrozenPlan | None = None

    @cached_property
    def predictions(self) -> predictions.Predictions:
        """One reading of all predictions."""
        return predictions.read(self.study, self.resamples)

    @cached_property
    def scores(self) -> compare.StudyScores:
        """AP of all variants, and the differences to the baseline."""
        return compare.compare(self.study, self.predictions.scores, self.baseline, self.margin)


@dataclass
class Content:
    """What a section has to say; what it lacks stays empty.

    Attributes:
        table: for its files of numbers.
        text: parts of the text for the terminal.
        figure: of all variants.
        figures: one a variant, by label.
        reason: why there is no figure; empty where ``skipped`` says it or nothing need be said.
        skipped: a line for each thing that can't be given, and why.
        notes: a line for each thing that a reader should know.
    """

    table: Table | None = None
    text: list[str] = field(default_factory=list)
    figure: Draw | None = None
    figures: dict[str, Draw] = field(default_factory=dict)
    reason: str = ""
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        name: stem of its table's files.
        make: what it has to say. A ``DataError`` means that a file which it needs can't be used.
        endings: of its table's files.
        figure: stem of its figure; empty: it has none. Figures of single variants lie in a folder of that name.
        photographs: whether its figures show images of a data set, which may not be passed on.
        former: stem of its table's files in earlier versions.
    """

    name: str
    make: Callable[[Findings], Content]
    endings: tuple[str, ...] = ("csv", "md", "tex")
    figure: str = ""
    photographs: bool = False
    former: str = ""

    def files(self, *, former: bool = False) -> list[str]:
        """Names of its table's files and of its figure of all variants; ``former``: also those of earlier versions."""
        stems = [self.name, self.former] if former and self.former else [self.name]
        tables = [f"{stem}.{ending}" for stem in stems for ending in self.endings]
        return tables + ([f"{self.figure}.png", f"{self.figure}.pdf"] if self.figure else [])

"""What finished runs tell beforehand: how differences spread, and how long a run takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.config.groups import Contrast
from experiments.plan.planned import Planned
from experiments.report.compare import Scores, add_scores
from experiments.report.contrasts import Pair, with_runs
from experiments.runs.study import MAIN, Study, about, read
from experiments.runs.study_files import PREDICTIONS
from instseg.statistics import pilot as measured
from instseg.statistics.power import PARTS, Spreads


@dataclass(frozen=True)
class Pilot:
    """What the finished runs of a study tell of planned ones.

    Attributes:
        study: the finished runs.
        known: the spreads of planned comparisons that it has two runs of each side of.
        typical: the root mean squares of the spreads of these, or where there are none, of its own comparisons with its
            baseline: for all others; None where it has no two runs of any.
    """

    study: Study
    known: dict[Pair, measured.Pilot]
    typical: Spreads | None

    def seconds(self, planned: Planned, seeds: int, baseline_seeds: int | None) -> float:
        """How long the planned study takes with so many seeds, on the machine and beside the work that the pilot had;
        nan where the pilot can't tell. Trials of a tuning are not in it."""
        runs, folds, jobs = self.study.runs, planned.folds, planned.first.runtime.jobs
        runs = runs[runs["wall_seconds"].notna() & (runs["protocol"] == planned.first.protocol)]
        if runs.empty:
            return math.nan
        if planned.first.protocol == "frozen_core":
            # the heads of a fold and seed are trained in one pass, and each notes the time of all of it
            passes = runs.groupby(["fold", "seed"])["wall_seconds"].max()
            return float(passes.mean()) * folds * max(seeds, baseline_seeds or 0) / jobs
        by_name = runs.groupby("name")["wall_seconds"].mean()
        names = planned.study.runs.drop_duplicates("variant").set_index("variant")["name"]
        baselines = {rival for _, rival in planned.pairs} if baseline_seeds else set()
        total = 0.0
        for variant, name in names.items():
            count = (baseline_seeds or seeds) if variant in baselines else seeds
            total += count * float(by_name.get(name, by_name.mean()))
        return total * folds / jobs

    @property
    def devices(self) -> str:
        """What its runs were carried out on."""
        return ", ".join(sorted({str(device) for device in self.study.runs["device"].dropna()}))


def read_pilot(folder: Path, planned: Planned) -> Pilot:
    """Read the finished runs of ``folder``, ``results/<study>``; a UserError where there are none, or they are
    damaged."""
    study, resamples = read(folder), planned.first.evaluation.resamples
    wanted: dict[Pair, Pair] = {}
    for variant, rival in planned.pairs:
        pairs, _ = with_runs(study, [Contrast(variant, rival)])
        wanted |= dict.fromkeys(pairs, (variant, rival))
    found = _spreads(study, list(wanted), resamples)
    known = {wanted[pair]: pilot for pair, pilot in found.items()}
    if not known:
        baseline = about(folder).baseline
        rivals = {label: study.rival_of(label, baseline) for label in study.variants}
        found = _spreads(study, [(label, rival) for label, rival in rivals.items() if rival], resamples)
    return Pilot(study, known, _typical([pilot.spreads for pilot in found.values()]))


def _spreads(study: Study, pairs: Sequence[Pair], resamples: int) -> dict[Pair, measured.Pilot]:
    """Of the pairs of labels that have two runs of each side, no variant being its own rival."""
    pairs = [(variant, rival) for variant, rival in pairs if variant != rival]
    labels = {label for pair in pairs for label in pair}
    scores: Scores = {MAIN: {}}
    for row in study.counted_rows():
        if row["variant"] in labels:
            truth = study.files.ground_truth(row["ground_truth"])
            add_scores(scores, row, truth, study.files.predictions(row["folder"], truth), PREDICTIONS, resamples)
    of_variants = scores[MAIN]
    pilots = {
        (variant, rival): measured.from_pilot(of_variants.get(variant, {}), of_variants.get(rival, {}))
        for variant, rival in pairs
    }
    return {pair: pilot for pair, pilot in pilots.items() if pilot is not None}


def _typical(spreads: Sequence[Spreads]) -> Spreads | None:
    if not spreads:
        return None
    images = spreads[0].test_images
    mean = np.mean([each.variances(images) for each in spreads], axis=0)
    return Spreads(**dict(zip(PARTS, np.sqrt(mean).tolist(), strict=True)), test_images=images)

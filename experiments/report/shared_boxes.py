"""A study's heads in the boxes of the baseline's detections: the measuring is in ``experiments.runs.shared_boxes``."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.render import table
from experiments.report import ap
from experiments.report.compare import Scores, StudyScores, add_scores, compare
from experiments.report.section import Content, Findings, Section
from experiments.runs.shared_boxes import FILE, KINDS, origin, sources
from experiments.runs.study import MAIN, METRICS, Study
from experiments.runs.study_files import checked_results, number
from instseg.errors import DataError, UserError
from instseg.files import read_json
from instseg.statistics.verdict import MARGIN

_HEADINGS = {"AP": "mask AP"} | {metric: metric for metric in METRICS[1:] if metric.startswith("AP")}


def make(findings: Findings) -> Content:
    """``shared_boxes.csv|md|tex``."""
    baseline = findings.baseline
    scores, notes = compare_shared(findings.study, baseline, findings.resamples, findings.margin)
    if not scores.variants:
        why = "masks in shared boxes: no run has them; the sweep makes them when it is given again"
        trained_apart = any(variant.settings["protocol"] != "frozen_core" for variant in findings.scores.variants)
        return Content(skipped=[why] if trained_apart else [], notes=notes)
    note = (
        f"AP in percent of the masks that each variant gives in the boxes that {baseline} of the same fold and seed "
        f"found, with its classes and scores; else as in ap.md ({findings.resamples} resamples)."
    )
    text = {"variant": [variant.label for variant in scores.variants]}
    for metric, heading in _HEADINGS.items():
        means = [variant.metrics[MAIN][metric] for variant in scores.variants]
        if any(mean.n for mean in means):
            text[heading] = [str(mean) for mean in means]
    text["Δ mask AP [95 %]"] = [table.difference(variant.comparisons[MAIN]) for variant in scores.variants]
    return Content(
        table.Table(ap.numbers(scores), ap.text(scores, baseline), note, rule_every=len(scores.variants)),
        text=[table.fitted(pd.DataFrame(text)), f"masks in the boxes that {baseline} found, the same for all"],
        notes=notes,
    )


def compare_shared(
    study: Study, baseline: str, resamples: int, margin: float = MARGIN
) -> tuple[StudyScores, list[str]]:
    """What :func:`experiments.report.compare.compare` gives, of masks in the baseline's boxes, and notes; without
    variants where no run has them."""
    rows, notes = [], []
    scores: Scores = {kind: {} for kind in KINDS}
    source_of = sources(study, baseline)
    origin_of = cache(lambda source: origin(study.files.run(source)))
    for row in study.counted_rows():
        path, source = study.files.run(row["folder"]) / FILE, source_of.get(row["folder"])
        if source is None or not path.is_file():
            continue
        try:
            of, content = origin_of(source), read_json(path)
            if not isinstance(content, dict) or content.get("of") != of:
                notes.append(f"{row['folder']}: its masks in shared boxes are of older detections; sweep again")
                continue
            row |= _metrics(path, content)
            truth = study.files.ground_truth(row["ground_truth"])
            results = checked_results(path, content.get("results"), truth)
        except UserError as error:
            notes.append(f"{error}: no masks in shared boxes of this run")
            continue
        rows.append(row)
        notes += add_scores(scores, row, truth, results, FILE, resamples)
    if not rows:
        return StudyScores([], [], []), notes
    shared = replace(study, runs=pd.DataFrame(rows))
    compared = compare(shared, {kind: scores[kind] for kind in shared.kinds if kind in KINDS}, baseline, margin)
    return compared, notes + compared.notes


def _metrics(path: Path, content: dict[str, Any]) -> dict[str, float]:
    try:
        return {f"{kind}_{metric}": number(content["metrics"][kind][metric]) for kind in KINDS for metric in METRICS}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: its metrics can't be used ({error})") from error


SECTION = Section("shared_boxes", make)

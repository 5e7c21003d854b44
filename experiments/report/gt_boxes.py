"""A study's heads on boxes that are the same for all: the ground truth's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.render import table
from experiments.report.columns import Mean, difference_columns, verdict_columns
from experiments.report.compare import StudyScores, unjudged_note
from experiments.report.section import Content, Findings, Section
from experiments.runs.study import Study
from instseg.errors import DataError
from instseg.evaluation import gt_boxes
from instseg.statistics.resampling import RunKey, RunScores, differences, image_weights
from instseg.statistics.verdict import Comparison, judge

_HEADINGS = {"mask_IoU": "mask IoU", "boundary_IoU": "boundary IoU"} | {
    f"mask_IoU_{size}": f"mask IoU, {size}" for size in gt_boxes.SIZES
}
_WHAT = "masks in ground-truth boxes"
_DIFFERENCE = ["diff", "diff_n", "diff_p", "diff_low", "diff_high"]
_VERDICT = ["diff_holm_low", "diff_holm_high", "diff_p_holm", "real"]


@dataclass(frozen=True)
class VariantIoU:
    """One variant's IoU in percent over its runs, each the mean over objects, and the difference of mask IoU to the
    baseline."""

    label: str
    runs: int
    means: dict[str, Mean]
    comparison: Comparison


def make(findings: Findings) -> Content:
    """``gt_boxes.csv|md|tex``."""
    variants, notes = compare(findings.study, findings.scores, findings.resamples)
    if not variants:
        return Content(skipped=[f"{_WHAT}: no run has them; those of earlier versions don't"], notes=notes)
    note = (
        "IoU in percent of the mask that a head gives each object in the object's own box, mean over objects, then "
        "mean ± sample standard deviation over runs; boundaries as in boundary AP; sizes are COCO's. Δ: to the "
        f"baseline, with an interval paired over images and runs by Holm's correction, {table.MARK} where it excludes "
        f"0 ({findings.resamples} resamples). {table.MISSING}: nothing to measure or to compare with."
    )
    text = _text(variants)
    legend = f"IoU in percent of masks in the objects' own boxes; {table.MARK}: real"
    return Content(table.Table(numbers(variants), text, note), text=[table.fitted(text), legend], notes=notes)


def compare(study: Study, scores: StudyScores, resamples: int) -> tuple[list[VariantIoU], list[str]]:
    """The variants of which a run was scored in ground-truth boxes, and notes.

    Args:
        study: the finished runs.
        scores: the order of variants, and what each is compared with.
        resamples: of the images.
    """
    summaries, runs, notes = _read(study, resamples)
    rivals = {label: scores.rivals.get(label) for label in scores.order if label in runs}
    measured = differences(runs, rivals)
    comparisons = judge(measured, "mask", "IoU")
    variants = []
    for label in rivals:
        frame = pd.DataFrame(summaries[label])
        means = {key: Mean.over(pd.to_numeric(frame[key])) for key in _HEADINGS}
        variants.append(VariantIoU(label, len(frame), means, comparisons[label]))
        if comparisons[label].exists and not measured[label].comparable:
            notes.append(unjudged_note(label, _WHAT, measured[label]))
    return variants, notes


def numbers(variants: list[VariantIoU]) -> pd.DataFrame:
    """The table for machines, one row a variant; ``results/README.md`` says what each column is."""
    rows = []
    for variant in variants:
        row: dict[str, Any] = {"variant": variant.label, "n": variant.runs}
        for key, mean in variant.means.items():
            row |= mean.columns(key)
        row["compared_with"] = variant.comparison.rival
        columns = difference_columns(variant.comparison) | verdict_columns(variant.comparison)
        rows.append(row | {key: columns[key] for key in (*_DIFFERENCE, *_VERDICT)})
    return pd.DataFrame(rows)


def _text(variants: list[VariantIoU]) -> pd.DataFrame:
    """The table as people read it."""
    columns = {"variant": [variant.label for variant in variants]}
    for key, heading in _HEADINGS.items():
        if any(variant.means[key].n for variant in variants):
            columns[heading] = [str(variant.means[key]) for variant in variants]
    columns["Δ mask IoU [95 %]"] = [table.difference(variant.comparison) for variant in variants]
    return pd.DataFrame(columns)


def _read(
    study: Study, resamples: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[RunKey, RunScores]], list[str]]:
    """By variant, a summary of each run, and its mask IoU on resampled images; and notes."""
    summaries: dict[str, list[dict[str, Any]]] = {}
    runs: dict[str, dict[RunKey, RunScores]] = {}
    notes = []
    for run in study.counted_rows():
        label, name = run["variant"], run["ground_truth"]
        try:
            truth = study.files.ground_truth(name)
            ious = study.files.gt_box_ious(run["folder"], truth)
        except DataError as error:
            notes.append(f"{error}: no {_WHAT} of this run")
            continue
        if ious is not None:
            summaries.setdefault(label, []).append(gt_boxes.summary(truth.dataset, *ious))
            scored = _on_resamples(truth.dataset, ious[0], run["fold"], resamples)
            runs.setdefault(label, {})[run["fold"], run["seed"]] = scored._replace(data=str(name))
    return summaries, runs, notes


def _on_resamples(truth: Mapping[str, Any], ious: NDArray[np.float64], fold: int, resamples: int) -> RunScores:
    """The mean IoU of all objects, of the images as they are and of resamples of them."""
    places = {image["id"]: i for i, image in enumerate(truth["images"])}
    images = [places[truth["annotations"][i]["image_id"]] for i in gt_boxes.objects(dict(truth))]
    sums = np.bincount(images, weights=ious, minlength=len(places)).astype(np.float64)
    counts = np.bincount(images, minlength=len(places)).astype(np.float64)
    weights = image_weights(len(places), fold, resamples)
    with np.errstate(invalid="ignore"):
        return RunScores(100 * (weights @ sums) / (weights @ counts), len(places))


SECTION = Section("gt_boxes", make, former="true_boxes")

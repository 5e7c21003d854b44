"""A study's heads on boxes that are the same for all: the ground truth's."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.render import table
from experiments.report.compare import (
    Mean,
    StudyScores,
    difference_columns,
    unjudged_notes,
    verdict_columns,
    verdict_key,
)
from experiments.report.section import Content, Findings, Section
from experiments.runs.study import Study
from instseg.errors import DataError
from instseg.evaluation import gt_boxes
from instseg.statistics.resampling import RunKey, RunScores, differences, image_weights
from instseg.statistics.verdict import MARGIN, judge

_HEADINGS = {"mask_IoU": "mask IoU", "boundary_IoU": "boundary IoU"} | {
    f"mask_IoU_{size}": f"mask IoU, {size}" for size in gt_boxes.SIZES
}
_WHAT = "masks in ground-truth boxes"
_ORDER = [
    "diff",
    "diff_n",
    "diff_p",
    "diff_low",
    "diff_high",
    "diff_corrected_low",
    "diff_corrected_high",
    "diff_p_holm",
]
_ORDER += ["diff_detectable", "verdict"]


def make(findings: Findings) -> Content:
    """``gt_boxes.csv|md|tex``."""
    numbers, text, notes = compare(findings.study, findings.scores, findings.resamples, findings.margin)
    if numbers.empty:
        return Content(skipped=[f"{_WHAT}: no run has them; those of earlier versions don't"], notes=notes)
    note = (
        "IoU in percent of the mask that a head gives each object in the object's own box, mean over objects, then "
        "mean ± sample standard deviation over runs; boundaries as in boundary AP; sizes are COCO's. Δ: to the "
        f"baseline, with a corrected interval over images and trainings ({findings.resamples} resamples). "
        f"{verdict_key(findings.margin, 'IoU')} {table.MISSING}: nothing to measure or to compare with."
    )
    legend = "IoU in percent of masks in the objects' own boxes"
    return Content(table.Table(numbers, text, note), text=[table.fitted(text), legend], notes=notes)


def compare(
    study: Study, scores: StudyScores, resamples: int, margin: float = MARGIN
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """IoU in percent of each variant of which a run was scored in ground-truth boxes, and the difference of mask IoU to
    the baseline; ``scores`` say in which order, and what each is compared with.

    Returns:
        The table for machines (``results/README.md`` says what each column is), as people read it, and notes.
    """
    summaries: dict[str, list[dict[str, Any]]] = defaultdict(list)
    runs: dict[str, dict[RunKey, RunScores]] = defaultdict(dict)
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
            summaries[label].append(gt_boxes.summary(truth.dataset, *ious))
            scored = _on_resamples(truth.dataset, ious[0], run["fold"], resamples)
            runs[label][run["fold"], run["seed"]] = scored._replace(data=str(name))
    labels = [label for label in scores.order if label in runs]
    rivals = {label: scores.rivals.get(label) for label in labels}
    comparisons = judge(differences(runs, rivals), "mask", "IoU", margin)
    numbers, text = [], []
    for label in labels:
        summary, comparison = pd.DataFrame(summaries[label]), comparisons[label]
        row: dict[str, Any] = {"variant": label, "n": len(summary)}
        cells = {"variant": label}
        for key, heading in _HEADINGS.items():
            mean = Mean.over(pd.to_numeric(summary[key]))
            row |= mean.columns(key)
            cells[heading] = str(mean)
        columns = difference_columns(comparison) | verdict_columns(comparison)
        numbers.append(row | {"compared_with": comparison.rival} | {key: columns[key] for key in _ORDER})
        text.append(cells | {"Δ mask IoU [95 %]": table.difference(comparison)})
    notes += unjudged_notes(comparisons.values(), _WHAT)
    shown = pd.DataFrame(text)
    absent = [heading for heading in _HEADINGS.values() if text and (shown[heading] == table.MISSING).all()]
    return pd.DataFrame(numbers), shown.drop(columns=absent), notes


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

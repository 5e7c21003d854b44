"""A study's heads on boxes that are the same for all: the ground truth's."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.render import table
from experiments.report.compare import ALPHA, NOTHING, comparable_runs, unjudged_note
from experiments.runs.folder import TRUE_BOXES
from experiments.runs.study import Study
from instseg.evaluation import gt_boxes
from instseg.statistics.estimate import Estimate, holm
from instseg.statistics.resampling import RunKey, image_weights, over_runs, spread_over_runs

_NUMBERS = ("mask_IoU", "boundary_IoU", *(f"mask_IoU_{size}" for size in gt_boxes.SIZES))
_HEADINGS = {"mask_IoU": "mask IoU", "boundary_IoU": "boundary IoU"} | {
    f"mask_IoU_{size}": f"mask IoU, {size}" for size in gt_boxes.SIZES
}
# by (fold, seed): ground truth, sum of the IoUs and number of objects of each image
_OfVariant = dict[RunKey, tuple[str, NDArray[np.float64], NDArray[np.float64]]]
_Runs = dict[str, _OfVariant]


def compare(study: Study, ap: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """One row a variant of which a run has been scored on true boxes: means and deviations over runs of
    ``mask_IoU, boundary_IoU, mask_IoU_small|medium|large`` (percent), and ``diff, diff_low, diff_high, diff_p,
    diff_p_holm, diff_holm_low, diff_holm_high, real, diff_n`` of mask IoU to the baseline, as
    :func:`experiments.report.compare.compare` has them.

    Args:
        study: the finished runs.
        ap: what :func:`experiments.report.compare.compare` gives: the order of variants, and what each is compared
            with.
        resamples: of the images.
    """
    numbers, runs = _read(study)
    rows: list[dict[str, Any]] = []
    differences: list[Estimate] = []
    rivals = {about["variant"]: _rival(about) for _, about in ap.iterrows() if about["variant"] in runs}
    for _, about in ap.iterrows():
        label = about["variant"]
        if label not in numbers:
            continue
        row: dict[str, Any] = {"variant": label, "n": len(numbers[label])}
        for key in _NUMBERS:
            values = numbers[label][key].dropna()
            row |= {f"{key}_mean": values.mean(), f"{key}_std": values.std(ddof=1), f"{key}_n": len(values)}
        rival = rivals[label]
        alike = [one for one, its in rivals.items() if its == rival]
        row["compared_with"] = rival
        difference, shared = (NOTHING, []) if rival is None else _difference(runs, label, rival, alike, resamples)
        row |= {"diff": difference.value, "diff_n": len(shared), "diff_p": difference.p}
        row |= {"diff_low": difference.low, "diff_high": difference.high}
        if rival is not None and shared and not comparable_runs(shared, list(runs.get(rival, {}))):
            study.notes.append(unjudged_note(label, "masks in true boxes", rival, len(shared)))
            difference = NOTHING
        differences.append(difference)
        rows.append(row)
    for row, one, factor in zip(rows, differences, holm([one.p for one in differences]), strict=True):
        row["diff_holm_low"], row["diff_holm_high"] = one.interval(ALPHA / factor)
        row["diff_p_holm"] = min(1.0, one.p * factor) if factor == factor else math.nan
        row["real"] = None if math.isnan(row["diff_p_holm"]) else row["diff_p_holm"] < ALPHA
    return pd.DataFrame(rows)


def _rival(about: pd.Series) -> str | None:
    other = about["compared_with"]
    comparable = isinstance(other, str) and other != about["variant"] and not math.isnan(about["mask_AP_diff"])
    return other if comparable else None


def write(folder: Path, found: pd.DataFrame, resamples: int) -> list[Path]:
    """``true_boxes.csv|md|tex``."""
    note = (
        "IoU in percent of the mask that a head gives each object in the object's own box, mean over objects, then "
        "mean ± sample standard deviation over runs; boundaries as in boundary AP; sizes are COCO's. Δ: to the "
        "baseline, with an interval paired over images and runs by Holm's correction, * where it excludes 0 "
        f"({resamples} resamples). {table.MISSING}: nothing to measure or to compare with."
    )
    return table.write_all(folder / "true_boxes", found, text(found), note)


def text(found: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it."""
    shown: dict[str, list[str]] = {"variant": list(found["variant"])}
    for key, heading in _HEADINGS.items():
        if found[f"{key}_n"].any():
            shown[heading] = [table.mean_std(row, key) for _, row in found.iterrows()]
    shown["Δ mask IoU [95 %]"] = [_cell(row) for _, row in found.iterrows()]
    return pd.DataFrame(shown)


def _cell(row: pd.Series) -> str:
    if math.isnan(row["diff"]):
        return table.MISSING
    value, low, high = (round(row[key], 1) + 0.0 for key in ("diff", "diff_holm_low", "diff_holm_high"))
    if math.isnan(low):
        return f"{value:+.1f}"
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]{'*' if row['real'] else ''}"


def _read(study: Study) -> tuple[dict[str, pd.DataFrame], _Runs]:
    """Each variant's summaries, a row a run, and its runs' IoUs by image."""
    truths: dict[str, dict[str, Any]] = {}
    numbers: dict[str, list[dict[str, Any]]] = {}
    runs: _Runs = {}
    for run in study.runs[study.runs["counted"]].to_dict("records"):
        path, name = study.folder / "runs" / run["folder"] / TRUE_BOXES, str(run["ground_truth"])
        if not path.is_file():
            continue
        try:
            if name not in truths:
                truths[name] = json.loads((study.folder / name).read_text("utf-8"))
            scored = json.loads(path.read_text("utf-8"))
            of_masks, of_boundaries = (np.asarray(scored[k], dtype=np.float64) for k in ("mask_iou", "boundary_iou"))
            truth = truths[name]
            images = {image["id"]: i for i, image in enumerate(truth["images"])}
            places = [images[truth["annotations"][i]["image_id"]] for i in gt_boxes.objects(truth)]
            sums = np.bincount(places, weights=of_masks, minlength=len(images)).astype(np.float64)
            counts = np.bincount(places, minlength=len(images)).astype(np.float64)
            summary = gt_boxes.summary(truth, of_masks, of_boundaries)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            study.notes.append(f"{run['folder']}: its masks in true boxes can't be read ({reason})")
            continue
        numbers.setdefault(run["variant"], []).append(summary)
        runs.setdefault(run["variant"], {})[run["fold"], run["seed"]] = (name, sums, counts)
    return {label: pd.DataFrame(rows).apply(pd.to_numeric) for label, rows in numbers.items()}, runs


def _difference(runs: _Runs, label: str, other: str, alike: list[str], resamples: int) -> tuple[Estimate, list[RunKey]]:
    """Mask IoU minus the other variant's, over the pairs of runs with the same fold, seed and ground truth, and these.

    Args:
        alike: variants that are compared with the other one, too; how seeds differ is told by all of them.
    """
    mine, theirs = runs[label], runs.get(other, {})
    keys = sorted(key for key in mine if key in theirs and mine[key][0] == theirs[key][0])
    if not keys:
        return NOTHING, keys
    difference = _table(mine, keys, resamples) - _table(theirs, keys, resamples)
    fit = [runs[one] for one in alike if all(runs[one].get(key, ("",))[0] == theirs[key][0] for key in keys)]
    spread = spread_over_runs([_table(one, keys, resamples) for one in [theirs, *fit]], keys, _images(theirs, keys))
    return over_runs(difference, keys, _images(mine, keys), spread), keys


def _table(runs: _OfVariant, keys: list[RunKey], resamples: int) -> NDArray[np.float64]:
    columns = []
    for key in keys:
        _, sums, counts = runs[key]
        weights = image_weights(len(sums), key[0], resamples)
        with np.errstate(invalid="ignore"):
            columns.append(100 * (weights @ sums) / (weights @ counts))
    return np.stack(columns, axis=1)


def _images(runs: _OfVariant, keys: list[RunKey]) -> dict[int, int]:
    return {key[0]: len(runs[key][1]) for key in keys}

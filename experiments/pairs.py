"""Several results files against one annotation file: is the first one's AP really lower or higher?"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from pycocotools.coco import COCO
from tabulate import tabulate

from experiments.render.table import MARK, MISSING
from experiments.report.compare import ALPHA
from instseg.evaluation.coco import Kind, Results
from instseg.evaluation.matches import match
from instseg.statistics.estimate import Estimate, holm
from instseg.statistics.resampling import own_interval, paired_difference

_RUN = (0, 0)


def differences(
    truth: COCO, results: dict[str, Results], kinds: Sequence[Kind], resamples: int, seed: int
) -> pd.DataFrame:
    """AP of each file and its difference to the first one, on the same resamples of the annotations' images.

    Every image and category of the annotations counts for every file: what a file has no result on, it has not found.

    Args:
        truth: index of the annotations, as :func:`instseg.evaluation.coco.load` gives it.
        results: by name, results without fault, by all of ``kinds``; the first is the baseline.
        resamples, seed: number of bootstrap replicates, and the bootstrap's own seed.

    Returns:
        One row a kind and file: ``kind, predictions``, in percent ``AP, AP_low, AP_high``, and to the first file
        ``diff, diff_low, diff_high, p``, and with Holm's correction for the number of files ``p_holm, diff_holm_low,
        diff_holm_high, real``; nan and None in the first file's own row.
    """
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        runs = {name: {_RUN: match(truth, found, kind)} for name, found in results.items()}
        first, *others = runs
        found = {name: paired_difference(runs[name], runs[first], resamples, seed).difference for name in others}
        factors = dict(zip(others, holm([one.p for one in found.values()]), strict=True))
        for name in runs:
            own = own_interval(runs[name], resamples, seed)
            row = {"kind": kind, "predictions": name, "AP": own.value}
            row |= {"AP_low": max(own.low, 0.0), "AP_high": min(own.high, 100.0)}
            rows.append(row | (_difference(found[name], factors[name]) if name in found else {"real": None}))
    return pd.DataFrame(rows)


def _difference(difference: Estimate, factor: float) -> dict[str, Any]:
    low, high = difference.interval(ALPHA / factor)
    return {
        "diff": difference.value,
        "diff_low": difference.low,
        "diff_high": difference.high,
        "p": difference.p,
        "p_holm": min(1.0, difference.p * factor),
        "diff_holm_low": low,
        "diff_holm_high": high,
        "real": low > 0 or high < 0 if factor == factor else None,
    }


def gaps(truth: COCO, results: dict[str, Results]) -> list[str]:
    """A line for each file that has nothing on some images or categories where there is something to be found."""
    objects = [one for one in truth.dataset["annotations"] if not one["iscrowd"]]
    lines = []
    for name, found in results.items():
        for key, what in (("image_id", "images"), ("category_id", "categories")):
            present = {one[key] for one in objects}
            absent = sorted(present - {one[key] for one in found})
            if absent:
                shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
                missed = f"no result on {len(absent)} of {len(present)} {what} with objects ({shown})"
                lines.append(f"{name}: {missed}; they count as not found")
    return lines


def text(frame: pd.DataFrame, images: int, resamples: int) -> str:
    """The frame for a terminal."""
    first = frame["predictions"].iloc[0]
    rows = []
    for _, row in frame.iterrows():
        compared = row["diff"] == row["diff"]
        told = compared and row["p"] == row["p"]
        rows.append(
            [
                row["kind"],
                row["predictions"],
                _range(row, "{:.2f}", "AP", "AP_low", "AP_high"),
                _range(row, "{:+.2f}", "diff", "diff_holm_low", "diff_holm_high") if compared else MISSING,
                _probability(row["p"]) if told else MISSING,
                _probability(row["p_holm"]) if told else MISSING,
                "yes " + MARK if row["real"] else "no" if told else MISSING,
            ]
        )
    names = ["kind", "predictions", "AP [95 %]", "Δ AP [95 %, Holm]", "p", "p, Holm", "real"]
    table = tabulate(rows, names, disable_numparse=True, colalign=["left", "left", *["right"] * 5])
    return (
        f"differences to {first}, paired over {images} images, {resamples} resamples:\n\n{table}\n\n"
        "AP in percent. The intervals cover the draw of the images, not what another training of the same models would "
        "give."
    )


def _range(row: pd.Series, style: str, *keys: str) -> str:
    # "+ 0.0" turns -0.0 into 0.0
    value, low, high = (style.format(round(row[key], 2) + 0.0) for key in keys)
    return value if row[keys[1]] != row[keys[1]] else f"{value} [{low}, {high}]"


def _probability(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"

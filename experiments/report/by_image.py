"""On how many held-out images each variant is better than the baseline, equal or worse."""

from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.render import table
from experiments.render.plot import row_figure
from experiments.report.compare import StudyScores, ranked
from experiments.report.predictions import IMAGE, RUN, SCORE
from experiments.report.section import Content, Findings, Section

TIE = 0.01
"""Up to which difference of mean IoU two heads are equal on an image."""
# Colours of the bars and of the numbers in them.
_OUTCOMES = {"better": ("#0072B2", "white"), "equal": ("#dddddd", "black"), "worse": ("#E69F00", "black")}


@dataclass(frozen=True)
class ImageOutcomes:
    """Numbers of images on which a variant is better than its rival, equal (up to :data:`TIE`) and worse.

    Attributes:
        pairs: of runs; on each image the mean over them counts.
        iou_diff: the mean difference over images.
    """

    variant: str
    compared_with: str
    pairs: int
    images: int
    better: int
    equal: int
    worse: int
    iou_diff: float


def make(findings: Findings) -> Content:
    """``win_tie_loss.csv|md|tex|png|pdf``."""
    outcomes = count_outcomes(findings.predictions.images, findings.scores.rivals)
    if not outcomes:
        return Content(reason="no variant can be compared")
    text = pd.DataFrame(
        [
            {
                "variant": each.variant,
                "compared with": each.compared_with,
                **{key: str(getattr(each, key)) for key in ("images", *_OUTCOMES)},
                "mean Δ IoU": table.signed(each.iou_diff, 3),
                "runs": str(each.pairs),
            }
            for each in outcomes
        ]
    )
    note = (
        "Held-out images with objects, by the mean over their objects of the mask IoU with the prediction above "
        f"score {SCORE} of the same category, 0 for a missed object; mean over pairs of runs. Equal: within {TIE}."
    )
    legend = "held-out images by the mean mask IoU of their objects, better or worse than the baseline's by more than"
    return Content(
        table.Table(pd.DataFrame(outcomes), text, note),
        text=[table.fitted(text.drop(columns="compared with")), f"{legend} {TIE}"],
        figure=partial(bars, outcomes, findings.scores),
    )


def count_outcomes(images: pd.DataFrame, rivals: dict[str, str]) -> list[ImageOutcomes]:
    """The outcomes of each variant that shares an image with its rival.

    Args:
        images: of :class:`experiments.report.predictions.Predictions`.
        rivals: by variant.
    """
    outcomes = []
    for variant, rival in rivals.items():
        differences = paired(images, variant, rival)
        if len(differences):
            mean = differences["difference"]
            better, worse = int((mean > TIE).sum()), int((mean < -TIE).sum())
            equal = len(differences) - better - worse
            pairs = _pairs(images, variant, rival)
            counts = (pairs, len(differences), better, equal, worse)
            outcomes.append(ImageOutcomes(variant, rival, *counts, iou_diff=float(mean.mean())))
    return outcomes


def paired(images: pd.DataFrame, variant: str, rival: str) -> pd.DataFrame:
    """Differences image by image, over the runs with the same fold, seed and ground truth.

    Returns:
        A row an image: ``ground_truth, image_id, difference`` (mean IoU of ``variant`` minus that of ``rival``, the
        mean over pairs of runs) and ``pairs``.
    """
    key = [*RUN[1:], "image_id"]
    ious, rival_ious = (images.loc[images["variant"] == label].set_index(key)["iou"] for label in (variant, rival))
    difference = (ious - rival_ious).dropna().astype(float).groupby(IMAGE)
    return difference.agg(difference="mean", pairs="size").reset_index()


def _pairs(images: pd.DataFrame, variant: str, rival: str) -> int:
    runs = images[RUN].drop_duplicates()
    first, second = (runs[runs["variant"] == label].drop(columns="variant") for label in (variant, rival))
    return len(first.merge(second))


def bars(outcomes: list[ImageOutcomes], scores: StudyScores) -> Figure:
    """Shares of images on which each variant is better than its rival, equal or worse."""
    by_variant = {each.variant: each for each in outcomes}
    rows = [by_variant[variant.label] for variant in ranked(scores.variants) if variant.label in by_variant]
    figure, (axes,) = row_figure([row.variant for row in rows], 1, 7.0)
    for y, row in enumerate(rows):
        left = 0.0
        for key, (colour, ink) in _OUTCOMES.items():
            count = getattr(row, key)
            share = 100 * count / row.images
            axes.barh(y, share, left=left, color=colour, height=0.72)
            if share > 4:
                axes.text(left + share / 2, y, f"{count}", ha="center", va="center", fontsize=8.5, color=ink)
            left += share
        text = f"mean Δ IoU {table.signed(row.iou_diff, 3)}"
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    axes.axvline(50, color="black", linewidth=0.8, linestyle=":", zorder=0)
    axes.grid(False)
    rivals = {row.compared_with for row in rows}
    axes.set(xlabel="held-out images (%)", xlim=(0, 100))
    handles = [Line2D([], [], color=colour, linewidth=8) for colour, _ in _OUTCOMES.values()]
    than = rivals.pop() if len(rivals) == 1 else "the baseline"
    names = [f"better than {than}", f"equal (within {TIE} IoU)", "worse"]
    figure.legend(handles, names, loc="outside upper center", ncols=3, handlelength=1)
    return figure


SECTION = Section("win_tie_loss", make, figure="win_tie_loss")

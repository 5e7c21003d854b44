"""On how many held-out images each variant is better than the baseline, equivalent or worse."""

from functools import partial

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.render import table
from experiments.render.plot import rival_name, row_figure
from experiments.report.compare import StudyScores, ranked
from experiments.report.predictions import IMAGE, RUN, SCORE
from experiments.report.section import Content, Findings, Section

TIE = 0.01
"""Up to which difference of mean IoU two heads are equivalent on an image."""
# Colours of the bars and of the numbers in them.
_OUTCOMES = {"better": ("#0072B2", "white"), "equivalent": ("#dddddd", "black"), "worse": ("#E69F00", "black")}


def make(findings: Findings) -> Content:
    """``win_tie_loss.csv|md|tex|png|pdf``."""
    outcomes = count_outcomes(findings.predictions.images, findings.scores.rivals)
    if outcomes.empty:
        return Content(reason="no variant can be compared")
    text = outcomes.rename(columns={"compared_with": "compared with"}).assign(
        **{"mean Δ IoU": outcomes["iou_diff"].map(lambda value: table.signed(value, 3)), "runs": outcomes["pairs"]}
    )
    text = text[["variant", "compared with", "images", *_OUTCOMES, "mean Δ IoU", "runs"]].astype(str)
    note = (
        "Held-out images with objects, by the mean over their objects of the mask IoU with the prediction above "
        f"score {SCORE} of the same category, 0 for a missed object; mean over pairs of runs. Equal: within {TIE}."
    )
    legend = "held-out images by the mean mask IoU of their objects, better or worse than the baseline's by more than"
    return Content(
        table.Table(outcomes, text, note),
        text=[table.fitted(text.drop(columns="compared with")), f"{legend} {TIE}"],
        figure=partial(bars, outcomes, findings.scores),
    )


def count_outcomes(images: pd.DataFrame, rivals: dict[str, str]) -> pd.DataFrame:
    """The numbers of images on which each variant is better than its rival, equivalent (up to :data:`TIE`) and worse,
    from the ``images`` of :class:`experiments.report.predictions.Predictions`.

    Returns:
        A row for each variant that shares an image with its rival: ``variant, compared_with, pairs`` (of runs; on each
        image the mean over them counts), ``images, better, equivalent, worse, iou_diff`` (the mean difference over
        images).
    """
    rows = []
    runs = images[RUN].drop_duplicates()
    for variant, rival in rivals.items():
        mean = paired(images, variant, rival)["difference"]
        if mean.empty:
            continue
        first, second = (runs[runs["variant"] == label].drop(columns="variant") for label in (variant, rival))
        rows.append(
            {
                "variant": variant,
                "compared_with": rival,
                "pairs": len(first.merge(second)),
                "images": len(mean),
                "better": int((mean > TIE).sum()),
                "equivalent": len(mean) - int((mean > TIE).sum()) - int((mean < -TIE).sum()),
                "worse": int((mean < -TIE).sum()),
                "iou_diff": float(mean.mean()),
            }
        )
    return pd.DataFrame(rows)


def paired(images: pd.DataFrame, variant: str, rival: str) -> pd.DataFrame:
    """Differences image by image, over the runs with the same fold, seed and ground truth.

    Returns:
        A row an image: ``ground_truth, image_id, difference`` (mean IoU of ``variant`` minus that of ``rival``, the
        mean over pairs of runs).
    """
    key = [*RUN[1:], "image_id"]
    ious, rival_ious = (images.loc[images["variant"] == label].set_index(key)["iou"] for label in (variant, rival))
    difference = (ious - rival_ious).dropna().astype(float)
    return difference.groupby(IMAGE).mean().rename("difference").reset_index()


def bars(outcomes: pd.DataFrame, scores: StudyScores) -> Figure:
    """Shares of images on which each variant is better than its rival, equivalent or worse."""
    by_variant = outcomes.set_index("variant")
    rows = by_variant.loc[[each.label for each in ranked(scores.variants) if each.label in by_variant.index]]
    figure, (axes,) = row_figure(rows.index, 1, 7.0)
    left = pd.Series(0.0, rows.index)
    for key, (colour, ink) in _OUTCOMES.items():
        share = 100 * rows[key] / rows["images"]
        drawn = axes.barh(range(len(rows)), share, left=left, color=colour, height=0.72)
        names = [f"{count}" if part > 4 else "" for count, part in zip(rows[key], share, strict=True)]
        axes.bar_label(drawn, names, label_type="center", fontsize=8.5, color=ink)
        left += share
    for y, value in enumerate(rows["iou_diff"]):
        text = f"mean Δ IoU {table.signed(value, 3)}"
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    axes.axvline(50, color="black", linewidth=0.8, linestyle=":", zorder=0)
    axes.grid(False)
    axes.set(xlabel="held-out images (%)", xlim=(0, 100))
    handles = [Line2D([], [], color=colour, linewidth=8) for colour, _ in _OUTCOMES.values()]
    names = [f"better than {rival_name(rows['compared_with'])}", f"equivalent (within {TIE} IoU)", "worse"]
    figure.legend(handles, names, loc="outside upper center", ncols=3, handlelength=1)
    return figure


SECTION = Section("win_tie_loss", make, figure="win_tie_loss")

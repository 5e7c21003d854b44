"""The images on which heads differ most: those of each variant and its baseline, and those of all variants."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.render.masks import Column, grid
from experiments.report.by_image import paired
from experiments.report.panels import IMAGES, column, explanation
from experiments.report.predictions import IMAGE
from experiments.report.section import Content, Draw, Findings, Section
from experiments.runs import trained
from experiments.runs.study import Study
from instseg.errors import UserError

_ALL = ""
"""Stands for all variants, where an image is chosen for one."""


def make(findings: Findings) -> Content:
    """``disagreement.png|pdf`` and ``disagreement/<variant>.png|pdf``."""
    chosen, notes = choose(findings)
    counted = findings.study.runs[findings.study.runs["counted"]]
    runs = "; means over runs, each head is shown by its first" if counted["variant"].duplicated().any() else ""
    overview = f"Where the heads differ most: standard deviation of mean IoU over heads{runs}. "
    figures: dict[str, Draw] = {
        label: partial(
            grid,
            chosen[label],
            [rival, label],
            f"Where {label} differs most from {rival}, either way: the difference of mean IoU{runs}. "
            + explanation(chosen[label]),
        )
        for label, rival in findings.scores.rivals.items()
    }
    return Content(
        figure=partial(grid, chosen[_ALL], findings.scores.order, overview + explanation(chosen[_ALL])),
        figures=figures,
        reason="no image at hand on which two variants differ",
        notes=notes,
    )


def choose(findings: Findings) -> tuple[dict[str, list[Column]], list[str]]:
    """The images of each variant that has a difference, by its label, and under "" those of all variants; and notes.

    Images are chosen from the whole data set where it is at hand and still the one that the runs were scored on, else
    from those that are stored in the study, which gets a note. A title says how much better the variant is. A
    ``DataError`` names an image that can't be read.
    """
    study, rivals, ious = findings.study, findings.scores.rivals, findings.predictions.images
    sources = {name: _open_images(study, name, findings.data_root) for name in ious["ground_truth"].unique()}
    at_hand = pd.DataFrame([(name, i) for name, source in sources.items() for i in source.image_ids], columns=IMAGE)
    candidates = ious.merge(at_hand, on=IMAGE)
    chosen = {label: both_ways(paired(candidates, label, rival)) for label, rival in rivals.items()}
    chosen[_ALL] = largest_spread(candidates)
    columns: dict[str, list[Column]] = {}
    for label, rows in chosen.items():
        if label == _ALL:
            order, value, title = findings.scores.order, "spread", "image {}\ndeviation {:.2f}"
        else:
            order, value, title = [rivals[label], label], "difference", "image {}\n{:+.2f}"
        columns[label] = []
        for name, image_id, number in rows[[*IMAGE, value]].itertuples(index=False):
            image, text = sources[name].image(image_id), title.format(image_id, number)
            columns[label].append(column(findings, (name, image_id), image, order, text))
    return columns, [source.note for source in sources.values() if source.note]


def both_ways(differences: pd.DataFrame) -> pd.DataFrame:
    """The images with the largest differences, as :func:`experiments.report.by_image.paired` gives them, from best to
    worst, half of them for each side as far as there are such."""
    ordered = differences.sort_values(["difference", *IMAGE], ascending=[False, True, True])
    better, worse = ordered[ordered["difference"] > 0], ordered[ordered["difference"] < 0][::-1]
    best = min(len(better), max(IMAGES // 2, IMAGES - len(worse)))
    return pd.concat([better[:best], worse[: IMAGES - best][::-1]])


def largest_spread(images: pd.DataFrame) -> pd.DataFrame:
    """Of the images that most variants have, those on which they differ most, with the ``spread`` of their mean IoU."""
    means = images.groupby(["variant", *IMAGE])["iou"].mean().groupby(IMAGE)
    spread = means.agg(variants="size", spread=lambda iou: iou.std(ddof=0)).reset_index()
    spread = spread[(spread["variants"] > 1) & (spread["spread"] > 0)]
    return spread.sort_values(["variants", "spread", *IMAGE], ascending=[False, False, True, True])[:IMAGES]


class _ImageSource(NamedTuple):
    """The ids of a ground truth's images that are at hand, how one is read, (H, W, 3) uint8, and why only the stored
    ones are at hand, else empty."""

    image_ids: list[int]
    image: Callable[[int], NDArray[np.uint8]]
    note: str = ""


def _open_images(study: Study, ground_truth: str, data_root: str | None) -> _ImageSource:
    """All images of the data set where it can be opened, else the stored ones."""
    run = study.runs.loc[study.runs["ground_truth"] == ground_truth, "folder"].iloc[0]
    try:
        data = trained.held_out(study.folder, str(run), ground_truth, data_root)
    except (UserError, OSError) as error:
        stored = study.files.images(ground_truth)
        note = (
            f"disagreement: of {ground_truth} only the {len(stored)} stored images were looked at, as the "
            f"data set can't be opened ({str(error).splitlines()[0]}); data_root= says where it lies"
        )
        return _ImageSource(list(stored), stored.__getitem__, note)
    ids = list(data.image_ids)
    return _ImageSource(ids, cache(lambda image_id: data[ids.index(image_id)][0].permute(1, 2, 0).contiguous().numpy()))


SECTION = Section("disagreement", make, endings=(), figure="disagreement", photographs=True)

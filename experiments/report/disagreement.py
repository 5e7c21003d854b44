"""The images on which heads differ most: those of each variant and its baseline, and those of all variants."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf.errors import OmegaConfBaseException

from experiments.report import panels
from experiments.report.panels import IMAGES, Column, ImageKey, Material
from experiments.report.predictions import IMAGE, Details, paired, rivals
from experiments.runs import trained
from experiments.runs.study import Study
from instseg.data import InstanceDataset
from instseg.errors import DataError, UserError

Images = dict[ImageKey, NDArray[np.uint8]]


def choose(study: Study, details: Details, ap: pd.DataFrame, data_root: str | None) -> dict[str, list[Column]]:
    """The images of each variant that has a difference, by its label, and under "" those of all variants.

    Images are chosen from the whole data set where it is at hand and still the one that the runs were scored on, else
    from those that are stored in the study, which gets a note. A title says how much better the variant is.

    Args:
        study: the study.
        details: what its predictions say.
        ap: the frame of :func:`experiments.report.compare.compare`.
        data_root: where the data sets lie; None: where the runs found them.
    """
    order = list(ap["variant"])
    sources = {truth: _Source(study, truth, data_root) for truth in details.images["ground_truth"].unique()}
    at_hand = pd.DataFrame([(truth, i) for truth, one in sources.items() for i in one.ids], columns=IMAGE)
    candidates = details.images.merge(at_hand, on=IMAGE)
    chosen = {label: _both_ways(paired(candidates, label, other)) for label, other in rivals(ap)}
    chosen[""] = _spread(candidates)
    keys = {(truth, int(image_id)) for one in chosen.values() for truth, image_id in one[IMAGE].to_numpy()}
    images: Images = {key: sources[key[0]].image(key[1]) for key in sorted(keys)}
    material = panels.gather(study, order, images)
    with_rival = {label: [other, label] for label, other in rivals(ap)} | {"": order}
    return {label: _drawn(material, one, with_rival[label]) for label, one in chosen.items()}


def about(study: Study, label: str, other: str) -> str:
    """What the images of a variant are, for a reader, or those of all where the label is empty."""
    all_runs = study.runs[study.runs["counted"]]
    several = all_runs["variant"].duplicated().any()
    runs = "; means over runs, each head is shown by its first" if several else ""
    if label:
        return f"Where {label} differs most from {other}, either way: the difference of mean IoU{runs}. "
    return f"Where the heads differ most: standard deviation of mean IoU over heads{runs}. "


def _both_ways(differences: pd.DataFrame) -> pd.DataFrame:
    """The images with the largest differences, half of them for each side as far as there are such."""
    ranked = differences.sort_values(["difference", *IMAGE], ascending=[False, True, True])
    better, worse = ranked[ranked["difference"] > 0], ranked[ranked["difference"] < 0][::-1]
    best = min(len(better), max(IMAGES // 2, IMAGES - len(worse)))
    return pd.concat([better[:best], worse[: IMAGES - best][::-1]])


def _spread(images: pd.DataFrame) -> pd.DataFrame:
    """Of the images that most variants have, those on which these differ most."""
    means = images.groupby(["variant", *IMAGE])["iou"].mean().groupby(IMAGE)
    found = means.agg(variants="size", spread=lambda iou: iou.std(ddof=0)).reset_index()
    found = found[(found["variants"] > 1) & (found["spread"] > 0)]
    return found.sort_values(["variants", "spread", *IMAGE], ascending=[False, False, True, True])[:IMAGES]


def _drawn(material: Material, chosen: pd.DataFrame, order: list[str]) -> list[Column]:
    images = []
    for row in chosen.to_dict("records"):
        number = f"{row['difference']:+.2f}" if "difference" in row else f"deviation {row['spread']:.2f}"
        key = str(row["ground_truth"]), int(row["image_id"])
        images.append(material.column(key, order, f"image {key[1]}\n{number}"))
    return images


class _Source:
    """The images of one ground truth file that can be had.

    Attributes:
        ids: theirs.
    """

    def __init__(self, study: Study, ground_truth: str, data_root: str | None) -> None:
        self._stored: dict[int, NDArray[np.uint8]] = {}
        self._data: InstanceDataset | None = None
        runs = study.runs[study.runs["ground_truth"] == ground_truth]
        try:
            self._data = trained.held_out(study.folder, str(runs["folder"].iloc[0]), ground_truth, data_root)
            self.ids = list(self._data.image_ids)
        except (UserError, DataError, OSError, ValueError, OmegaConfBaseException) as error:
            self._stored = panels.stored_images(study.folder, ground_truth)
            self.ids = list(self._stored)
            study.notes.append(
                f"disagreement: of {ground_truth} only the {len(self.ids)} stored images were looked at, as the data "
                f"set can't be opened ({str(error).splitlines()[0]}); data_root= says where it lies"
            )

    def image(self, image_id: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        if self._data is None:
            return self._stored[image_id]
        return self._data[self._data.image_ids.index(image_id)][0].permute(1, 2, 0).contiguous().numpy()

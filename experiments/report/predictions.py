"""What a study's predictions say image by image and by the objects' complexity, beyond one AP a run."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools.coco import COCO

from experiments.report.compare import load_ground_truth
from experiments.runs.study import Study
from instseg.evaluation import by_group, pairing

SCORE = 0.5
"""From which score on a prediction is taken for one, here and in the panels."""
TIE = 0.01
"""Up to which difference of mean IoU two heads are equal on an image."""
THIRDS = ("simple", "middling", "complex")
"""Objects by the complexity of their outline, in thirds of equal number."""
IMAGE = ["ground_truth", "image_id"]
_RUN = ["variant", "fold", "seed", "ground_truth"]


@dataclass
class Details:
    """One reading of all predictions.

    Attributes:
        images: a row a counted run and held-out image with objects: ``variant, fold, seed, ground_truth,
            image_id, iou``. The last is the mean over the image's objects, crowd regions apart, of the mask IoU with
            the prediction above :data:`SCORE` of the same category that covers them; 0 for a missed one.
        complexity: a row a counted run: ``variant, fold, seed, ground_truth`` and mask AP in percent of each of
            :data:`THIRDS`, nan where there are no such objects.
        edges: by data set, the two complexities that part its thirds.
    """

    images: pd.DataFrame
    complexity: pd.DataFrame
    edges: dict[str, tuple[float, float]]


def read(study: Study) -> Details:
    """Read all counted runs; one whose files can't be used is left out, and gets a note."""
    runs = study.runs[study.runs["counted"]]
    truths: dict[str, COCO] = {}
    for name in runs["ground_truth"].dropna().unique():
        try:
            truths[name] = load_truth(study.folder / name)
        except (OSError, ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
            study.notes.append(f"{name}: nothing by image or complexity, it can't be used ({_reason(error)})")
    edges, groups = _thirds({name: (truth, _dataset(runs, name)) for name, truth in truths.items()})
    images: list[pd.DataFrame] = []
    complexity: list[dict[str, Any]] = []
    for row in runs[runs["ground_truth"].isin(list(truths))].to_dict("records"):
        truth, run = truths[row["ground_truth"]], {key: row[key] for key in _RUN}
        try:
            found = json.loads((study.folder / "runs" / row["folder"] / "predictions.json").read_text("utf-8"))
            ious = image_ious(truth, found)
            ap = by_group.mask_ap(truth, found, groups[row["ground_truth"]], len(THIRDS))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
            study.notes.append(f"{row['folder']}: not in what goes by image or complexity ({_reason(error)})")
            continue
        images.append(pd.DataFrame({"image_id": list(ious), "iou": list(ious.values())}).assign(**run))
        complexity.append(run | dict(zip(THIRDS, ap, strict=True)))
    return Details(
        pd.concat(images) if images else pd.DataFrame(columns=[*_RUN, "image_id", "iou"]),
        pd.DataFrame(complexity, columns=[*_RUN, *THIRDS]),
        edges,
    )


def image_ious(truth: COCO, predictions: list[dict[str, Any]]) -> dict[int, float]:
    """The mean IoU (see :class:`Details`) of each image with objects, by its id.

    Args:
        truth: the index of the annotations, segmentations as RLE.
        predictions: COCO results.
    """
    sure: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for prediction in predictions:
        if prediction["score"] > SCORE:
            sure[prediction["image_id"]].append(prediction)
    found = {}
    for image_id in truth.imgs:
        if objects := objects_of(truth, image_id):
            pairs = pair(sure.get(image_id, []), objects)
            found[image_id] = sum(iou for _, iou in pairs.values()) / len(objects)
    return found


def objects_of(truth: COCO, image_id: int) -> list[dict[str, Any]]:
    """The annotations of an image that are no crowd regions."""
    return [annotation for annotation in truth.imgToAnns[image_id] if not annotation.get("iscrowd")]


def pair(predictions: list[dict[str, Any]], objects: list[dict[str, Any]]) -> dict[int, tuple[int, float]]:
    """:func:`instseg.evaluation.pairing.pair` of one image's predictions and annotations of the same category."""
    found, wanted = (np.asarray([one["category_id"] for one in ones]) for ones in (predictions, objects))
    masks, targets = ([one["segmentation"] for one in ones] for ones in (predictions, objects))
    return pairing.pair(masks, targets, found[:, None] == wanted)


def paired(images: pd.DataFrame, variant: str, other: str) -> pd.DataFrame:
    """Differences image by image, over the runs with the same fold, seed and ground truth.

    Returns:
        A row an image: ``ground_truth, image_id, difference`` (mean IoU of ``variant`` minus that of ``other``, the
        mean over pairs of runs) and ``pairs``.
    """
    key = [*_RUN[1:], "image_id"]
    mine, theirs = (images.loc[images["variant"] == label].set_index(key)["iou"] for label in (variant, other))
    difference = (mine - theirs).dropna().astype(float).groupby(IMAGE)
    return difference.agg(difference="mean", pairs="size").reset_index()


def win_tie_loss(images: pd.DataFrame, ap: pd.DataFrame) -> pd.DataFrame:
    """On how many images each variant is better than the baseline, equal or worse; rows for the variants that
    ``ap``, the frame of :func:`experiments.report.compare.compare`, has a difference for.

    Columns: ``variant, compared_with, pairs`` (of runs), ``images, better, equal, worse`` (numbers of images; equal
    is up to :data:`TIE`) and ``iou_diff`` (the mean difference).
    """
    rows = []
    for label, other in rivals(ap):
        found = paired(images, label, other)
        if len(found):
            mean = found["difference"]
            better, worse = int((mean > TIE).sum()), int((mean < -TIE).sum())
            rows.append(
                {
                    "variant": label,
                    "compared_with": other,
                    "pairs": _pairs(images, label, other),
                    "images": len(found),
                    "better": better,
                    "equal": len(found) - better - worse,
                    "worse": worse,
                    "iou_diff": float(mean.mean()),
                }
            )
    return pd.DataFrame(rows)


def by_complexity(details: Details, study: Study, order: list[str]) -> pd.DataFrame:
    """Mask AP of each third of the objects, over the runs of each variant that has any.

    Columns: ``variant``, for each of :data:`THIRDS` ``mask_AP_<third>_mean|_std|_n`` as in ``ap.csv``, and ``edge_low``
    and ``edge_high``, the complexities that part the thirds of the variant's data set.
    """
    columns = [f"mask_AP_{third}_{part}" for third in THIRDS for part in ("mean", "std", "n")]
    rows = []
    for label in order:
        found = details.complexity[details.complexity["variant"] == label]
        if len(found):
            values = [found[third].dropna().astype(float) for third in THIRDS]
            numbers = [number for one in values for number in (one.mean(), one.std(ddof=1), len(one))]
            edges = details.edges[str(study.counted(label)["dataset"].iloc[0])]
            rows.append([label, *numbers, *edges])
    return pd.DataFrame(rows, columns=["variant", *columns, "edge_low", "edge_high"])


def rivals(ap: pd.DataFrame) -> list[tuple[str, str]]:
    """Each variant with a difference, and the baseline it is compared with."""
    compared = ap[ap["mask_AP_diff"].notna()]
    return list(zip(compared["variant"], compared["compared_with"], strict=True))


def _pairs(images: pd.DataFrame, label: str, other: str) -> int:
    runs = images[_RUN].drop_duplicates()
    mine, theirs = (runs[runs["variant"] == name].drop(columns="variant") for name in (label, other))
    return len(mine.merge(theirs))


def load_truth(path: Path) -> COCO:
    """COCO's index over a ground truth file, all segmentations as RLE."""
    truth = load_ground_truth(path)
    for annotation in truth.dataset["annotations"]:
        annotation["segmentation"] = truth.annToRLE(annotation)
    return truth


def _dataset(runs: pd.DataFrame, ground_truth: str) -> str:
    return str(runs.loc[runs["ground_truth"] == ground_truth, "dataset"].iloc[0])


def _thirds(
    truths: dict[str, tuple[COCO, str]],
) -> tuple[dict[str, tuple[float, float]], dict[str, NDArray[np.int64]]]:
    """The edges of the thirds of each data set, and the third of each annotation of each ground truth."""
    values = {
        name: np.asarray(
            [
                math.nan if one.get("iscrowd") else pairing.complexity(one["segmentation"])
                for one in truth.dataset["annotations"]
            ]
        )
        for name, (truth, _) in truths.items()
    }
    edges: dict[str, tuple[float, float]] = {}
    groups = {}
    for name, (_, dataset) in truths.items():
        if dataset not in edges:
            pooled = np.concatenate([values[other] for other, (_, same) in truths.items() if same == dataset])
            pooled = pooled[~np.isnan(pooled)]
            low, high = np.quantile(pooled, [1 / 3, 2 / 3]).tolist() if len(pooled) else (math.nan, math.nan)
            edges[dataset] = low, high
        thirds = np.searchsorted(edges[dataset], values[name], side="left")
        groups[name] = np.where(np.isnan(values[name]), by_group.NO_GROUP, thirds)
    return edges, groups


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

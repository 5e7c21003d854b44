"""Panels **image | prediction | ground truth**: what the masks of each variant look like on the same pictures."""

import colorsys
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from experiments.aggregate import Study
from experiments.compare import load_ground_truth
from experiments.tables import wrap

SCORE = 0.5
PICTURES = 4
_OPACITY = 0.45
_GAP = 0.05
# A prediction takes the colour of an object that it covers at least this much.
_SAME_OBJECT = 0.2
# Ground truth file (relative to the study) and image id: ids alone repeat between folds and data sets.
PictureKey = tuple[str, int]
Colour = tuple[float, float, float]


@dataclass
class Instances:
    """Objects of one picture: ``masks`` (N, H, W) bool, ``boxes`` (N, 4) xywh in pixels, a colour each."""

    masks: NDArray[np.bool_]
    boxes: NDArray[np.float64]
    colours: list[Colour]


@dataclass
class Picture:
    """One row of the panels; a variant without a run on this picture has no entry in ``predictions``."""

    key: PictureKey
    image: NDArray[np.uint8]
    truth: Instances
    predictions: dict[str, Instances]


def collect(study: Study, order: list[str]) -> list[Picture]:
    """The pictures to show, those that most variants have first, with the predictions above :data:`SCORE`.

    Each variant is shown by the first of its runs, in the order of folds and seeds, that holds the picture.
    """
    stored = {truth: _pictures(study.folder, truth) for truth in study.runs["ground_truth"].dropna().unique()}
    first: dict[tuple[str, str], str] = {}
    for label in order:
        for _, row in study.counted(label).iterrows():
            if (study.folder / "runs" / row["folder"] / "predictions.json").is_file():
                first.setdefault((label, row["ground_truth"]), row["folder"])
    keys = [(truth, image_id) for truth, images in stored.items() for image_id in images]
    holders = {truth: sum((label, truth) in first for label in order) for truth in stored}
    keys = sorted((key for key in keys if holders[key[0]]), key=lambda key: -holders[key[0]])[:PICTURES]
    truths = {truth: load_ground_truth(study.folder / truth) for truth in {key[0] for key in keys}}
    found: dict[str, list[dict[str, Any]]] = {}
    pictures = []
    for truth, image_id in keys:
        shown = _truth(truths[truth], image_id, stored[truth][image_id].shape[:2])
        picture = Picture((truth, image_id), stored[truth][image_id], shown, {})
        for label in order:
            folder = first.get((label, truth))
            if folder is not None:
                if folder not in found:
                    found[folder] = json.loads((study.folder / "runs" / folder / "predictions.json").read_text("utf-8"))
                picture.predictions[label] = _prediction(found[folder], image_id, picture)
        pictures.append(picture)
    return pictures


def _pictures(folder: Path, truth: str) -> dict[int, NDArray[np.uint8]]:
    """The stored pictures of a ground truth file by image id, in order; empty where there are none."""
    path = (folder / truth).with_suffix("")
    path = path.with_name(f"{path.name}-pictures.npz")
    if not path.is_file() or not (folder / truth).is_file():
        return {}
    with np.load(path) as arrays:
        images = {int(name.removeprefix("image_")): arrays[name] for name in arrays.files}
    return dict(sorted(images.items()))


def _truth(coco: COCO, image_id: int, size: tuple[int, ...]) -> Instances:
    annotations = [a for a in coco.imgToAnns[image_id] if not a.get("iscrowd")]
    masks = [coco.annToMask(annotation).astype(bool) for annotation in annotations]
    return Instances(
        np.stack(masks) if masks else np.zeros((0, *size), dtype=bool),
        np.asarray([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4),
        [_colour(number) for number in range(len(annotations))],
    )


def _prediction(results: list[dict[str, Any]], image_id: int, picture: Picture) -> Instances:
    """The confident predictions on one picture, the least confident first so that the best are drawn on top."""
    mine = [r for r in results if r["image_id"] == image_id and r["score"] > SCORE]
    mine.sort(key=lambda result: result["score"])
    masks = np.zeros((len(mine), *picture.image.shape[:2]), dtype=bool)
    for mask, result in zip(masks, mine, strict=True):
        mask[:] = rle_tools.decode(result["segmentation"])
    boxes = np.asarray([result["bbox"] for result in mine], dtype=np.float64).reshape(-1, 4)
    return Instances(masks, boxes, matched_colours(masks, picture.truth))


def matched_colours(masks: NDArray[np.bool_], truth: Instances) -> list[Colour]:
    """Colours for (N, H, W) masks: that of the object each covers best, one mask an object, by falling IoU;
    masks that cover none get colours that no object has."""
    flat, other = (m.reshape(len(m), math.prod(m.shape[1:])).astype(np.float32) for m in (masks, truth.masks))
    common = flat @ other.T
    iou = common / np.maximum(flat.sum(1)[:, None] + other.sum(1)[None] - common, 1)
    chosen: dict[int, Colour] = {}
    while iou.size and iou.max() >= _SAME_OBJECT:
        mask, target = np.unravel_index(iou.argmax(), iou.shape)
        chosen[int(mask)] = truth.colours[int(target)]
        iou[mask], iou[:, target] = 0, 0
    spare = iter(range(len(truth.colours), len(truth.colours) + len(masks)))
    return [chosen[n] if n in chosen else _colour(next(spare)) for n in range(len(masks))]


def _colour(number: int) -> Colour:
    """Well separated strong colours, as many as are asked for."""
    return colorsys.hsv_to_rgb((0.58 + number * 0.618034) % 1, 0.95, (1.0, 0.8)[number % 2])


def grid(pictures: list[Picture], order: list[str]) -> Figure | None:
    """Rows are pictures; columns: image, one prediction a variant of ``order``, ground truth. None where no
    variant has a prediction."""
    shown = [label for label in order if any(label in picture.predictions for picture in pictures)]
    if not shown:
        return None
    heads = ["image", *(wrap(label, 20) for label in shown), "ground truth"]
    # All in inches: a width that stays handy with many variants, and room above for the column titles.
    width = max(1.75, min(3.2, 14 / len(heads)))
    heights = [width * picture.image.shape[0] / picture.image.shape[1] for picture in pictures]
    top = 0.45 + 0.15 * (max(head.count("\n") for head in heads) + 1)
    full_width = len(heads) * (width + _GAP) + _GAP
    full_height = top + sum(heights) + _GAP * len(heights)
    figure = Figure(figsize=(full_width, full_height))
    figure.text(
        0.5, 1 - 0.12 / full_height, f"Predictions with a score above {SCORE}", ha="center", va="top", fontsize=10
    )
    lower = full_height - top
    for position, (picture, height) in enumerate(zip(pictures, heights, strict=True)):
        lower -= height
        for column, head in enumerate(heads):
            left = _GAP + column * (width + _GAP)
            box = (left / full_width, lower / full_height, width / full_width, height / full_height)
            axes = figure.add_axes(box, xticks=[], yticks=[], frame_on=False)
            if column == 0:
                axes.imshow(picture.image)
            elif column == len(heads) - 1:
                _overlay(axes, picture.image, picture.truth)
            else:
                _overlay(axes, picture.image, picture.predictions.get(shown[column - 1]))
            if position == 0:
                axes.set_title(head, fontsize=9, pad=4)
            axes.grid(False)
        lower -= _GAP
    return figure


def file_names(order: list[str]) -> dict[str, str]:
    """A file name without ending for each variant; no two are the same."""
    names: dict[str, str] = {}
    for label in order:
        name = re.sub(r"[^\w.=-]+", "_", label).strip("_.") or "variant"
        while name in names.values():
            name += "_"
        names[label] = name
    return names


def _overlay(axes: Axes, image: NDArray[np.uint8], instances: Instances | None) -> None:
    """The picture with translucent outlined masks and thin boxes."""
    if instances is None:
        axes.imshow(np.full_like(image, 245))
        axes.text(0.5, 0.5, "no run on\nthis picture", ha="center", va="center", transform=axes.transAxes, fontsize=8)
        return
    blended = image.astype(np.float64) / 255
    for mask, colour in zip(instances.masks, instances.colours, strict=True):
        blended[mask] = (1 - _OPACITY) * blended[mask] + _OPACITY * np.asarray(colour)
    axes.imshow(blended)
    for mask, box, colour in zip(instances.masks, instances.boxes, instances.colours, strict=True):
        if mask.any():
            # A rim of zeros closes the outline of masks that touch the picture's edge.
            rim = np.pad(mask.astype(np.float32), 1)
            at_x, at_y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
            axes.contour(at_x, at_y, rim, levels=[0.5], colors=[colour], linewidths=1.1)
        axes.add_patch(Rectangle(tuple(box[:2] - 0.5), box[2], box[3], fill=False, edgecolor=colour, linewidth=0.5))
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))

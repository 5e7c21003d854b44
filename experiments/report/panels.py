"""Panels **image, prediction, ground truth**: what the masks of each variant look like on the same images."""

import colorsys
import hashlib
import json
import math
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from experiments.render.table import wrap
from experiments.report.predictions import SCORE, load_truth, objects_of, pair
from experiments.runs.study import Study

IMAGES = 4
OPACITY = 0.45
# All in inches: the space around images and between blocks of rows, how tall images may be, and the size that a
# figure keeps to unless its images would have to be lower still.
_GAP, _BETWEEN = 0.05, 0.3
_LOWEST, _TALLEST = 0.7, 1.8
_LARGEST = 15.8
_BLOCKS = 3
_POINTS = 9
_NAME_CHARACTERS = 18
_NAME_LENGTH = 100
# Ground truth file (relative to the study) and image id: ids alone repeat between folds and data sets.
ImageKey = tuple[str, int]
Colour = tuple[float, float, float]


@dataclass
class Instances:
    """Objects of one image: ``masks`` (N, H, W) bool, ``boxes`` (N, 4) xywh in pixels, a colour each; of
    predictions ``iou``, the mean over the image's objects of the IoU with their mask, None without objects."""

    masks: NDArray[np.bool_]
    boxes: NDArray[np.float64]
    colours: list[Colour]
    iou: float | None = None


@dataclass
class Column:
    """One column of the panels, with its title on top; a variant without a run on this image has no entry in
    ``predictions``."""

    key: ImageKey
    image: NDArray[np.uint8]
    truth: Instances
    predictions: dict[str, Instances]
    title: str = ""


@dataclass
class Material:
    """What images are drawn from.

    Attributes:
        images: (H, W, 3) uint8 each.
        truths: the annotations, by ground truth file.
        results: of each variant and image that it has, the predictions above :data:`SCORE`.
    """

    images: dict[ImageKey, NDArray[np.uint8]]
    truths: dict[str, COCO]
    results: dict[tuple[str, ImageKey], list[dict[str, Any]]]

    def column(self, key: ImageKey, order: list[str], title: str = "") -> Column:
        """One image with the predictions of the variants of ``order``."""
        image = self.images[key]
        objects = objects_of(self.truths[key[0]], key[1])
        column = Column(key, image, _truth(self.truths[key[0]], objects, image.shape[:2]), {}, title)
        for label in order:
            if (label, key) in self.results:
                column.predictions[label] = _prediction(self.results[label, key], objects, column)
        return column


def collect(study: Study, order: list[str]) -> list[Column]:
    """The stored images to show, those that most variants have first."""
    stored = {truth: stored_images(study.folder, truth) for truth in study.runs["ground_truth"].dropna().unique()}
    first = _first_runs(study, order)
    holders = {truth: sum((label, truth) in first for label in order) for truth in stored}
    keys = [(truth, image_id) for truth, images in stored.items() for image_id in images if holders[truth]]
    keys = sorted(keys, key=lambda key: -holders[key[0]])[:IMAGES]
    material = gather(study, order, {key: stored[key[0]][key[1]] for key in keys})
    return [material.column(key, order) for key in keys]


def gather(study: Study, order: list[str], images: dict[ImageKey, NDArray[np.uint8]]) -> Material:
    """Read what is said of some images. Each variant is shown by the first of its runs, in the order of folds and
    seeds, that holds the image."""
    truths = {truth: load_truth(study.folder / truth) for truth in {truth for truth, _ in images}}
    results: dict[tuple[str, ImageKey], list[dict[str, Any]]] = {}
    for (label, truth), folder in _first_runs(study, order).items():
        keys = {image_id: (truth, image_id) for other, image_id in images if other == truth}
        if keys:
            results |= {(label, key): [] for key in keys.values()}
            for one in json.loads((study.folder / "runs" / folder / "predictions.json").read_text("utf-8")):
                if one["image_id"] in keys and one["score"] > SCORE:
                    results[label, keys[one["image_id"]]].append(one)
    return Material(images, truths, results)


def _first_runs(study: Study, order: list[str]) -> dict[tuple[str, str], str]:
    """The folder of the first run with predictions, by variant and ground truth."""
    first: dict[tuple[str, str], str] = {}
    for label in order:
        for _, row in study.counted(label).iterrows():
            if (study.folder / "runs" / row["folder"] / "predictions.json").is_file():
                first.setdefault((label, row["ground_truth"]), row["folder"])
    return first


def stored_images(folder: Path, truth: str) -> dict[int, NDArray[np.uint8]]:
    """The stored images of a ground truth file by image id, in order; empty where there are none."""
    path = (folder / truth).with_suffix("")
    path = path.with_name(f"{path.name}-images.npz")
    if not path.is_file():
        # the name that they were stored by before
        path = path.with_name(path.name.replace("-images.npz", "-pictures.npz"))
    if not path.is_file() or not (folder / truth).is_file():
        return {}
    with np.load(path) as arrays:
        images = {int(name.removeprefix("image_")): arrays[name] for name in arrays.files}
    return dict(sorted(images.items()))


def _truth(coco: COCO, objects: list[dict[str, Any]], size: tuple[int, ...]) -> Instances:
    masks = [coco.annToMask(annotation).astype(bool) for annotation in objects]
    return Instances(
        np.stack(masks) if masks else np.zeros((0, *size), dtype=bool),
        np.asarray([annotation["bbox"] for annotation in objects], dtype=np.float64).reshape(-1, 4),
        [colour_of(number) for number in range(len(objects))],
    )


def _prediction(results: list[dict[str, Any]], objects: list[dict[str, Any]], column: Column) -> Instances:
    """The predictions on one image, the least confident first so that the best are drawn on top."""
    mine = sorted(results, key=lambda result: result["score"])
    masks = np.zeros((len(mine), *column.image.shape[:2]), dtype=bool)
    for mask, result in zip(masks, mine, strict=True):
        mask[:] = rle_tools.decode(result["segmentation"])
    boxes = np.asarray([result["bbox"] for result in mine], dtype=np.float64).reshape(-1, 4)
    pairs = pair(mine, objects)
    iou = sum(iou for _, iou in pairs.values()) / len(objects) if objects else None
    return Instances(masks, boxes, matched_colours(len(masks), pairs, column.truth), iou)


def matched_colours(count: int, pairs: dict[int, tuple[int, float]], truth: Instances) -> list[Colour]:
    """Each mask has the colour of its object; masks without one get colours that no object has."""
    spare = iter(range(len(truth.colours), len(truth.colours) + count))
    return [truth.colours[pairs[n][0]] if n in pairs else colour_of(next(spare)) for n in range(count)]


def colour_of(number: int) -> Colour:
    """Well separated strong colours, as many as are asked for; red, green and blue in [0, 1]."""
    return colorsys.hsv_to_rgb((0.58 + number * 0.618034) % 1, 0.95, (1.0, 0.8)[number % 2])


def grid(columns: list[Column], order: list[str], about: str = "") -> Figure | None:
    """Columns are images; rows, with their names at the left: image, one prediction a variant of ``order``,
    ground truth. Many variants stand in blocks side by side, each with its image and ground truth. ``about`` stands
    before the explanation at the top. None where no variant has a prediction."""
    shown = [label for label in order if any(label in column.predictions for column in columns)]
    if not shown:
        return None
    figure = Figure(dpi=150)
    names = {label: wrap(label, _NAME_CHARACTERS) for label in shown}
    name_width, name_height = np.max([_measure(figure, name) for name in ("ground truth", *names.values())], axis=0)
    name_width += 2 * _GAP
    aspects = [column.image.shape[1] / column.image.shape[0] for column in columns]
    blocks, height = _layout(len(shown), aspects, name_width, name_height)
    length = math.ceil(len(shown) / blocks)
    block_width = name_width + sum(height * aspect + _GAP for aspect in aspects)
    width = _GAP + blocks * block_width + (blocks - 1) * _BETWEEN
    # A letter is some 0.08 inches wide.
    explanation = textwrap.fill(about + _explanation(columns), int(width / 0.08))
    titles = max(_measure(figure, column.title)[1] + _GAP if column.title else 0.0 for column in columns)
    top = 3 * _GAP + _measure(figure, explanation)[1] + titles
    full_height = top + (length + 2) * (height + _GAP)
    figure.set_size_inches(width, full_height)
    figure.text(_GAP / width, 1 - _GAP / full_height, explanation, fontsize=_POINTS, va="top")
    for block in range(blocks):
        left = _GAP + block * (block_width + _BETWEEN)
        part = shown[block * length : (block + 1) * length]
        rows: list[tuple[str, list[Instances | None]]] = [("image", [_nothing(one) for one in columns])]
        rows += [(names[label], [column.predictions.get(label) for column in columns]) for label in part]
        rows.append(("ground truth", [column.truth for column in columns]))
        for row, (name, instances) in enumerate(rows):
            lower = full_height - top - row * (height + _GAP) - height
            figure.text(left / width, (lower + height / 2) / full_height, name, fontsize=_POINTS, va="center")
            x = left + name_width
            for column, aspect, objects in zip(columns, aspects, instances, strict=True):
                box = (x / width, lower / full_height, height * aspect / width, height / full_height)
                axes = figure.add_axes(box, xticks=[], yticks=[], frame_on=False)
                axes.grid(False)
                if row == 0 and column.title:
                    axes.text(0.5, 1.02, column.title, transform=axes.transAxes, fontsize=8, ha="center", va="bottom")
                overlay(axes, column.image, objects, linewidth=0.55 * height)
                x += height * aspect + _GAP
    return figure


def _layout(variants: int, aspects: list[float], name_width: float, name_height: float) -> tuple[int, float]:
    """The number of blocks of rows that leaves most room to the images, and the height of all images in inches,
    the same for each so that rows are straight."""
    heights = []
    for blocks in range(1, _BLOCKS + 1):
        rows = math.ceil(variants / blocks) + 2
        # The rest is for the explanation.
        down = 0.97 * _LARGEST / rows - _GAP
        room = (_LARGEST - _GAP - (blocks - 1) * _BETWEEN) / blocks - name_width - _GAP * len(aspects)
        heights.append(min(_TALLEST, down, room / sum(aspects)))
    best = int(np.argmax(heights))
    return best + 1, max(_LOWEST, name_height, heights[best])


def _measure(figure: Figure, text: str) -> tuple[float, float]:
    """Width and height in inches."""
    drawn = figure.text(0, 0, text, fontsize=_POINTS)
    extent = drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    drawn.remove()
    return extent.width / figure.dpi, extent.height / figure.dpi


def _explanation(columns: list[Column]) -> str:
    text = f"Predictions with a score above {SCORE}"
    if any(one.iou is not None for column in columns for one in column.predictions.values()):
        text += "; the number is the mean mask IoU over the image's objects, 0 for one that was missed"
    return text


def _nothing(column: Column) -> Instances:
    """The bare image."""
    return Instances(np.zeros((0, *column.image.shape[:2]), dtype=bool), np.zeros((0, 4)), [])


def file_names(order: list[str]) -> dict[str, str]:
    """A file name without ending for each variant, of no more than 100 characters; no two are the same."""
    names: dict[str, str] = {}
    for label in order:
        name = re.sub(r"[^\w.=-]+", "_", label, flags=re.ASCII).strip("_.") or "variant"
        if len(name) > _NAME_LENGTH:
            name = f"{name[: _NAME_LENGTH - 9]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        while name in names.values():
            name += "_"
        names[label] = name
    return names


def overlay(axes: Axes, image: NDArray[np.uint8], instances: Instances | None, linewidth: float) -> None:
    """The image with translucent outlined masks and thin boxes."""
    if instances is None:
        axes.imshow(np.full_like(image, 245))
        axes.text(0.5, 0.5, "no run on\nthis image", ha="center", va="center", transform=axes.transAxes, fontsize=8)
        return
    blended = image.astype(np.float64) / 255
    for mask, colour in zip(instances.masks, instances.colours, strict=True):
        blended[mask] = (1 - OPACITY) * blended[mask] + OPACITY * np.asarray(colour)
    # Enlarged images keep their own pixels, which makes far smaller files.
    enlarged = axes.get_window_extent().height > image.shape[0]
    axes.imshow(blended, interpolation="none" if enlarged else "auto")
    for mask, box, colour in zip(instances.masks, instances.boxes, instances.colours, strict=True):
        if mask.any():
            # A rim of zeros closes the outline of masks that touch the image's edge.
            rim = np.pad(mask.astype(np.float32), 1)
            at_x, at_y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
            axes.contour(at_x, at_y, rim, levels=[0.5], colors=[colour], linewidths=linewidth)
        axes.add_patch(Rectangle(tuple(box[:2] - 0.5), *box[2:], fill=False, edgecolor=colour, linewidth=linewidth / 2))
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    if instances.iou is not None:
        axes.text(
            *(0.015, 0.02, f"{instances.iou:.2f}"),
            transform=axes.transAxes,
            fontsize=7.5,
            va="bottom",
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )

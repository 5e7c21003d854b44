"""Masks drawn on images: one image, and grids of **image, predictions, ground truth**."""

import colorsys
import math
import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from experiments.render.table import wrap

OPACITY = 0.45
# All in inches: the space around images and between blocks of rows, how tall images may be, and the size that a
# figure keeps to unless its images would have to be lower still.
_GAP, _BETWEEN = 0.05, 0.3
_LOWEST, _TALLEST = 0.7, 1.8
_LARGEST = 15.8
_BLOCKS = 3
_POINTS = 9
_NAME_CHARACTERS = 18
ImageKey = tuple[str, int]
"""Ground truth file (relative to the study) and image id: ids alone repeat between folds and data sets."""
Colour = tuple[float, float, float]
"""Red, green and blue in [0, 1]."""


@dataclass
class Instances:
    """Objects of one image.

    Attributes:
        masks: (N, H, W) bool.
        boxes: (N, 4) xywh in pixels.
        colours: N.
        iou: of predictions, the mean over the image's objects of the IoU with their mask; None without objects.
    """

    masks: NDArray[np.bool_]
    boxes: NDArray[np.float64]
    colours: list[Colour]
    iou: float | None = None


_NOTHING = Instances(np.zeros((0, 0, 0), dtype=bool), np.zeros((0, 4)), [])
"""For a bare image."""


@dataclass
class Column:
    """One column of a grid: an image (H, W, 3), its objects, and the predictions by variant; one without a run on this
    image has no entry."""

    key: ImageKey
    image: NDArray[np.uint8]
    truth: Instances
    predictions: dict[str, Instances]
    title: str = ""


def matched_colours(count: int, pairs: dict[int, tuple[int, float]], truth: Instances) -> list[Colour]:
    """The colours of ``count`` masks: each has that of its object; masks without an object get colours that no object
    has. ``pairs`` hold by mask its object and their IoU."""
    spare = iter(range(len(truth.colours), len(truth.colours) + count))
    return [truth.colours[pairs[n][0]] if n in pairs else colour_of(next(spare)) for n in range(count)]


def colour_of(number: int) -> Colour:
    """Well separated strong colours, as many as are asked for; red, green and blue in [0, 1]."""
    return colorsys.hsv_to_rgb((0.58 + number * 0.618034) % 1, 0.95, (1.0, 0.8)[number % 2])


def grid(columns: list[Column], order: list[str], explanation: str) -> Figure | None:
    """Images side by side with the predictions of several variants, a row each between a row of bare images and one of
    ground truth; many stand in blocks side by side. None where no variant has a prediction."""
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
    explanation = textwrap.fill(explanation, int(width / 0.08))
    titles = max(_measure(figure, column.title)[1] + _GAP if column.title else 0.0 for column in columns)
    top = 3 * _GAP + _measure(figure, explanation)[1] + titles
    full_height = top + (length + 2) * (height + _GAP)
    figure.set_size_inches(width, full_height)
    figure.text(_GAP / width, 1 - _GAP / full_height, explanation, fontsize=_POINTS, va="top")
    for block in range(blocks):
        left = _GAP + block * (block_width + _BETWEEN)
        part = shown[block * length : (block + 1) * length]
        rows: list[tuple[str, list[Instances | None]]] = [("image", [_NOTHING] * len(columns))]
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

"""A data set's images with their masks, boxes and classes, as they are stored and as a run sees them."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torchvision.transforms.v2 import functional as F

from experiments.config.run import Config
from experiments.data.counts import Split
from experiments.data.problems import evenly
from experiments.render.masks import Instances, colour_of, overlay
from instseg.data import InstanceDataset
from instseg.data.batches import loader
from instseg.errors import UserError
from instseg.files import write_atomically

AUGMENTED = (4, 4)
"""Images on ``augmented.png``, and augmentations of each."""
_NAMED = 12  # instances of an image that are named; more names would hide it
_LONGEST = 700  # pixels of an image's long side that can be seen on a figure
# in inches
_WIDTH, _GAP, _TITLE, _TALLEST = 15.8, 0.06, 0.2, 3.4
_LETTER = 0.064  # of a title, on average
_NARROWEST = 0.5  # width by height of an image's place, for its title's sake


@dataclass
class Shown:
    """An image to draw: (H, W, 3) uint8, its instances with a name each, the largest first, and its title."""

    image: np.ndarray
    instances: Instances
    names: list[str]
    title: str

    @property
    def aspect(self) -> float:
        """Width by height of the image's place."""
        return max(self.image.shape[1] / self.image.shape[0], _NARROWEST)


def augmented(config: Config, data: InstanceDataset, index: int, turn: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """Training image ``index`` as a run of this configuration may see it, and its target: one draw a ``turn``."""
    drawn = loader.TrainingSamples(data, data.trainable_indices(), config.make_transform(), config.stream_seed())
    return drawn[index, turn]


def samples(splits: list[Split], images: int) -> Figure | None:
    """Images of both splits, evenly spaced over those with instances; None where none can be read."""
    train_images = min(math.ceil(images / 2), len(splits[0].data.trainable_indices()))
    rows: list[list[Shown]] = []
    for split, count in zip(splits, (train_images, images - train_images), strict=True):
        for index in evenly(split.data.trainable_indices(), count):
            for image in _stored(split.data, index, split.name):
                if not rows or _height(rows[-1]) < _TALLEST:
                    rows.append([])
                rows[-1].append(image)
    return _mosaic(rows)


def augmentations(config: Config, train: Split) -> Figure | None:
    """A row a training image: as it is stored, then as a run may see it."""
    images, times = AUGMENTED
    rows = []
    for row, index in enumerate(evenly(train.data.trainable_indices(), images)):
        shown = _stored(train.data, index, "stored")
        for turn in range(row * times, (row + 1) * times) if shown else ():
            image, target = augmented(config, train.data, index, turn)
            title = f"{image.shape[2]} × {image.shape[1]}, {_instances(len(target['labels']))}"
            shown.append(_shown(image, target, train.data, title))
        rows.append(shown)
    return _mosaic([row for row in rows if row])


def save(path: Path, figure: Figure | None) -> None:
    """Write a PNG without a date; nothing where there is no figure."""
    if figure is not None:
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=150, metadata={"Software": None})
        write_atomically(path, data.getvalue())


def _stored(data: InstanceDataset, index: int, what: str) -> list[Shown]:
    """A list of one image, or an empty one where it can't be read, which ``problems.txt`` then says."""
    try:
        image, target = data[index]
    except UserError:
        return []
    file = data.describe(index).replace("\\", "/").rpartition("/")[2]
    title = f"{what}: {file}, {_instances(len(target['labels']))}"
    return [_shown(image.as_subclass(torch.Tensor), target, data, title)]


def _instances(count: int) -> str:
    return f"{count} instance{'' if count == 1 else 's'}"


def _shown(image: torch.Tensor, target: dict[str, Any], data: InstanceDataset, title: str) -> Shown:
    """An image with its target, no larger than can be seen."""
    boxes, masks = (target[key].as_subclass(torch.Tensor) for key in ("boxes", "masks"))
    order = torch.argsort(-target["area"], stable=True)
    boxes, masks, labels, crowds = boxes[order], masks[order], target["labels"][order], target["iscrowd"][order]
    scale = _LONGEST / max(image.shape[1:])
    if scale < 1:
        size = [max(1, round(scale * side)) for side in image.shape[1:]]
        image = F.resize(image, size, antialias=True)
        masks = F.resize(masks, size, interpolation=F.InterpolationMode.NEAREST)
        boxes = boxes * scale
    names = [data.categories[label - 1]["name"] for label in labels.tolist()]
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    return Shown(
        image.permute(1, 2, 0).contiguous().numpy(),
        Instances(masks.bool().numpy(), boxes.double().numpy(), [colour_of(n) for n in range(len(names))]),
        [f"{name} (crowd)" if crowd else name for name, crowd in zip(names, crowds.tolist(), strict=True)],
        title,
    )


def _height(row: list[Shown]) -> float:
    """Of a row that fills the width, in inches."""
    return (_WIDTH - _GAP * (len(row) + 1)) / sum(image.aspect for image in row)


def _mosaic(rows: list[list[Shown]]) -> Figure | None:
    """Rows of images that fill the width, those of a row equally tall; None where there are none."""
    if not any(rows):
        return None
    heights = [min(_TALLEST, _height(row)) for row in rows]
    full = sum(heights) + len(rows) * (_TITLE + _GAP) + _GAP
    figure = Figure(figsize=(_WIDTH, full), dpi=150)
    top = full - _GAP
    for row, height in zip(rows, heights, strict=True):
        x = _GAP
        for image in row:
            width = height * image.aspect
            place = (x / _WIDTH, (top - _TITLE - height) / full, width / _WIDTH, height / full)
            axes = figure.add_axes(place, xticks=[], yticks=[], frame_on=False, anchor="NW")
            overlay(axes, image.image, image.instances, linewidth=1.2)
            _name(axes, image)
            text = _shortened(image.title, int(width / _LETTER))
            figure.text(x / _WIDTH, (top - _TITLE + 0.04) / full, text, fontsize=8, va="bottom")
            x += width + _GAP
        top -= height + _TITLE + _GAP
    return figure


def _name(axes: Axes, shown: Shown) -> None:
    """The classes of the largest instances, at the upper left corners of their boxes."""
    height, width = shown.image.shape[:2]
    for name, box, tint in list(zip(shown.names, shown.instances.boxes, shown.instances.colours, strict=True))[:_NAMED]:
        x, y = np.clip(box[:2], 0, [0.97 * width, 0.96 * height])
        ink = "black" if np.dot(tint, (0.299, 0.587, 0.114)) > 0.5 else "white"
        patch = {"boxstyle": "square,pad=0.12", "facecolor": tint, "edgecolor": "none", "alpha": 0.75}
        axes.text(x, y, name, fontsize=6, color=ink, va="top", bbox=patch, clip_on=True, parse_math=False)


def _shortened(text: str, most: int) -> str:
    """The beginning and the end of a title; the end has the number of instances."""
    if len(text) <= most:
        return text
    end = most // 2
    return f"{text[: max(most - end - 1, 1)]}…{text[-end:]}"

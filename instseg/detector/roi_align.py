"""RoIAlign over a whole feature pyramid at once, channels last.

RoIAlign (He et al., *Mask R-CNN*, ICCV 2017) is linear: each cell of an RoI's grid is a weighted sum of a few of the
map's rows, where a row is all channels of one place. Taken so, it is a sparse matrix product that reads and writes
whole rows, knows no levels once the maps lie behind each other, and has a backward pass that runs in order.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from instseg.device import no_autocast, on_device

SAMPLES = 2
"""Samples a bin and axis, as in torchvision's Mask R-CNN."""


class Pyramid(dict[int, Tensor]):
    """Level -> (B, C, H, W) map, and all maps as one table of rows.

    Args:
        maps: level k -> its map, of stride 2^k.
        aligned: whether RoIAlign takes a map's cells for squares whose values stand at their centres, as detectron2
            does; False: at their corners, half a cell off, as torchvision's Mask R-CNN and the paper's code do.
    """

    def __init__(self, maps: Mapping[int, Tensor], aligned: bool = False) -> None:
        super().__init__(maps)
        self.aligned = aligned
        self._rows: Tensor | None = None

    def maps(self) -> list[Tensor]:
        """The maps in rising order of the levels, the finest first."""
        return [self[level] for level in sorted(self)]

    def rows(self) -> Tensor:
        """(sum of B·H·W over the levels, C) float32: the maps of the levels in rising order, channels last."""
        if self._rows is None:
            flat = [level.permute(0, 2, 3, 1).reshape(-1, level.shape[1]) for level in self.maps()]
            # bfloat16 weights would put the samples on a coarse grid
            self._rows = torch.cat(flat).float()
        return self._rows

    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of each level, in rising order."""
        return [(int(level.shape[2]), int(level.shape[3])) for level in self.maps()]


def roi_align(pyramid: Pyramid, boxes: Tensor, image: Tensor, level: Tensor, size: int) -> Tensor:
    """torchvision's ``roi_align(..., sampling_ratio=2)``, each RoI from a level of its own.

    Args:
        pyramid: the maps of the batch, which say whether it is ``aligned``.
        boxes: (R, 4) xyxy in pixels of the network's input; no gradient goes to them.
        image: (R,) int64, the image of the batch that each box lies in.
        level: (R,) int64, the level that each box is taken from.
        size: height and width of the grid.

    Returns:
        (R, C, size, size) in memory format channels_last, of the maps' dtype.
    """
    first = next(iter(pyramid.values()))
    grid = Grid(pyramid.sizes(), len(first), size, pyramid.aligned)
    with no_autocast(boxes.device):
        rows = pyramid.rows()
        boxes = boxes.detach().float() / (2.0**level)[:, None]
        if pyramid.aligned:
            boxes = boxes - 0.5
        arguments = (rows, boxes, image, level - min(pyramid), grid)
        if rows.requires_grad and rows.device.type == "cpu" and grid.is_small(rows.shape[1]):
            out = AlignDenseBackward.apply(*arguments)
        else:
            out = by_rows(*arguments)
    return out.to(first.dtype).permute(0, 3, 1, 2)


class Grid(NamedTuple):
    """What lies where in the table of rows, and the grid laid over each box."""

    sizes: list[tuple[int, int]]
    """(H, W) of each level."""
    batch: int
    """Number of images."""
    size: int
    """Height and width of the grid."""
    aligned: bool = False
    """Whether a box smaller than a cell is read as it is, and not as a box of one cell."""

    def is_small(self, channels: int) -> bool:
        """Whether, on a CPU, two dense matrix products over the largest map cost less than adding single rows up.

        A row costs some 45 ns and 0.1 ns a channel, a multiplication and addition 1/25 ns.
        """
        height, width = self.sizes[0]
        dense = channels * self.size * width * (height + self.size) / 25
        return dense < (self.size * 2 * SAMPLES) ** 2 * (45 + 0.1 * channels)


def by_rows(rows: Tensor, boxes: Tensor, image: Tensor, place: Tensor, grid: Grid) -> Tensor:
    """(R, size, size, C): sixteen rows a cell, weighted and summed.

    Args:
        rows: of :meth:`Pyramid.rows`.
        boxes: (R, 4) in cells of each one's map.
        image: (R,) int64.
        place: (R,) int64, the map's place in ``grid.sizes``.
        grid: shapes.
    """
    height, width, offset = _constants(grid, place)
    y, wy = _taps(*_samples(boxes[:, 1], boxes[:, 3], height, grid), height)
    x, wx = _taps(*_samples(boxes[:, 0], boxes[:, 2], width, grid), width)
    row = (offset + image.int() * height * width)[:, None, None] + y * width[:, None, None]
    index = row[:, :, None, :, None] + x[:, None, :, None, :]
    weight = wy[:, :, None, :, None] * wx[:, None, :, None, :]
    taps = (2 * SAMPLES) ** 2
    summed = F.embedding_bag(index.reshape(-1, taps), rows, mode="sum", per_sample_weights=weight.reshape(-1, taps))
    return summed.view(len(boxes), grid.size, grid.size, rows.shape[1])


class AlignDenseBackward(Function):
    """:func:`by_rows`, with a backward pass of two matrix products for each map and image: along x, one a row of
    cells, and along y. Over small maps that is several times faster than adding single rows up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, boxes: Tensor, image: Tensor, place: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(boxes, image, place)
        ctx.grid, ctx.shape = grid, rows.shape
        return by_rows(rows, boxes, image, place, grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        boxes, image, place = ctx.saved_tensors
        grid, channels = ctx.grid, ctx.shape[1]
        out = gradient.new_zeros(ctx.shape)
        key = place * grid.batch + image
        counts = torch.bincount(key, minlength=len(grid.sizes) * grid.batch).view(-1, grid.batch)
        if not bool((key[1:] >= key[:-1]).all()):
            order = key.argsort(stable=True)
            boxes, gradient = boxes[order], gradient[order]
        each = counts.sum(1).tolist()
        levels = out.split([grid.batch * h * w for h, w in grid.sizes])
        parts = zip(grid.sizes, levels, counts.tolist(), boxes.split(each), gradient.split(each), strict=True)
        with no_autocast(gradient.device):
            for (height, width), level, in_image, box, g in parts:
                if len(box):
                    wy = _matrix(box[:, 1], box[:, 3], height, grid).split(in_image)
                    wx = _matrix(box[:, 0], box[:, 2], width, grid)
                    along_x = torch.matmul(wx.transpose(1, 2)[:, None], g).split(in_image)
                    for y, x, features in zip(wy, along_x, level.view(-1, height, width * channels), strict=True):
                        torch.mm(y.reshape(-1, height).T, x.reshape(-1, width * channels), out=features)
        return out, None, None, None, None


def _constants(grid: Grid, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each RoI's map: height, width and first row in the table."""
    table, first = [], 0
    for h, w in grid.sizes:
        table.append((h, w, first))
        first += grid.batch * h * w
    height, width, offset = on_device(table, place.device, torch.int32)[place].unbind(1)
    return height, width, offset


def _samples(low: Tensor, high: Tensor, extent: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """(R, grid.size · SAMPLES) positions of the samples along one axis, in cells, and whether each counts.

    A sample more than a cell outside the map counts as 0, one at its border as the border's.
    """
    bin_size = (high - low).clamp(min=0.0 if grid.aligned else 1.0) / grid.size
    step = (torch.arange(grid.size * SAMPLES, device=low.device) + 0.5) / SAMPLES
    position = low[:, None] + step * bin_size[:, None]
    last = extent[:, None].to(position.dtype)
    counts = (position >= -1) & (position <= last)
    return torch.minimum(position.clamp(min=0), last - 1), counts


def _taps(position: Tensor, counts: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """(R, size, 2 · SAMPLES) the cells beside each bin's samples, and their weights in the bin's mean."""
    low = position.floor()
    part = position - low
    below = low.int()
    above = torch.minimum(below + 1, extent[:, None] - 1)
    shape = (len(position), position.shape[1] // SAMPLES, 2 * SAMPLES)
    cells = torch.stack([below, above], dim=-1).view(shape)
    weights = torch.stack([1 - part, part], dim=-1) * (counts / SAMPLES)[..., None]
    return cells, weights.view(shape)


def _matrix(low: Tensor, high: Tensor, extent: int, grid: Grid) -> Tensor:
    """(R, grid.size, extent): the weight of each of the map's cells in each bin, along one axis."""
    position, counts = _samples(low, high, torch.full((len(low),), extent), grid)
    hats = (1 - (position[..., None] - torch.arange(extent)).abs()).clamp(min=0) * counts[..., None]
    return hats.view(len(low), grid.size, SAMPLES, extent).mean(2)

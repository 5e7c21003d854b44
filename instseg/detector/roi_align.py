"""RoIAlign over a whole feature pyramid at once, channels last.

RoIAlign (He et al., *Mask R-CNN*, ICCV 2017) is linear: each cell of an RoI's grid is a weighted sum of a few of the
map's rows, where a row is all channels of one place. Taken so, it is a sparse matrix product that reads and writes
whole rows, knows no levels once the maps lie behind each other, and has a backward pass that runs in order.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLES = 2
"""Samples a bin and axis, as in torchvision's Mask R-CNN."""


class Pyramid(dict[int, Tensor]):
    """Level -> (B, C, H, W) map, and all maps as one table of rows.

    Args:
        maps: level k -> its map, of stride 2^k.
    """

    def __init__(self, maps: Mapping[int, Tensor]) -> None:
        super().__init__(maps)
        self._rows: Tensor | None = None

    def rows(self) -> Tensor:
        """(sum of B·H·W over the levels, C) float32: the maps of the levels in rising order, channels last."""
        if self._rows is None:
            flat = [self[k].permute(0, 2, 3, 1).reshape(-1, self[k].shape[1]) for k in sorted(self)]
            # bfloat16 weights would put the samples on a coarse grid
            self._rows = torch.cat(flat).float()
        return self._rows

    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of each level, in rising order."""
        return [(int(self[k].shape[2]), int(self[k].shape[3])) for k in sorted(self)]


def roi_align(pyramid: Pyramid, boxes: Tensor, image: Tensor, level: Tensor, size: int) -> Tensor:
    """torchvision's ``roi_align(..., sampling_ratio=2, aligned=False)``, each RoI from a level of its own.

    Args:
        pyramid: the maps of the batch.
        boxes: (R, 4) xyxy in pixels of the network's input.
        image: (R,) int64, the picture of the batch that each box lies in.
        level: (R,) int64, the level that each box is taken from.
        size: height and width of the grid.

    Returns:
        (R, C, size, size) in memory format channels_last, of the maps' dtype.
    """
    dtype = next(iter(pyramid.values())).dtype
    boxes = boxes.detach().float() / (2.0**level)[:, None]
    place = level - min(pyramid)
    with torch.autocast(boxes.device.type, enabled=False):
        if boxes.device.type == "cpu" and _is_small(pyramid, size):
            out = _by_matmul(pyramid, boxes, image, place, size)
        else:
            out = _by_rows(pyramid, boxes, image, place, size)
    return out.to(dtype).permute(0, 3, 1, 2)


def _by_rows(pyramid: Pyramid, boxes: Tensor, image: Tensor, place: Tensor, size: int) -> Tensor:
    """(R, size, size, C): sixteen rows a cell, weighted and summed."""
    sizes = pyramid.sizes()
    batch = len(next(iter(pyramid.values())))
    height, width, offset = _constants(sizes, batch, place)
    y, wy = _taps(*_samples(boxes[:, 1], boxes[:, 3], height, size), height)
    x, wx = _taps(*_samples(boxes[:, 0], boxes[:, 2], width, size), width)
    row = (offset + image * height * width)[:, None, None] + y * width[:, None, None]
    index = row[:, :, None, :, None] + x[:, None, :, None, :]
    weight = wy[:, :, None, :, None] * wx[:, None, :, None, :]
    taps = (2 * SAMPLES) ** 2
    summed = F.embedding_bag(
        index.reshape(-1, taps), pyramid.rows(), mode="sum", per_sample_weights=weight.reshape(-1, taps)
    )
    return summed.view(len(boxes), size, size, summed.shape[1])


def _constants(sizes: list[tuple[int, int]], batch: int, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each RoI's map: height, width and first row in the table."""
    table, first = [], 0
    for h, w in sizes:
        table.append((h, w, first))
        first += batch * h * w
    height, width, offset = torch.tensor(table, device=place.device)[place].unbind(1)
    return height, width, offset


def _samples(low: Tensor, high: Tensor, extent: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(R, size · SAMPLES) positions of the samples along one axis, in cells, and whether each counts.

    A sample more than a cell outside the map counts as 0, one at its border as the border's.
    """
    bin_size = (high - low).clamp(min=1.0) / size
    step = (torch.arange(size * SAMPLES, device=low.device) + 0.5) / SAMPLES
    position = low[:, None] + step * bin_size[:, None]
    last = extent[:, None].to(position.dtype)
    counts = (position >= -1) & (position <= last)
    return torch.minimum(position.clamp(min=0), last - 1), counts


def _taps(position: Tensor, counts: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """(R, size, 2 · SAMPLES) the cells beside each bin's samples, and their weights in the bin's mean."""
    low = position.floor()
    part = position - low
    below = low.long()
    above = torch.minimum(below + 1, extent[:, None] - 1)
    shape = (len(position), position.shape[1] // SAMPLES, 2 * SAMPLES)
    cells = torch.stack([below, above], dim=-1).view(shape)
    weights = torch.stack([1 - part, part], dim=-1) * (counts / SAMPLES)[..., None]
    return cells, weights.view(shape)


def _is_small(pyramid: Pyramid, size: int) -> bool:
    """Whether two dense matrix products over the finest map cost less than walking single rows, on a CPU.

    A row costs some 45 ns and 0.1 ns a channel on the way back, a multiplication and addition 1/25 ns.
    """
    _, channels, height, width = pyramid[min(pyramid)].shape
    dense = channels * size * width * (height + size) / 25
    return dense < (size * 2 * SAMPLES) ** 2 * (45 + 0.1 * channels)


def _by_matmul(pyramid: Pyramid, boxes: Tensor, image: Tensor, place: Tensor, size: int) -> Tensor:
    """(R, size, size, C): for each map and picture one product along y, then one a row of cells along x."""
    maps = [pyramid[k].permute(0, 2, 3, 1).float() for k in sorted(pyramid)]
    batch = len(maps[0])
    key = place * batch + image
    counts = torch.bincount(key, minlength=len(maps) * batch).tolist()
    in_order = bool((key[1:] >= key[:-1]).all())
    order = torch.arange(len(key)) if in_order else key.argsort(stable=True)
    parts, first = [], 0
    for group, count in enumerate(counts):
        if not count and (group or len(key)):
            continue
        features = maps[group // batch][group % batch]
        height, width, channels = features.shape
        box = boxes[order[first : first + count]]
        wy = _matrix(box[:, 1], box[:, 3], height, size)
        wx = _matrix(box[:, 0], box[:, 2], width, size)
        rows = (wy.view(-1, height) @ features.reshape(height, -1)).view(count, size, width, channels)
        parts.append(torch.matmul(wx[:, None], rows))
        first += count
    out = torch.cat(parts) if len(parts) > 1 else parts[0]
    return out if in_order else out[order.argsort()]


def _matrix(low: Tensor, high: Tensor, extent: int, size: int) -> Tensor:
    """(R, size, extent): the weight of each of the map's cells in each bin, along one axis."""
    position, counts = _samples(low, high, torch.full((len(low),), extent), size)
    hats = (1 - (position[..., None] - torch.arange(extent)).abs()).clamp(min=0) * counts[..., None]
    return hats.view(len(low), size, SAMPLES, extent).mean(2)

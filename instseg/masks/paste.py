"""Masks between a box's grid, the image and COCO's run-length encoding (RLE)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from instseg.masks import rle
from instseg.masks.rle import RLE

# cells of masks resized to the columns of their boxes, at once; about 25 bytes each
_CELLS, _CELLS_IN_CACHE = 2**22, 2**17
_ROUNDING = 2.0**-24  # of float32 numbers in [0.5, 1)


def in_boxes(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterator[tuple[Tensor, int, int]]:
    """Resize each mask to its box, one at a time, so that no image-sized float mask ever exists.

    The arithmetic is torchvision's ``paste_masks_in_image``: a border of one cell of zeros, the box grown to
    match and rounded towards zero, bilinear interpolation.

    Args:
        probabilities: (R, M, M) in [0, 1].
        boxes: (R, 4) xyxy in pixels of the image.
        size: (H, W) of the image.

    Yields:
        The part of the mask that lies inside the image, (h, w), and its left column and top row. Where a box
        lies outside the image, h or w is 0.
    """
    padded = F.pad(probabilities, (1, 1, 1, 1))
    height, width = size
    for mask, (left, top, right, bottom) in zip(padded, _grown(boxes, probabilities.shape[-1]).tolist(), strict=True):
        shape = (max(bottom - top + 1, 1), max(right - left + 1, 1))
        resized = F.interpolate(mask[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = max(min(right + 1, width), x0), max(min(bottom + 1, height), y0)
        yield resized[y0 - top : y1 - top, x0 - left : x1 - left], x0, y0


def paste(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Full images of masks, as torchvision returns them: (R, M, M) in boxes (R, 4) -> (R, H, W)."""
    out = probabilities.new_zeros(len(boxes), *size)
    for i, (mask, x, y) in enumerate(in_boxes(probabilities, boxes, size)):
        out[i, y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return out


def to_rles(
    probabilities: Sequence[Tensor], boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]], threshold: float = 0.5
) -> list[list[RLE]]:
    """RLE of the masks of several images where the probability is above ``threshold``.

    The masks are those of torchvision's ``paste_masks_in_image``, to the pixel, but no pixel is made. Bilinear
    interpolation is linear in y between two rows of the grid, so a column of the image crosses the threshold at
    most once between them, and where it does is known in closed form. All masks are worked on together, on the
    device they lie on; only the edges of runs leave it. A mask with pixels so near the threshold that rounding
    decides, about one in a hundred, is resized as torchvision does.

    Args:
        probabilities: one (R_i, M, M) tensor an image, in [0, 1].
        boxes: one (R_i, 4) tensor an image, xyxy in its pixels.
        sizes: (H, W) of each image.

    Returns:
        One list of R_i RLEs an image, ``counts`` a ``str``.
    """
    lengths = [len(box) for box in boxes]
    if not sum(lengths):
        return [[] for _ in lengths]
    grids, corners = torch.cat(list(probabilities)).detach().float(), torch.cat(list(boxes)).detach().float()
    every = np.repeat(np.array(sizes, dtype=np.int64), lengths, axis=0)
    grown = _grown(corners, grids.shape[-1]).cpu().numpy()
    columns = _columns(grown, every)
    codes: list[RLE] = []
    for part in _parts(columns * (grids.shape[-1] + 2), _CELLS if grids.is_cuda else _CELLS_IN_CACHE):
        edges, doubtful = _edges(grids[part], grown[part], columns[part], every[part], threshold)
        if len(doubtful):
            begins = rle.starts(every[part])
            pieces = np.split(edges, np.searchsorted(edges, begins[1:-1]))
            for i in doubtful.tolist():
                index = part.start + i
                row, size = slice(index, index + 1), tuple(every[index].tolist())
                ((mask, x, y),) = in_boxes(grids[row], corners[row], size)
                pieces[i] = begins[i] + _crop_edges((mask > threshold).cpu().numpy(), x, y, size[0])
            edges = np.concatenate(pieces)
        codes += rle.from_edges(edges, every[part])
    stops = np.cumsum(lengths).tolist()
    return [codes[stop - length : stop] for stop, length in zip(stops, lengths, strict=True)]


def encode(masks: np.ndarray) -> list[RLE]:
    """RLE of whole masks, (N, H, W) of 0 and 1, with ``counts`` a ``str``."""
    rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [{"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode()} for rle in rles]


def _grown(boxes: Tensor, m: int) -> Tensor:
    """Boxes (R, 4) grown by a cell of their m x m grid on every side: their first and last pixels, int64."""
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * (float(m + 2) / m)
    return torch.cat([centre - half, centre + half], dim=1).to(torch.int64)


def _crop_edges(mask: np.ndarray, x: int, y: int, height: int) -> np.ndarray:
    """The edges of a mask (h, w), bool, whose left column and top row in an image of so many rows are x and y."""
    columns = np.zeros((mask.shape[1], mask.shape[0] + 2), dtype=bool)
    columns[:, 1:-1] = mask.T
    column, row = np.divmod(np.flatnonzero(columns[:, 1:] != columns[:, :-1]), mask.shape[0] + 1)
    return (x + column) * height + y + row


def _columns(grown: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How many of each grown box's columns lie in its image, (R,)."""
    left, top, right, bottom = grown.T
    columns = np.minimum(right + 1, sizes[:, 1]) - np.maximum(left, 0)
    return np.where(bottom >= top, columns.clip(0), 0)


def _parts(cells: np.ndarray, most: int) -> Iterator[slice]:
    """Split masks of so many cells into neighbours that have about ``most`` together, or one alone that has more."""
    group = np.cumsum(cells) // most
    bounds = np.flatnonzero(np.diff(group, prepend=-1, append=-1)).tolist()
    return (slice(a, b) for a, b in pairwise(bounds))


def _edges(
    grids: Tensor, grown: np.ndarray, columns: np.ndarray, sizes: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where masks change along their columns.

    Args:
        grids: (R, M, M) probabilities.
        grown: (R, 4) int64, first and last pixels of the grown boxes.
        columns: (R,) int64, how many of their columns lie in the image.
        sizes: (R, 2) int64, (H, W) of the images.

    Returns:
        The edges as :func:`instseg.masks.rle.from_edges` takes them, and the numbers of the masks of which they may be
        wrong.
    """
    n = grids.shape[-1] + 2
    device = grids.device
    left, top, right, bottom = grown.T
    first = np.maximum(left, 0)
    begin = rle.starts(sizes)[:-1] + first * sizes[:, 0]
    table = [columns, np.cumsum(columns) - columns, first - left, right + 1 - left, bottom + 1 - top, top, begin]
    numbers = torch.from_numpy(np.stack([*table, sizes[:, 0]])).to(device)
    count, before, skipped, width, height, top, begin, image = numbers

    # (R, n + 1, n): x, y; the further column spares the last one a case of its own
    padded = F.pad(grids.transpose(1, 2), (1, 1, 1, 2)).flatten(0, 1)
    mask = torch.repeat_interleave(count, output_size=int(columns.sum()))
    column = torch.arange(len(mask), device=device) - before[mask]
    # as F.interpolate's kernels have it: a scale of float32, and one rounding after it
    across, down = (torch.div(torch.full_like(side, n).float(), side.clamp(min=1)).double() for side in (width, height))
    source = (across[mask] * (column + skipped[mask] + 0.5) - 0.5).float().clamp(min=0)
    cell = source.long()
    index = mask * (n + 1) + cell
    near, far = padded.index_select(0, index), padded.index_select(0, index + 1)
    values = torch.lerp(near, far, (source - cell)[:, None])  # (columns of all boxes, n)

    above = values > threshold
    at, row = (above[:, 1:] != above[:, :-1]).nonzero(as_tuple=True)
    low, high = values.take(at * n + row).double(), values.take(at * n + row + 1).double()
    owner = mask.take(at)
    scale, image = down.take(owner), image.take(owner)
    crossing = (row + (threshold - low) / (high - low) + 0.5) / scale - 0.5
    y = (crossing.ceil().long() + top.take(owner)).clamp(min=0).minimum(image)
    edges = begin.take(owner) + column.take(at) * image + y

    # where rounding decides: grid rows at the threshold, and crossings at a pixel; written so that NaN counts
    slope = (high - low).abs()
    margin = (crossing - crossing.round()).abs() * scale * slope
    doubts = torch.zeros(len(grids), dtype=torch.int64, device=device)
    doubts.index_add_(0, mask, (~((values - threshold).abs().amin(dim=1) > 8 * _ROUNDING)).long())
    doubts.index_add_(0, owner, (~(margin > (8 + n * slope) * _ROUNDING)).long())
    return edges.cpu().numpy(), np.flatnonzero(doubts.cpu().numpy())

"""COCO's run-length encoding (RLE): from the edges of runs to compressed strings, many masks at once, and back.

The format is pycocotools': runs of 0 and 1 in turn, column by column, the first of 0; from the fourth run on the
difference to the run two before; each number in groups of 5 bits, the lowest first, as characters from "0" on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

RLE = dict[str, Any]
"""COCO's compressed run-length encoding: ``{"size": [H, W], "counts": str}``."""

_MORE, _SIGN, _DIGIT, _ZERO = 32, 16, 31, 48
_MOST_GROUPS = 7  # 35 bits; a run has at most 32, as pycocotools counts, and a difference has a sign


def starts(sizes: np.ndarray) -> np.ndarray:
    """Where each image begins when the pixels of all follow one another, each with a place of its own for its end.

    Args:
        sizes: (R, 2) int64, (H, W) of the images.

    Returns:
        (R + 1,) int64: the R beginnings and where one more image would begin.
    """
    return np.concatenate([[0], np.cumsum(sizes.prod(axis=1) + 1)])


def from_edges(edges: np.ndarray, sizes: np.ndarray) -> list[RLE]:
    """RLE of R masks whose pixels are known by where they change.

    Args:
        edges: (K,) int64 in rising order: ``starts(sizes)[r]`` + the column-major index in image r of a pixel that
            differs from the one before, H * W standing for what follows the last. Two equal edges cancel out, so
            runs may be given column by column: one that ends where the next column's begins goes on.
        sizes: (R, 2) int64, (H, W) of the masks' images.

    Returns:
        R RLEs.
    """
    first = np.flatnonzero(np.diff(edges, prepend=-1))
    edges = edges[first[np.diff(first, append=len(edges)) % 2 == 1]]
    begins = starts(sizes)
    ends = begins[1:] - 1
    edges = np.insert(edges, np.searchsorted(edges, ends), ends)
    edges = edges[np.diff(edges, prepend=-1) > 0]  # where an image ends with a 1, its end was there already
    last = np.searchsorted(edges, ends)
    runs = np.diff(edges, prepend=-1)
    first = np.concatenate([[0], last + 1])[:-1]
    runs[first] -= 1  # the place between two images
    strings = _to_strings(runs, last - first + 1)
    return [{"size": size, "counts": counts} for size, counts in zip(sizes.tolist(), strings, strict=True)]


def fit(strings: Sequence[str], pixels: np.ndarray) -> np.ndarray:
    """Which compressed strings are sound: whole numbers, no run below 0, and as many pixels as there should be.

    Args:
        strings: R strings, whatever they hold.
        pixels: (R,) int64, H * W of the masks' images.

    Returns:
        (R,) bool.
    """
    text = "".join(strings)
    # characters of a fixed width; what lies below "0" wraps round to a large code
    if text.isascii():
        codes: np.ndarray = np.frombuffer(text.encode("ascii"), dtype=np.uint8) - np.uint8(_ZERO)
    else:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32) - np.uint32(_ZERO)
    stops = np.cumsum([len(string) for string in strings], dtype=np.int64)
    ends = (codes & _MORE) == 0
    cut = stops[stops > 0] - 1
    broken = cut[~ends[cut]]
    ends[cut] = True  # so that no number goes on in the next string
    last = np.flatnonzero(ends)
    groups = np.diff(last, prepend=-1)
    broken = np.concatenate([broken, last[groups > _MOST_GROUPS], np.flatnonzero(codes >= 2 * _MORE)])
    sound = np.ones(len(strings), dtype=bool)
    sound[np.searchsorted(stops, broken, side="right")] = False

    runs, lengths = _to_runs(codes, last, stops)
    negative = np.searchsorted(np.cumsum(lengths), np.flatnonzero(runs < 0), side="right")
    sound[negative] = False
    return sound & (_sums(runs, lengths) == pixels)


def to_runs(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The runs of sound compressed strings (see :func:`fit`).

    Args:
        strings: R strings.

    Returns:
        int64: the runs of all, one mask's after the other's, and (R,) how many each has.
    """
    codes = np.frombuffer("".join(strings).encode("ascii"), dtype=np.uint8) - np.uint8(_ZERO)
    stops = np.cumsum([len(string) for string in strings], dtype=np.int64)
    return _to_runs(codes, np.flatnonzero((codes & _MORE) == 0), stops)


def _to_runs(codes: np.ndarray, last: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs, and how many each string has; ``last``: each number's last code, ``stops``: where the strings end."""
    groups = np.minimum(np.diff(last, prepend=-1), _MOST_GROUPS)
    first = np.concatenate([[0], last + 1])[:-1]
    numbers = (codes[first] & _DIGIT).astype(np.int64)
    for place in range(1, groups.max(initial=0)):
        more = np.flatnonzero(groups > place)
        numbers[more] += (codes[first[more] + place] & _DIGIT).astype(np.int64) << 5 * place
    numbers -= (codes[last] & _SIGN).astype(np.int64) << (5 * (groups - 1) + 1)
    lengths = np.diff(np.searchsorted(last, stops), prepend=0)
    # in pairs, a run and the one two before it lie below each other; one sum goes through the pairs of all strings
    pairs = (lengths + 1) // 2
    begins = np.cumsum(pairs) - pairs
    places = np.arange(len(numbers)) + np.repeat(2 * begins - (np.cumsum(lengths) - lengths), lengths)
    sums = np.zeros(2 * int(pairs.sum()), dtype=np.int64)
    sums[places] = numbers
    third = 2 * begins[lengths > 2]
    sums[third + 2] -= sums[third]  # the third run is no difference to the first
    sums = np.cumsum(sums.reshape(-1, 2), axis=0)
    before = np.concatenate([np.zeros((1, 2), dtype=np.int64), sums])[begins]
    runs = (sums - np.repeat(before, pairs, axis=0)).reshape(-1)[places]
    return runs, lengths


def _to_strings(runs: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Compressed strings of masks whose runs follow one another; mask r has ``lengths[r]`` of them."""
    numbers = runs.copy()
    numbers[2:] -= np.where(_index(lengths)[2:] > 2, runs[:-2], 0)
    # the highest group's upper bit is the sign
    magnitude = numbers ^ (numbers >> 63)
    most = int(magnitude.max(initial=0))
    limits = [_SIGN << shift for shift in range(0, 64 - 5, 5) if _SIGN << shift <= most]
    groups = 1 + sum((magnitude >= limit for limit in limits), np.zeros(len(runs), dtype=np.int64))
    order = np.arange(len(limits) + 1)
    codes = (numbers[:, None] >> 5 * order) & _DIGIT
    codes += _ZERO + _MORE * (order < groups[:, None] - 1)
    text = codes.astype(np.uint8)[order < groups[:, None]].tobytes().decode("ascii")
    stops = np.cumsum(groups)[np.cumsum(lengths) - 1].tolist()
    return [text[a:b] for a, b in zip([0, *stops], stops, strict=False)]


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The sum of each of the pieces that follow one another."""
    sums = np.concatenate([[0], np.cumsum(values)])[np.concatenate([[0], np.cumsum(lengths)])]
    return np.diff(sums)


def _index(lengths: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... in each of the pieces that follow one another."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)

"""Names beside the points of a plot, none upon another."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

Boxes = NDArray[np.float64]
# In points: a label's distances to its point, and from which on a line joins them.
_RADII = (9, 14, 20, 28, 38, 50, 64, 80, 100, 125)
_JOINED = 14
_ANGLES = np.deg2rad([0, 180, 90, 270, 45, 135, 225, 315, 22, 158, 202, 338])
# What it costs to lie on a label or a point, to have its line cross them, and to lie on an error bar.
_COVERS, _CROSSES, _ON_BAR, _OUTSIDE = 10.0, 4.0, 1.0, 100.0
_PASSES = 12


def label_points(axes: Axes, points: NDArray[np.float64], labels: list[str], colours: list[str]) -> None:
    """Write a label beside each point where it covers no other point or label and few error bars, as near as
    there is room, with a thin line to its point where it had to move away.

    Args:
        axes: axes with their final layout and limits.
        points: (N, 2) in data coordinates.
        labels, colours: N texts, and the colours of the lines to them.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    pixel = figure.dpi / 72
    places = axes.transData.transform(points)
    markers = np.hstack([places - 5 * pixel, places + 5 * pixel])
    frame = np.asarray(axes.get_window_extent(renderer).extents)
    segments = [s for lines in axes.collections if isinstance(lines, LineCollection) for s in lines.get_segments()]
    ends = axes.transData.transform(np.reshape(segments, (-1, 2))).reshape(-1, 2, 2)
    bars = np.hstack([ends.min(1) - pixel, ends.max(1) + pixel])

    sizes = []
    for label in labels:
        text = axes.text(0, 0, label, fontsize=8.5, linespacing=0.95)
        sizes.append(text.get_window_extent(renderer).size)
        text.remove()
    radii, angles = (grid.ravel() for grid in np.meshgrid(_RADII, _ANGLES, indexing="ij"))
    towards = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # (N labels, 1, 2) and, of each candidate place, (N, C, 2 or 4)
    halves, origins = np.array(sizes)[:, None] / 2 + pixel, places[:, None]
    # The label's nearest side, not its middle, is at this distance.
    middles = origins + towards * (radii[:, None] * pixel + halves)
    boxes = np.concatenate([middles - halves, middles + halves], axis=2)
    edges = np.clip(origins, boxes[..., :2], boxes[..., 2:])
    steps = np.linspace(0, 1, 8)[1:, None]
    lines = np.tile(origins[:, None] + steps * (edges - origins)[:, :, None], 2)
    outside = (boxes[..., :2] < frame[:2]).any(-1) | (boxes[..., 2:] > frame[2:]).any(-1)
    costs = radii / 15 + _OUTSIDE * outside + _ON_BAR * _overlaps(boxes, bars).sum(-1)
    costs = costs + _COVERS * _overlaps(boxes, markers).sum(-1)

    # Crowded points choose first; then each chooses again, knowing the others' places, until all are content.
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    crowded = np.argsort(np.sort(distance, axis=1)[:, :4].sum(axis=1), kind="stable")
    chosen = np.full(len(labels), -1)
    for _ in range(_PASSES):
        before = chosen.copy()
        for index in crowded:
            others = np.flatnonzero((chosen >= 0) & (np.arange(len(labels)) != index))
            taken, crossing = boxes[others, chosen[others]], lines[others, chosen[others]].reshape(-1, 4)
            cost = costs[index] + _COVERS * _overlaps(boxes[index], taken).sum(-1)
            cost = cost + _CROSSES * _overlaps(boxes[index], crossing).any(-1)
            in_way = np.concatenate([taken, np.delete(markers, index, axis=0)])
            cost = cost + _CROSSES * _overlaps(lines[index], in_way).any((-1, -2))
            chosen[index] = cost.argmin()
        if (chosen == before).all():
            break

    for index, label in enumerate(labels):
        box = boxes[index, chosen[index]]
        offset = ((box[:2] + box[2:]) / 2 - places[index]) / pixel
        line = {"arrowstyle": "-", "color": colours[index], "lw": 0.7, "shrinkB": 4}
        axes.annotate(
            label,
            xy=tuple(points[index]),
            xytext=tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            linespacing=0.95,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops=line if radii[chosen[index]] > _JOINED else None,
        )


def _overlaps(boxes: Boxes, others: Boxes) -> NDArray[np.bool_]:
    """Which of (..., 4) boxes x0, y0, x1, y1 overlap which of (M, 4) others: (..., M)."""
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    return np.all((low <= others[:, 2:]) & (high >= others[:, :2]), axis=-1)

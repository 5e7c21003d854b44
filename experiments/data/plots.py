"""How a data set's instances are distributed: over classes, sizes and images."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.data.counts import Split
from experiments.render.plot import STYLE

_COLOURS = {"train": "#0072B2", "val": "#D55E00"}  # Okabe and Ito's, as in the plots of a study
_MOST_CLASSES = 100
_LOG_FROM = 30  # times the median class: the others would be invisible beside it
_BINS = 30


def distributions(splits: list[Split]) -> Figure:
    """Instances by class, mask sizes and instances an image, of each split."""
    with mpl.rc_context(STYLE):
        classes = min(splits[0].data.num_classes - 1, _MOST_CLASSES)
        figure = Figure(figsize=(13, max(4.6, 0.165 * classes + 1.2)), layout="constrained")
        few = classes <= 12
        grid = figure.add_gridspec(1 if few else 2, 3 if few else 2)
        _classes(figure.add_subplot(grid[:, 0]), splits, classes)
        _sizes(figure.add_subplot(grid[0, 1]), splits)
        _crowding(figure.add_subplot(grid[0, 2] if few else grid[1, 1]), splits)
        return figure


def _classes(axes: Axes, splits: list[Split], most: int) -> None:
    """A bar a class and split, the most frequent class on top."""
    counts = np.array([np.bincount(split.alone()["label"], minlength=split.data.num_classes)[1:] for split in splits])
    order = np.argsort(-counts.sum(axis=0), kind="stable")[:most]
    names = [str(splits[0].data.categories[i]["name"]) for i in order]
    places = np.arange(len(order))
    for number, split in enumerate(splits):
        at = places + 0.4 * (number - 0.5)
        axes.barh(at, counts[number][order], height=0.4, color=_COLOURS[split.name], label=split.name)
        if len(order) <= 12:
            for place, count in zip(at, counts[number][order], strict=True):
                axes.annotate(f" {count:,}", (count, place), va="center", fontsize=9)
    if counts.max() > _LOG_FROM * max(np.median(counts), 1):
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlabel("logarithmic")
        axes.set_xlim(0, 1.5 * counts.max())
    else:
        axes.set_xlim(0, max(1.2 * counts.max(), 1))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_yticks(places, [name if len(name) <= 24 else f"{name[:23]}…" for name in names])
    axes.tick_params(axis="y", labelsize=10 if len(order) <= 30 else 7.5, length=0)
    axes.set_ylim(*((1.2, -1.2) if len(order) == 1 else (len(order) - 0.4, -0.6)))
    axes.grid(axis="y", visible=False)
    left = counts.shape[1] - len(order)
    axes.set_title("instances by class" + (f", the {most} most frequent; {left} more in counts.csv" if left else ""))
    axes.legend(loc="lower right")


def _sizes(axes: Axes, splits: list[Split]) -> None:
    """Side of a square of the mask's area, relative to that of the image."""
    sides = {}
    for split in splits:
        alone = split.alone()
        whole = (split.images["height"] * split.images["width"]).to_numpy()[alone["image"]]
        sides[split.name] = 100 * np.sqrt(alone["pixels"].to_numpy() / whole)
    most = max((side.max() for side in sides.values() if len(side)), default=100)
    _histograms(axes, sides, np.linspace(0, min(5 * np.ceil(most / 5), 100), _BINS + 1))
    axes.set(title="mask size: √(mask area / image area)", ylabel="instances (%)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))


def _crowding(axes: Axes, splits: list[Split]) -> None:
    numbers = {split.name: split.images["instances"].to_numpy() for split in splits}
    most = max(int(values.max()) for values in numbers.values())
    # whole numbers of instances a bin, so that no bin is empty by rounding
    step = most // _BINS + 1
    _histograms(axes, numbers, np.arange(0, most + step + 1, step) - 0.5)
    axes.set(title="instances an image", ylabel="images (%)")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _histograms(axes: Axes, values: dict[str, np.ndarray], edges: np.ndarray) -> None:
    """One a split, in percent, so that splits of any size can be compared."""
    for split, numbers in values.items():
        counts, _ = np.histogram(numbers, edges)
        shares = 100 * counts / max(len(numbers), 1)
        axes.stairs(shares, edges, fill=True, alpha=0.25, color=_COLOURS[split])
        axes.stairs(shares, edges, color=_COLOURS[split], linewidth=1.4, label=split)
    # room for the outline of the first and last bin
    rim = 0.015 * (edges[-1] - edges[0])
    axes.set_xlim(edges[0] - rim, edges[-1] + rim)
    axes.margins(y=0.18)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.legend(loc="upper right", ncols=len(values))

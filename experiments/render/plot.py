"""How plots look: one style, one look a variant, figures with a row a variant; and how they are written."""

import hashlib
import io
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments.render.table import wrap
from instseg.files import write_atomically

# Okabe and Ito's colours, safe for colour-blind eyes, without their yellow, which is faint on white, and without
# black, which the baseline has.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_BLACKS = ("#000000", "#777777", "#aaaaaa")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))
# An FCN of another head's size or pull.
_CONTROL = re.compile(r"_(params|flops|pull)_of_")
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "pdf.fonttype": 42,
    # A variant's name is never a formula.
    "text.parse_math": False,
}
MANY = 6
"""With more variants than this, plots are larger and leave details out."""
_NAME_CHARACTERS = 26
_FILE_NAME_LENGTH = 100
# Inches: of a line of a name, around it, of what stands above and below the rows, and at least of it all.
_LINE, _AROUND, _REST, _LOWEST = 0.16, 0.14, 1.15, 2.1


class Look(NamedTuple):
    """How one variant is drawn, in every plot; beyond six variants marker and dash differ too."""

    colour: str
    marker: str
    dash: Any
    hollow: bool = False

    @property
    def face(self) -> str:
        """Colour inside the marker."""
        return "white" if self.hollow else self.colour


def looks(variants: list[str]) -> dict[str, Look]:
    """One look a variant, in the order of the tables: the first, the baseline, is black; controls are black too, with
    hollow markers."""
    controls = [variant for variant in variants[1:] if _CONTROL.search(variant)]
    others = [variant for variant in variants[1:] if variant not in controls]
    chosen = {variant: Look(_BLACKS[0], _MARKERS[0], _DASHES[0]) for variant in variants[:1]}
    for position, variant in enumerate(controls):
        turn, kind = divmod(position, len(_MARKERS) - 1)
        chosen[variant] = Look(_BLACKS[turn % len(_BLACKS)], _MARKERS[kind + 1], _DASHES[kind + 1], hollow=True)
    for position, variant in enumerate(others):
        turn, colour = divmod(position, len(_COLOURS))
        chosen[variant] = Look(_COLOURS[colour], _MARKERS[turn % len(_MARKERS)], _DASHES[turn % len(_DASHES)])
    return chosen


def draw(stem: Path, make: Callable[[], Figure | None]) -> list[Path]:
    """Make a figure in this module's style and write ``stem.png`` (150 dpi) and ``stem.pdf``, without dates, so that
    the same data give the same bytes; nothing is written where ``make`` gives None."""
    with mpl.rc_context(STYLE):
        figure = make()
        if figure is None:
            return []
        paths = []
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=150, metadata=metadata)
            # Not with_suffix: a variant's name may hold a dot.
            paths.append(write_atomically(stem.with_name(f"{stem.name}.{kind}"), data.getvalue()))
        return paths


def file_names(labels: list[str]) -> dict[str, str]:
    """A file name without ending for each label, of no more than 100 characters; no two are the same."""
    names: dict[str, str] = {}
    for label in labels:
        name = re.sub(r"[^\w.=-]+", "_", label, flags=re.ASCII).strip("_.") or "variant"
        if len(name) > _FILE_NAME_LENGTH:
            name = f"{name[: _FILE_NAME_LENGTH - 9]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        while name in names.values():
            name += "_"
        names[label] = name
    return names


def row_figure(variants: Iterable[str], columns: int, width: float) -> tuple[Figure, list[Axes]]:
    """Axes side by side, as many as ``columns``, each ``width`` inches wide, with a row a variant, from below."""
    names = [wrap(variant, _NAME_CHARACTERS) for variant in variants]
    heights = [_LINE * (1 + name.count("\n")) for name in names]
    across = 0.085 * max(len(line) for name in names for line in name.splitlines())
    size = (across + columns * width + 0.2, max(_LOWEST, _REST + len(names) * (max(heights) + _AROUND)))
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.07, wspace=0.03)  # type: ignore[union-attr,call-arg]
    all_axes = list(figure.subplots(1, columns, squeeze=False, sharey=True)[0])
    all_axes[0].set_yticks(range(len(names)), names, linespacing=0.95)
    all_axes[0].set_ylim(-0.6, len(names) - 0.4)
    for axes in all_axes:
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    return figure, all_axes


def rival_name(labels: Iterable[str | None]) -> str:
    """What a plot calls the baselines that its variants are compared with."""
    names = set(labels)
    return f"{names.pop()}" if len(names) == 1 else "the baseline"


def caption(figure: Figure, text: str) -> None:
    """A line above the axes, broken where the figure is narrow."""
    figure.suptitle(textwrap.fill(text, int(figure.get_figwidth() / 0.075)), fontsize=9, color="#555555")


def label_logarithms(axis: Axis) -> None:
    """Plain numbers at a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
    axis.set_minor_locator(NullLocator())

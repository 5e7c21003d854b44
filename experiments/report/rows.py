"""Plots with a row a variant: differences with intervals, better and worse images, AP by kind of object."""

import math
import textwrap
from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.render.plot import looks
from experiments.render.table import wrap
from experiments.report.predictions import THIRDS, TIE

_NAME_CHARACTERS = 26
_MASKS = ("mask", "boundary")
_SIZES = {"APs": "small (< 32² px)", "APm": "medium", "APl": "large (> 96² px)"}
# Colours of the bars and of the numbers in them.
_OUTCOMES = {"better": ("#0072B2", "white"), "equal": ("#dddddd", "black"), "worse": ("#E69F00", "black")}
# From light to dark, apart in grey too.
_SHADES, _MARKERS = ("#8fc1e3", "#3a84bd", "#0b2f5c"), ("o", "s", "D")
# Inches: of a line of a name, around it, of what stands above and below the rows, and at least of it all.
_LINE, _AROUND, _REST, _LOWEST = 0.16, 0.14, 1.15, 2.1


def forest(ap: pd.DataFrame) -> Figure | None:
    """Differences of AP to the baseline with their intervals, a column for each of box, mask and boundary AP that there
    is and in which variants differ, the variants with the best masks on top; None without differences.

    Args:
        ap: the frame of :func:`experiments.report.compare.compare`; where it has intervals by Holm's correction, these
            are the thin lines, and decide which markers are filled.
    """
    found = [str(name) for name in ap if str(name).endswith("_AP_diff") and ap[name].notna().any()]
    # on a frozen core all boxes are the same
    found = [name for name in found if (ap[name].fillna(0) != 0).any()] or found
    kinds = [name.removesuffix("_AP_diff") for name in found]
    rows = _ranked(ap[ap[found].notna().any(axis=1)])
    if rows.empty:
        return None
    style = looks(list(ap["variant"]))
    figure, columns = _figure(rows["variant"], len(kinds), 4.6)
    rivals = rows["compared_with"].unique()
    corrected = f"{kinds[0]}_AP_diff_holm_low" in ap
    for axes, kind in zip(columns, kinds, strict=True):
        for y, (_, row) in enumerate(rows.iterrows()):
            value, low, high = (row[f"{kind}_AP_diff{end}"] for end in ("", "_low", "_high"))
            if math.isnan(value):
                continue
            outer = [row[f"{kind}_AP_diff_holm_{end}"] for end in ("low", "high")] if corrected else [low, high]
            look = style[row["variant"]]
            axes.plot(outer, [y, y], color=look.colour, linewidth=1, marker="|", markersize=6)
            axes.plot([low, high], [y, y], color=look.colour, linewidth=3, solid_capstyle="butt")
            real = outer[0] > 0 or outer[1] < 0
            face = look.colour if real else "white"
            axes.plot(value, y, look.marker, color=look.colour, markerfacecolor=face, markersize=7, zorder=3)
            text = _signed(value) + (f" [{_signed(outer[0])}, {_signed(outer[1])}]" if outer[0] == outer[0] else "")
            axes.text(
                *(1.02, y, text),
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=8.5,
                fontweight="bold" if real else "normal",
            )
        axes.axvline(0, color="#555555", linewidth=1)
        axes.set(xlabel=f"Δ {kind} AP to {rivals[0] if len(rivals) == 1 else 'the baseline'}")
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    _note(
        figure,
        "Thick: 95 % interval of the difference alone; thin and in figures: with Holm's correction for all of them; "
        "filled: it excludes 0"
        if corrected
        else "95 % intervals, each on its own; filled: it excludes 0",
    )
    return figure


def win_tie_loss(found: pd.DataFrame, ap: pd.DataFrame) -> Figure | None:
    """Shares of images on which each variant is better than the baseline, equal or worse, from
    :func:`experiments.report.predictions.win_tie_loss`; None without rows."""
    if found.empty:
        return None
    rows = _ranked(found.merge(ap[["variant", "mask_AP_mean"]], on="variant"))
    figure, (axes,) = _figure(rows["variant"], 1, 7.0)
    for y, (_, row) in enumerate(rows.iterrows()):
        left = 0.0
        for key, (colour, ink) in _OUTCOMES.items():
            share = 100 * row[key] / row["images"]
            axes.barh(y, share, left=left, color=colour, height=0.72)
            if share > 4:
                axes.text(left + share / 2, y, f"{row[key]}", ha="center", va="center", fontsize=8.5, color=ink)
            left += share
        text = f"mean Δ IoU {row['iou_diff']:+.3f}"
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    axes.axvline(50, color="black", linewidth=0.8, linestyle=":", zorder=0)
    axes.grid(False)
    rivals = found["compared_with"].unique()
    axes.set(xlabel="held-out images (%)", xlim=(0, 100))
    handles = [Line2D([], [], color=colour, linewidth=8) for colour, _ in _OUTCOMES.values()]
    than = rivals[0] if len(rivals) == 1 else "the baseline"
    names = [f"better than {than}", f"equal (within {TIE} IoU)", "worse"]
    figure.legend(handles, names, loc="outside upper center", ncols=3, handlelength=1)
    return figure


def ap_by_object(ap: pd.DataFrame, thirds: pd.DataFrame) -> Figure | None:
    """Mask AP, and boundary AP where there is any, by COCO's object sizes, and mask AP by complexity; None without any.

    Args:
        ap: the frame of :func:`experiments.report.compare.compare`.
        thirds: that of :func:`experiments.report.predictions.by_complexity`.
    """
    table = ap.merge(thirds, on="variant", how="left")
    edges = thirds[["edge_low", "edge_high"]].dropna().drop_duplicates().to_numpy()
    parted = "" if len(edges) != 1 else f" (parted at {edges[0, 0]:.2f} and {edges[0, 1]:.2f})"
    columns = [
        *((f"{kind} AP (%) by size", {f"{kind}_{key}_mean": _SIZES[key] for key in _SIZES}) for kind in _MASKS),
        (f"mask AP (%) by complexity{parted}", {f"mask_AP_{third}_mean": third for third in THIRDS}),
    ]
    shown = []
    for title, keys in columns:
        present = {key: name for key, name in keys.items() if key in table and table[key].notna().any()}
        if present:
            shown.append((title, present))
    if not shown:
        return None
    rows = _ranked(table)
    figure, all_axes = _figure(rows["variant"], len(shown), 4.6)
    for axes, (title, keys) in zip(all_axes, shown, strict=True):
        values = rows[list(keys)]
        axes.hlines(range(len(rows)), values.min(axis=1), values.max(axis=1), color="#bbbbbb", linewidth=1.5, zorder=1)
        for key, name in keys.items():
            place = list(_SIZES.values()).index(name) if name in _SIZES.values() else THIRDS.index(name)
            (dots,) = axes.plot(rows[key], range(len(rows)), _MARKERS[place], color=_SHADES[place], label=name)
            dots.set_markersize(7)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9)
        axes.set(xlabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(7))
    return figure


def _signed(value: float) -> str:
    # "+ 0.0" turns -0.0 into 0.0
    return f"{round(value, 1) + 0.0:+.1f}"


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """The best masks last, as plots count from below."""
    return table.sort_values("mask_AP_mean", kind="stable", na_position="first")


def _figure(variants: Iterable[str], columns: int, width: float) -> tuple[Figure, list[Axes]]:
    """Axes side by side, of so many inches each, with a row a variant."""
    names = [wrap(variant, _NAME_CHARACTERS) for variant in variants]
    heights = [_LINE * (1 + name.count("\n")) for name in names]
    across = 0.085 * max(len(line) for name in names for line in name.splitlines())
    size = (across + columns * width + 0.2, max(_LOWEST, _REST + len(names) * (max(heights) + _AROUND)))
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.07, wspace=0.03)  # type: ignore[union-attr,call-arg]
    axes = list(figure.subplots(1, columns, squeeze=False, sharey=True)[0])
    axes[0].set_yticks(range(len(names)), names, linespacing=0.95)
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    for one in axes:
        one.tick_params(axis="y", length=0)
        one.spines["left"].set_visible(False)
    return figure, axes


def _note(figure: Figure, text: str) -> None:
    """A line above the axes, broken where the figure is narrow."""
    text = textwrap.fill(text, int(figure.get_figwidth() / 0.075))
    figure.suptitle(text, fontsize=9, color="#555555")

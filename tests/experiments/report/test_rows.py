"""Plots with a row a variant show the numbers of the tables, each beside its name."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from experiments.render.table import wrap
from experiments.report import rows

# variant: mask AP, difference, its interval, and the corrected one
MASK = {
    "fcn": (30.0, math.nan, math.nan, math.nan, math.nan, math.nan),
    "unet(depth=3, skip=attention, width=64)": (33.0, 3.0, 1.0, 5.0, -0.5, 6.5),
    "pointrend": (36.0, 6.0, 4.0, 8.0, 3.0, 9.0),
    "smp": (25.0, -5.0, -7.0, -3.0, -8.0, -2.0),
}


def frame(kinds: tuple[str, ...] = ("box", "mask"), corrected: bool = True) -> pd.DataFrame:
    table = pd.DataFrame({"variant": list(MASK), "compared_with": "fcn"})
    ends = ("AP_mean", "AP_diff", "AP_diff_low", "AP_diff_high", "AP_diff_holm_low", "AP_diff_holm_high")
    for kind in kinds:
        for place, end in enumerate(ends[: 6 if corrected else 4]):
            table[f"{kind}_{end}"] = [numbers[place] for numbers in MASK.values()]
    for place, metric in enumerate(("APs", "APm", "APl")):
        table[f"mask_{metric}_mean"] = [numbers[0] + place - 1 for numbers in MASK.values()]
    return table


def drawn(figure: Figure | None) -> tuple[Figure, list[str]]:
    """The figure, and the names of its rows from below."""
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    return figure, [label.get_text() for label in figure.axes[0].get_yticklabels()]


def markers(axes: Axes) -> dict[int, tuple[float, bool]]:
    """Where each row's marker is, and whether it is filled."""
    points = [line for line in axes.get_lines() if line.get_marker() not in ("", "None", "|", None)]
    return {
        int(y): (float(x), to_rgba(line.get_markerfacecolor()) != to_rgba("white"))
        for line in points
        for x, y in zip(np.atleast_1d(line.get_xdata()), np.atleast_1d(line.get_ydata()), strict=True)
    }


@pytest.mark.parametrize("corrected", [True, False])
def test_forest_fills_what_is_real(corrected: bool) -> None:
    figure, names = drawn(rows.forest(frame(("box", "mask", "boundary"), corrected)))
    assert names == ["smp", wrap("unet(depth=3, skip=attention, width=64)", 26), "pointrend"]
    assert [axes.get_xlabel() for axes in figure.axes] == [f"Δ {k} AP to fcn" for k in ("box", "mask", "boundary")]
    for axes in figure.axes:
        assert markers(axes) == {0: (-5, True), 1: (3, not corrected), 2: (6, True)}
        texts = [text.get_text() for text in axes.texts]
        assert texts[1] == ("+3.0 [-0.5, +6.5]" if corrected else "+3.0 [+1.0, +5.0]")
        ends = {(float(y[0]), *map(float, x)) for x, y in (one.get_data() for one in axes.get_lines()) if len(x) == 2}
        # thick, and thin where it is another
        assert {(1, 1, 5), (1, -0.5, 6.5)} <= ends if corrected else (1, 1, 5) in ends
    assert ("Holm" in figure.get_suptitle()) == corrected


def test_forest_of_what_is_not_judged_and_of_boxes_that_are_the_same() -> None:
    ap = frame(("box", "mask", "boundary"), True)
    for column in [name for name in ap if name.startswith("box_AP_diff")]:
        ap.loc[ap[column].notna(), column] = 0.0
    ap.loc[ap["variant"] == "pointrend", [f"mask_AP_diff_holm_{end}" for end in ("low", "high")]] = math.nan
    figure, _ = drawn(rows.forest(ap))
    assert [axes.get_xlabel() for axes in figure.axes] == ["Δ mask AP to fcn", "Δ boundary AP to fcn"]
    masks, boundaries = figure.axes
    assert markers(masks)[2] == (6, False) and markers(boundaries)[2] == (6, True)
    assert masks.texts[2].get_text() == "+6.0"


def test_without_differences_there_is_no_forest() -> None:
    assert rows.forest(frame().head(1)) is None


def test_bars_are_shares_of_the_images() -> None:
    found = pd.DataFrame(
        {
            "variant": ["smp", "pointrend"],
            "compared_with": "fcn",
            "images": [50, 40],
            "better": [5, 20],
            "equal": [10, 20],
            "worse": [35, 0],
            "iou_diff": [-0.0521, 0.03],
        }
    )
    figure, names = drawn(rows.win_tie_loss(found, frame()))
    assert names == ["smp", "pointrend"]
    (axes,) = figure.axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars == [(0, 10), (10, 20), (30, 70), (0, 50), (50, 50), (100, 0)]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["5", "10", "35", "mean Δ IoU -0.052", "20", "20", "mean Δ IoU +0.030"]
    assert rows.win_tie_loss(found.head(0), frame()) is None


def test_ap_by_object_leaves_out_what_there_is_none_of() -> None:
    thirds = pd.DataFrame({"variant": ["smp", "fcn"], "edge_low": 1.5, "edge_high": 2.25})
    for place, third in enumerate(("simple", "middling", "complex")):
        thirds[f"mask_AP_{third}_mean"] = [20.0 - place, 40.0 - place]
    table = frame()
    table["mask_APl_mean"] = math.nan
    figure, names = drawn(rows.ap_by_object(table, thirds))
    assert names == ["smp", "fcn", wrap("unet(depth=3, skip=attention, width=64)", 26), "pointrend"]
    by_size, by_complexity = figure.axes
    assert [line.get_label() for line in by_size.get_lines()] == ["small (< 32² px)", "medium"]
    assert [list(line.get_xdata()) for line in by_size.get_lines()] == [[24, 29, 32, 35], [25, 30, 33, 36]]
    assert "1.50 and 2.25" in by_complexity.get_xlabel()
    found = [list(line.get_xdata())[:2] for line in by_complexity.get_lines()]
    assert found == [[20, 40], [19, 39], [18, 38]]
    nothing = table.drop(columns=[name for name in table if "APs" in name or "APm" in name or "APl" in name])
    assert rows.ap_by_object(nothing, thirds.head(0)) is None


def test_with_many_variants_nothing_lies_upon_another() -> None:
    many = {f"a_long_name_of_a_head_{n}(depth={n}, skip=none)": n for n in range(18)}
    table = pd.DataFrame({"variant": list(many), "compared_with": "fcn", "mask_AP_mean": list(many.values())})
    for kind in ("box", "mask", "boundary"):
        for end, by in (("", 0.0), ("_low", -11.5), ("_high", 11.5), ("_holm_low", -12.5), ("_holm_high", 12.5)):
            table[f"{kind}_AP_diff{end}"] = [n + by for n in many.values()]
    figure, names = drawn(rows.forest(table))
    assert len(names) == 18
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    boxes += [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    boxes += [axes.get_window_extent() for axes in figure.axes]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    width, height = canvas.get_width_height()
    assert all(box.x0 > 0 and box.x1 < width and box.y0 > 0 and box.y1 < height for box in boxes)
    assert max(width, height) * 150 / figure.dpi <= 2600

"""Plots with a row a variant show the numbers of the tables, each beside its name."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scores_of_variants import study_scores

from experiments.render.table import wrap
from experiments.report import ap, by_image, by_object
from experiments.report.compare import Mean
from instseg.evaluation.coco import Kind

LONG = "unet(depth=3, skip=attention, width=64)"
# variant: mask AP, and of the difference its value, interval, and corrected interval
MASK = {
    "fcn": (30.0,),
    LONG: (33.0, 3.0, (1.0, 5.0), (-0.5, 6.5)),
    "pointrend": (36.0, 6.0, (4.0, 8.0), (3.0, 9.0)),
    "smp": (25.0, -5.0, (-7.0, -3.0), (-8.0, -2.0)),
}
KINDS: tuple[Kind, ...] = ("box", "mask", "boundary")


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


def test_forest_fills_what_is_told_apart() -> None:
    figure, names = drawn(ap.forest(study_scores(MASK, KINDS)))
    assert names == ["smp", wrap(LONG, 26), "pointrend"]
    assert [axes.get_xlabel() for axes in figure.axes] == [f"Δ {kind} AP to fcn" for kind in KINDS]
    for axes in figure.axes:
        assert markers(axes) == {0: (-5, True), 1: (3, False), 2: (6, True)}
        assert [text.get_text() for text in axes.texts][1] == "+3.0 [-0.5, +6.5] undecided"
        lines = [line.get_data() for line in axes.get_lines()]
        ends = {(float(y[0]), *map(float, x)) for x, y in lines if len(x) == 2}
        # thick, and thin where it is another
        assert {(1, 1, 5), (1, -0.5, 6.5)} <= ends
    assert "margin of equivalence" in figure.get_suptitle()


def test_forest_of_what_is_not_judged_and_of_boxes_that_are_the_same() -> None:
    same = {name: (row[0], 0.0, (0.0, 0.0), (0.0, 0.0)) if len(row) > 1 else row for name, row in MASK.items()}
    unjudged = MASK | {"pointrend": (36.0, 6.0, (4.0, 8.0), (math.nan, math.nan))}
    figure, _ = drawn(ap.forest(study_scores({"box": same, "mask": unjudged, "boundary": MASK}, KINDS)))
    assert [axes.get_xlabel() for axes in figure.axes] == ["Δ mask AP to fcn", "Δ boundary AP to fcn"]
    masks, boundaries = figure.axes
    assert markers(masks)[2] == (6, False) and markers(boundaries)[2] == (6, True)
    assert masks.texts[2].get_text() == "+6.0"


def test_without_differences_there_is_no_forest() -> None:
    assert ap.forest(study_scores({"fcn": MASK["fcn"]}, KINDS)) is None


def test_bars_are_shares_of_the_images() -> None:
    columns = ["variant", "compared_with", "pairs", "images", "better", "equivalent", "worse", "iou_diff"]
    rows = [("smp", "fcn", 2, 50, 5, 10, 35, -0.0521), ("pointrend", "fcn", 2, 40, 20, 20, 0, 0.03)]
    outcomes = pd.DataFrame(rows, columns=columns)
    figure, names = drawn(by_image.bars(outcomes, study_scores(MASK, KINDS)))
    assert names == ["smp", "pointrend"]
    (axes,) = figure.axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    # the better ones of each variant, the equivalent ones, the worse ones
    assert bars == [(0, 10), (0, 50), (10, 20), (50, 50), (30, 70), (100, 0)]
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    assert texts == ["5", "20", "10", "20", "35", "mean Δ IoU -0.052", "mean Δ IoU +0.030"]


def test_ap_by_object_leaves_out_what_there_is_none_of() -> None:
    thirds = {
        name: by_object.ByComplexity(tuple(Mean(first - place, n=1) for place in range(3)), (1.5, 2.25))
        for name, first in (("smp", 20.0), ("fcn", 40.0))
    }
    sizes = {"APs": -1.0, "APm": 0.0}
    scores = study_scores(MASK, ("box", "mask"), sizes)
    figure, names = drawn(by_object.dots(scores, thirds))
    assert names == ["smp", "fcn", wrap(LONG, 26), "pointrend"]
    by_size, by_complexity = figure.axes
    assert [line.get_label() for line in by_size.get_lines()] == ["small (< 32² px)", "medium"]
    assert [list(line.get_xdata()) for line in by_size.get_lines()] == [[24, 29, 32, 35], [25, 30, 33, 36]]
    assert "1.50 and 2.25" in by_complexity.get_xlabel()
    found = [list(line.get_xdata())[:2] for line in by_complexity.get_lines()]
    assert found == [[20, 40], [19, 39], [18, 38]]
    assert by_object.dots(study_scores(MASK, ("box", "mask")), {}) is None


def test_with_many_variants_nothing_lies_upon_another() -> None:
    many = {
        f"a_long_name_of_a_head_{n}(depth={n}, skip=none)": (n, n, (n - 11.5, n + 11.5), (n - 12.5, n + 12.5))
        for n in range(18)
    }
    figure, names = drawn(ap.forest(study_scores(many, KINDS)))
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

"""Logs as they are after crashes, and labels that stay apart."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from scores_of_variants import study_scores

from experiments.render import plot
from experiments.render.table import wrap
from experiments.report import cost, curves

CONTROLS = ["fcn_params_of_unet", "fcn_flops_of_unet"]
HEADS = [f"{head}_{kind}" for head in ("unet", "pointrend", "smp") for kind in ("plain", "wide", "deep", "fine", "odd")]
# 18, the baseline first
VARIANTS = ["fcn", *CONTROLS, *HEADS[:-1], "unet(depth=3, skip=attention, width=64)"]


def test_a_log_joins_losses_and_evaluations_and_survives_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"iteration": 20, "loss_mask": 0.5}',
        '{"iteration": 10, "loss_mask": 0.9}',
        '{"iteration": 20, "eval": {"mask_AP": 12.5, "box_AP": null}}',
        '{"iteration": 20, "loss_mask": 0.4}',
        "[]",
        '{"iteration": 30, "loss_ma',
    ]
    path.write_text("\n".join(lines))
    log = curves.read_log(path)
    assert list(log.index) == [10, 20]
    assert list(log["loss_mask"]) == [0.9, 0.4]
    assert log.loc[20, "mask_AP"] == 12.5
    assert np.isnan(log.loc[20, "box_AP"])
    assert curves.logged({"fcn": [log]}, "mask_AP")
    assert not curves.logged({"fcn": [log]}, "box_AP")
    assert curves.read_log(tmp_path / "absent.jsonl").empty


def test_the_drawn_curve_is_the_mean_of_the_runs() -> None:
    runs = [pd.DataFrame({"mask_AP": [10.0, 20.0]}, index=[50, 100]) + shift for shift in (0, 4)]
    figure = curves.learning_curves({"fcn": runs}, ["fcn"])
    assert figure is not None
    (axes,) = figure.axes
    (mean,) = [line for line in axes.get_lines() if line.get_label() == "fcn"]
    assert list(mean.get_ydata()) == [12, 22]
    assert len(axes.get_lines()) == 3
    assert curves.learning_curves({"fcn": [pd.DataFrame()]}, ["fcn"]) is None


def test_a_mean_curve_goes_as_far_as_all_runs_do() -> None:
    ends = {30: [10, 20, 25, 30], 40: [10, 20, 30, 40], 35: [10, 20, 30, 35]}
    runs = [pd.DataFrame({"mask_AP": [float(end)] * len(at)}, index=at) for end, at in ends.items()]
    figure = curves.learning_curves({"fcn": runs}, ["fcn"])
    assert figure is not None
    (mean,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "fcn"]
    assert list(mean.get_xdata()) == [10, 20, 30]
    assert list(mean.get_ydata()) == [35.0] * 3


def test_curves_of_many_variants_are_means_alone_with_a_legend_below() -> None:
    logs = {
        variant: [pd.DataFrame({"loss_mask": [4.0, 0.1 + n], "mask_AP": [41.0 + n, 45.0 + n]}, index=[50, 100])] * 2
        for n, variant in enumerate(VARIANTS)
    }
    figure = curves.learning_curves(logs, VARIANTS)
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    loss, ap = figure.axes
    (legend,) = figure.legends
    assert [text.get_text().replace("\n", " ") for text in legend.get_texts()] == VARIANTS
    extent = legend.get_window_extent()
    width, height = figure.get_size_inches() * figure.dpi
    assert 0 <= extent.x0 < extent.x1 <= width
    assert extent.y0 >= 0
    assert extent.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)
    assert ap.get_window_extent().height > height / 2
    assert [len(axes.get_lines()) for axes in figure.axes] == [18, 18]
    # Losses from 0.1 to 17 need a logarithmic axis, APs from 41 to 62 none that starts at 0; nothing is cut off.
    assert loss.get_yscale() == "log"
    assert {"0.1", "1", "10"} <= {label.get_text() for label in loss.get_yticklabels()}
    assert 0 < loss.get_ylim()[0] < 0.1
    assert loss.get_ylim()[1] > 17.1
    assert 30 < ap.get_ylim()[0] < 41
    assert 62 < ap.get_ylim()[1] < 70


def test_few_curves_near_each_other_start_at_zero() -> None:
    run = pd.DataFrame({"loss_mask": [0.8, 0.2], "mask_AP": [10.0, 40.0]}, index=[50, 100])
    figure = curves.learning_curves({"fcn": [run], "unet": [run]}, ["fcn", "unet"])
    assert figure is not None
    for axes in figure.axes:
        assert axes.get_yscale() == "linear"
        assert axes.get_ylim()[0] == 0


def test_every_variant_looks_different_and_the_same_everywhere() -> None:
    found = plot.looks(["fcn", *CONTROLS, *(f"v{n}" for n in range(28))])
    assert len({(look.colour, look.marker, look.hollow) for look in found.values()}) == 31
    assert len({(look.colour, str(look.dash)) for look in found.values()}) == 31
    assert [v for v, look in found.items() if look.colour == "#000000"] == ["fcn", *CONTROLS]
    assert [v for v, look in found.items() if look.hollow] == CONTROLS
    figure, curves = cost_figure(np.arange(2.0, 20), np.arange(40.0, 58)), learning_figure()
    looks = plot.looks(VARIANTS)
    for axes in (*figure.axes, *curves.axes):
        drawn = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in axes.get_lines()}
        for look in looks.values():
            assert (look.colour, look.marker, "white" if look.hollow else look.colour) in drawn


def learning_figure() -> Figure:
    figure = curves.learning_curves(
        {v: [pd.DataFrame({"mask_AP": [1.0, 2.0]}, index=[1, 2])] for v in VARIANTS}, VARIANTS
    )
    assert figure is not None
    return figure


def cost_figure(speeds: np.ndarray, scores: np.ndarray, flops: np.ndarray | None = None) -> Figure:
    figure = ap_against_cost(speeds, scores, 3e6 * speeds if flops is None else flops)
    assert figure is not None
    return figure


def ap_against_cost(speeds: np.ndarray, scores: np.ndarray, flops: np.ndarray) -> Figure | None:
    rows = {variant: (score,) for variant, score in zip(VARIANTS, scores.tolist(), strict=True)}
    columns = {"head_ms_median": speeds, "head_ms_low": 0.9 * speeds, "head_ms_high": 1.1 * speeds}
    costs = pd.DataFrame(columns | {"head_flops_per_roi": flops}, index=VARIANTS)
    return cost.ap_against_cost(study_scores(rows, ("mask",), std=1.0), costs)


def drawn_points(axes: Axes) -> np.ndarray:
    """The markers of the variants, in data coordinates, from left to right."""
    lines = [line for line in axes.get_lines() if line.get_marker() in "os^DvP" and len(line.get_xdata()) == 1]
    return np.array(sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in lines))


def test_points_lie_at_milliseconds_and_megaflops() -> None:
    speeds, scores = np.linspace(10, 90, 18), np.linspace(60, 40, 18)
    figure = cost_figure(speeds, scores, np.linspace(30e6, 20e6, 18))
    milliseconds, flops = figure.axes
    assert np.allclose(drawn_points(milliseconds), np.stack([speeds, scores], 1))
    assert np.allclose(drawn_points(flops), np.stack([np.linspace(20, 30, 18), scores[::-1]], 1))
    assert "ms per 100 RoIs" in milliseconds.get_xlabel()
    assert "MFLOP per RoI" in flops.get_xlabel()
    assert (milliseconds.get_xscale(), flops.get_xscale()) == ("log", "linear")
    FigureCanvasAgg(figure).draw()
    assert {"10", "20", "50"} <= {label.get_text() for label in milliseconds.get_xticklabels()}


@pytest.mark.parametrize("case", ["uniform", "clusters", "heap"])
@pytest.mark.parametrize("seed", range(2))
def test_eighteen_labels_neither_overlap_nor_leave_the_axes(case: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    if case == "uniform":
        speeds, scores = random.uniform(2, 10, 18), random.uniform(40, 50, 18)
    elif case == "clusters":
        speeds = np.exp(random.choice([1, 1.2, 3], 18) + random.normal(0, 0.1, 18))
        scores = random.choice([40, 44], 18) + random.normal(0, 0.7, 18)
    else:
        speeds = np.append(random.normal(10, 0.2, 16), [30, 100])
        scores = np.append(random.normal(40, 0.3, 16), [35, 46])
    figure = cost_figure(speeds, scores)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    assert len(figure.axes) == 2
    for axes in figure.axes:
        labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
        assert sorted(label.get_text() for label in labels) == sorted(wrap(variant, 22) for variant in VARIANTS)
        # The text alone, without the line to its point.
        extents = [Text.get_window_extent(label, renderer) for label in labels]
        assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
        for point in axes.transData.transform(drawn_points(axes)):
            assert not any(box.contains(*point) for box in extents)
        frame = axes.get_window_extent(renderer)
        for box in extents:
            assert min(box.x0 - frame.x0, frame.x1 - box.x1, box.y0 - frame.y0, frame.y1 - box.y1) > -1


def test_what_is_not_known_has_no_panel() -> None:
    nothing, known, scores = np.full(18, np.nan), np.arange(2.0, 20), np.full(18, 40.0)
    assert ap_against_cost(nothing, scores, nothing) is None
    assert len(cost_figure(known, scores, nothing).axes) == 1
    (flops,) = cost_figure(nothing, scores, 1e6 * known).axes
    assert "MFLOP" in flops.get_xlabel()


def test_long_labels_are_broken_and_no_letter_is_lost() -> None:
    label = "pretrained_unet(depth=10, skip=none, name=abcdefghijklmnopqrstuvwxyz)"
    broken = wrap(label, 20)
    assert max(map(len, broken.splitlines())) <= 20
    assert broken.replace("\n", "").replace(" ", "") == label.replace(" ", "")

"""Logs as they are after crashes, and labels that stay apart."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from experiments import plots
from experiments.tables import wrap

VARIANTS = [f"{head}_{kind}" for head in ("fcn", "unet", "pointrend") for kind in ("plain", "wide", "deep", "fine")]


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
    log = plots.read_log(path)
    assert list(log.index) == [10, 20]
    assert list(log["loss_mask"]) == [0.9, 0.4]
    assert log.loc[20, "mask_AP"] == 12.5
    assert np.isnan(log.loc[20, "box_AP"])
    assert plots.logged({"fcn": [log]}, "mask_AP")
    assert not plots.logged({"fcn": [log]}, "box_AP")
    assert plots.read_log(tmp_path / "absent.jsonl").empty


def test_the_drawn_curve_is_the_mean_of_the_runs() -> None:
    runs = [pd.DataFrame({"mask_AP": [10.0, 20.0]}, index=[50, 100]) + shift for shift in (0, 4)]
    figure = plots.learning_curves({"fcn": runs}, ["fcn"])
    assert figure is not None
    (axes,) = figure.axes
    (mean,) = [line for line in axes.get_lines() if line.get_label() == "fcn"]
    assert list(mean.get_ydata()) == [12, 22]
    assert len(axes.get_lines()) == 3
    assert plots.learning_curves({"fcn": [pd.DataFrame()]}, ["fcn"]) is None


def test_every_variant_looks_different_and_the_same_everywhere() -> None:
    found = plots.looks([f"v{n}" for n in range(28)])
    assert len({(look.colour, look.marker) for look in found.values()}) == 28
    assert len({(look.colour, str(look.dash)) for look in found.values()}) == 28


def cost_figure(speeds: np.ndarray, scores: np.ndarray) -> Figure | None:
    ap = pd.DataFrame({"variant": VARIANTS, "mask_AP_mean": scores, "mask_AP_std": 1.0})
    ap["mask_AP_low"] = ap["mask_AP_high"] = np.nan
    speed = pd.DataFrame({"variant": VARIANTS, "head_ms_median": speeds, "head_ms_low": np.nan})
    speed = speed.assign(head_ms_high=np.nan, images_per_s_median=np.nan, head_flops_per_roi=1e6 * speeds)
    return plots.ap_against_cost(ap, speed, VARIANTS)


@pytest.mark.parametrize("seed", range(3))
def test_twelve_labels_neither_overlap_nor_leave_the_axes(seed: int) -> None:
    random = np.random.default_rng(seed)
    figure = cost_figure(random.uniform(2, 10, 12), random.uniform(40, 50, 12))
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    assert len(figure.axes) == 2
    for axes in figure.axes:
        labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
        # The text alone, without the line to its point.
        extents = [Text.get_window_extent(label, renderer) for label in labels]
        assert len(extents) == 12
        assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
        frame = axes.get_window_extent(renderer)
        for box in extents:
            assert min(box.x0 - frame.x0, frame.x1 - box.x1, box.y0 - frame.y0, frame.y1 - box.y1) > -1


def test_no_timing_means_no_figure() -> None:
    assert cost_figure(np.full(12, np.nan), np.full(12, 40.0)) is None


def test_long_labels_are_broken_and_no_letter_is_lost() -> None:
    label = "pretrained_unet(depth=10, skip=none, name=abcdefghijklmnopqrstuvwxyz)"
    broken = wrap(label, 20)
    assert max(map(len, broken.splitlines())) <= 20
    assert broken.replace("\n", "").replace(" ", "") == label.replace(" ", "")

"""Mask AP against FLOPs: which variants make a line, where their FLOPs come from, and what is drawn."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tuning_files
from composition import composed
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from scipy import stats
from synthetic import make_run, make_study, write_speed

from experiments.config import control
from experiments.report import frontier
from experiments.report.build import build
from experiments.report.cost import read_speed
from experiments.report.section import Content, Findings
from experiments.report.tuning_file import read_tuning
from experiments.runs.study import read
from instseg import timing

NOISE = {"fcn": 2.0, "fcn_wide": 1.5, "fcn_flops_of_unet": 2.2, "fcn_params_of_unet": 1.8, "fcn_dice": 1.9}
NOISE |= {"unet": 1.9, "unet_wide": 1.0, "unet_no_skip": 2.6, "hourglass": 2.4}
HEADS: dict[str, dict[str, Any]] = {
    "fcn": {},
    "fcn_wide": {"width": 64},
    "fcn_flops_of_unet": {"width": 20, "by": "flops"},
    "fcn_params_of_unet": {"width": 90, "by": "params"},
    "fcn_dice": {"dice_weight": 1.0},
    "unet": {"skip": "concat"},
    "unet_wide": {"skip": "concat", "width": 64},
    "unet_no_skip": {"skip": "none"},
    "hourglass": {},
}
MFLOP = {"fcn": 60.0, "fcn_wide": 240.0, "fcn_flops_of_unet": 45.0, "fcn_params_of_unet": 400.0, "fcn_dice": 60.0}
MFLOP |= {"unet": 45.0, "unet_wide": 180.0, "unet_no_skip": 40.0, "hourglass": 300.0}
UNTUNED = {"fcn": [40.0, 44.0], "unet": [41.0, 43.0], "unet_wide": [46.0, 45.0]}


def _run(study: Path, name: str, noise: float, fold: int, seed: int = 0) -> Path:
    options = {"dice_weight": 0.0, "boundary_weight": 0.0, "width": None, "norm": "none", **HEADS[name]}
    by = options.pop("by", None)
    head = {"name": name.split("_")[0], "options": options, "control_of": {"by": by} if by else None}
    return make_run(study, name, noise, fold=fold, seed=seed, images=6, head=head)


def _speed(study: Path, names: list[str]) -> None:
    write_speed(study, names)
    speed = json.loads((study / "speed.json").read_text())
    for name, entry in speed["variants"].items():
        entry["head_flops_per_roi"] = MFLOP[name] * 1e6
    (study / "speed.json").write_text(json.dumps(speed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("results") / "frontier"
    for name, noise in NOISE.items():
        for fold in (0, 1):
            _run(study, name, noise * (1 + 0.1 * fold), fold)
    _speed(study, list(NOISE))
    return study


def made(study: Path, *, speed: bool = True) -> Content:
    tuning = read_tuning(study)
    return frontier.make(Findings(read(study), "fcn", 50, None, read_speed(study) if speed else None, tuning))


def drawn(content: Content) -> Figure:
    assert content.figure is not None
    figure = content.figure()
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    return figure


def _lines(figure: Figure, panel: int) -> dict[str, list[list[float]]]:
    """The joined lines of a panel, as rows of MFLOP and difference."""
    lines = [line for line in figure.axes[panel].get_lines() if line.get_label() in frontier.LINES]
    return {str(line.get_label()): np.column_stack(line.get_data()).tolist() for line in lines}


def test_lines_join_the_widths_of_one_head(folder: Path) -> None:
    content = made(folder)
    assert content.table is not None
    frame = content.table.numbers.set_index("variant")
    fcn, unet = (frame[frame["line"] == line].sort_values("mflop_per_roi") for line in frontier.LINES)
    assert list(fcn.index) == ["fcn_flops_of_unet", "fcn", "fcn_wide"] and list(unet.index) == ["unet", "unet_wide"]
    assert frame["mflop_per_roi"].to_dict() == MFLOP
    lines = _lines(drawn(content), 0)
    assert lines["FCN"] == pytest.approx(
        fcn.fillna({"mask_AP_diff": 0.0})[["mflop_per_roi", "mask_AP_diff"]].to_numpy()
    )
    assert lines["U-Net"] == pytest.approx(unet[["mflop_per_roi", "mask_AP_diff"]].to_numpy())


def test_the_differences_are_those_of_the_table_of_ap(folder: Path) -> None:
    content = made(folder)
    assert content.table is not None
    frame = content.table.numbers.set_index("variant")
    scores = Findings(read(folder), "fcn", 50).scores
    for variant in scores.variants:
        comparison, row = variant.comparisons["mask"], frame.loc[variant.label]
        if comparison.exists:
            assert (row["mask_AP_diff"], row["mask_AP_diff_corrected_low"]) == (
                comparison.value,
                comparison.corrected_interval[0],
            )
    figure = drawn(content)
    # a small dot a fold: the difference of its two runs
    runs = read(folder).runs.set_index(["variant", "fold"])["mask_AP"]
    dots = [line for line in figure.axes[0].get_lines() if line.get_markersize() < 4 and line.get_marker() == "o"]
    wide = [float(line.get_ydata()[0]) for line in dots if line.get_xdata()[0] == MFLOP["unet_wide"]]
    assert wide == pytest.approx([runs["unet_wide", fold] - runs["fcn", fold] for fold in (0, 1)])
    assert len(dots) == 2 * (len(NOISE) - 1)
    names = [text.get_text().replace("\n", "") for text in figure.axes[0].texts]
    assert sorted(names) == sorted(NOISE)


def test_before_tuning_stands_beside_after(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "tuned"
    shutil.copytree(folder, study)
    scores = {name: [[fold, 60.0] for fold in by_fold] for name, by_fold in UNTUNED.items()}
    tuning_files.write(study, scores)
    content = made(study)
    assert content.table is not None
    row = content.table.numbers.set_index("variant").loc["unet_wide"]
    assert row["before_diff"] == pytest.approx((6 + 1) / 2)
    assert (row["before_diff_low"], row["before_diff_high"]) == pytest.approx(
        stats.t.interval(0.95, 1, 3.5, stats.sem([6, 1]))
    )
    cells = content.table.text.set_index("variant")["Δ before tuning [95 %]"]
    assert cells["unet_wide"].startswith("+3.5 [-") and cells["hourglass"] == cells["fcn"] == "–"
    figure = drawn(content)
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == ["before tuning", "after tuning"]
    assert _lines(figure, 0)["U-Net"] == [[45.0, 0.0], [180.0, 3.5]]
    before = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(before) == ["fcn", "unet", "unet_wide"] and len(figure.axes[1].texts) == len(NOISE)


def test_what_tuning_chose_makes_no_other_head(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "tuned"
    shutil.copytree(folder, study)
    for fold in (0, 1):
        (path,) = study.glob(f"runs/unet_wide-generated-f{fold}-*/result.json")
        result = json.loads(path.read_text())
        result["head"]["options"]["norm"] = "batch"
        path.write_text(json.dumps(result))
    assert made(study).table.numbers["line"].tolist().count("U-Net") == 0  # type: ignore[union-attr]
    tuning_files.write(study, {name: [[fold, 60.0] for fold in by_fold] for name, by_fold in UNTUNED.items()})
    assert made(study).table.numbers["line"].tolist().count("U-Net") == 2  # type: ignore[union-attr]


def test_without_timings_flops_are_counted(tmp_path: Path) -> None:
    configs = {name: composed("study=heads", f"head={name}") for name in ("fcn", "fcn_wide", "unet")}
    for name, config in configs.items():
        run = _run(tmp_path, name, 1.0 + 0.1 * len(name), 0)
        (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    content = made(tmp_path, speed=False)
    assert content.table is not None and "the runs' configurations" in content.table.note
    mflop = content.table.numbers.set_index("variant")["mflop_per_roi"]
    for name, config in configs.items():
        rois = timing.random_rois(config.trunk.out_channels, control.image_size(config), control.ROIS, control.META)
        # two classes and the background
        assert mflop[name] == pytest.approx(control.cost(config.make_head(3), "flops", rois) / 1e6)
    for path in tmp_path.glob("runs/unet-*/config.yaml"):
        path.unlink()
    content = made(tmp_path, speed=False)
    (note,) = content.notes
    assert note.startswith("unet is not in the frontier: ") and "config.yaml can't be used" in note
    assert content.table is not None and np.isnan(
        content.table.numbers.set_index("variant").loc["unet", "mflop_per_roi"]
    )


def test_a_study_of_single_widths_has_none(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"fcn": 2.0, "unet": 1.0, "unet_no_skip": 1.5}, images=4)
    for path in study.glob("runs/unet_no_skip-*/result.json"):
        result = json.loads(path.read_text())
        result["head"]["options"]["skip"] = "none"
        path.write_text(json.dumps(result))
    text = build(study, "fcn", 20)
    assert not list(study.glob("frontier.*")) and "frontier" not in text.replace(str(tmp_path), "")


def test_the_files_are_written_and_no_label_is_cut(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "built"
    shutil.copytree(folder, study)
    build(study, "fcn", 20)
    for ending in ("csv", "md", "tex", "png", "pdf"):
        assert (study / f"frontier.{ending}").stat().st_size > 200
    figure = drawn(made(study))
    frame = figure.axes[0].get_window_extent()
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 > frame.x0 - 2 and box.x1 < frame.x1 + 2, text.get_text()

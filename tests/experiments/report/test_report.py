"""A whole study built from its files: numbers against hand-computed ones, and everything that may be missing."""

import csv
import json
import re
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matched_runs import score_runs
from PIL import Image
from pycocotools.coco import COCO
from synthetic import make_run, make_study, write_speed

from experiments.report.build import build
from experiments.runs.study import read
from instseg.errors import UserError
from instseg.evaluation.coco import KINDS
from instseg.evaluation.matches import match
from instseg.statistics.resampling import differences

NOISE = {"fcn": 2.5, "unet": 1.0, "unet_no_skip": 2.4}
IN_THREE = ["ap", "speed", "win_tie_loss", "ap_by_object", "pairs", "ranking"]
TABLES = [*(f"{name}.{ending}" for name in IN_THREE for ending in ("csv", "md", "tex")), "runs.csv", "runs.md"]
PLOTS = ["learning_curves", "ap_latency", "forest", "pairs", "win_tie_loss", "ap_by_object", "disagreement", "panels"]
PLOTS += ["panels/fcn", "panels/unet", "panels/unet_no_skip", "disagreement/unet", "disagreement/unet_no_skip"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_study(tmp_path_factory.mktemp("results") / "quick", NOISE)
    make_run(folder, "unet", 1.0, seed=9, finished=False)
    (folder / "text").write_text(build(folder, "fcn", resamples=200))
    return folder


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def results(folder: Path, variant: str) -> list[dict]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/result.json"))]
    return [result for result in found if result["variant"] == variant]


def test_means_and_deviations_are_those_computed_by_hand(study: Path) -> None:
    table = rows(study / "ap.csv")
    assert list(table) == ["fcn", "unet", "unet_no_skip"]
    for variant, row in table.items():
        for kind in KINDS:
            for metric in ("AP", "AP50", "AP75", "APs", "APm", "AR100"):
                values = [result["metrics"][kind][metric] for result in results(study, variant)]
                assert len(values) == 2
                assert float(row[f"{kind}_{metric}_mean"]) == pytest.approx(sum(values) / 2)
                assert float(row[f"{kind}_{metric}_std"]) == pytest.approx(statistics.stdev(values))
        assert row["n"] == "2"
        assert row["mask_APl_mean"] == ""


def test_a_planted_difference_is_found_and_equals_the_library_s(study: Path) -> None:
    row = rows(study / "ap.csv")["unet"]
    means = {v: statistics.mean(r["metrics"]["mask"]["AP"] for r in results(study, v)) for v in NOISE}
    assert float(row["mask_AP_diff"]) == pytest.approx(means["unet"] - means["fcn"])
    assert 0 < float(row["mask_AP_diff_low"]) < float(row["mask_AP_diff"]) < float(row["mask_AP_diff_high"])
    runs: dict[str, dict] = {variant: {} for variant in NOISE}
    for path in study.glob("runs/*/result.json"):
        result = json.loads(path.read_text())
        truth = COCO(study / result["ground_truth"])
        found = json.loads((path.parent / "predictions.json").read_text())
        runs[result["variant"]][0, result["seed"]] = match(truth, found, "mask")
    scores = {variant: score_runs(matched, 200) for variant, matched in runs.items()}
    expected = differences(scores, {"fcn": None, "unet": "fcn", "unet_no_skip": "fcn"})["unet"].estimate
    assert float(row["mask_AP_diff_low"]) == pytest.approx(expected.low)
    assert float(row["mask_AP_diff_high"]) == pytest.approx(expected.high)
    assert float(row["mask_AP_diff_p"]) == pytest.approx(expected.p)
    assert rows(study / "ap.csv")["fcn"]["mask_AP_diff"] == ""


def test_people_read_the_same_numbers(study: Path) -> None:
    row = rows(study / "ap.csv")["unet"]
    cell = f"{float(row['mask_AP_mean']):.1f} ± {float(row['mask_AP_std']):.1f}"
    difference = "{:+.1f} [{:+.1f}, {:+.1f}] better".format(
        *(float(row[f"mask_AP_diff{end}"]) for end in ("", "_corrected_low", "_corrected_high"))
    )
    assert row["mask_AP_verdict"] == "better"
    text, markdown, tex = ((study / name).read_text() for name in ("text", "ap.md", "ap.tex"))
    for shown in (text, markdown):
        assert cell in shown
        assert difference in shown
    assert cell.replace("±", r"$\pm$") in tex
    assert difference in tex
    assert r"unet\_no\_skip" in tex
    assert not re.search(r"[±Δ–]", tex.split("\n", 1)[1])
    lines = tex[tex.index(r"\midrule") :].splitlines()
    assert [lines.index(line) for line in lines if "fcn " in line] == [1, 5, 9]
    assert [number for number, line in enumerate(lines) if line == r"\midrule"] == [0, 4, 8]
    assert "1 unfinished" in text
    assert "skipped" not in text
    # made-up runs have no data set
    assert re.findall("note: (.*?) ", text) == ["two", "disagreement:"]
    body = text.split("written to")[0].splitlines()
    assert max(map(len, body)) <= 120


@pytest.mark.parametrize(
    "name",
    ["ap.md", "ap.tex", "speed.md", "speed.tex", "runs.md", "ap.csv", "text", *(f"{n}.md" for n in IN_THREE[2:])],
)
def test_nothing_missing_is_shown_as_a_number(study: Path, name: str) -> None:
    text = (study / name).read_text()
    assert not re.search(r"\bnan\b|\bNone\b|-100|(?<![\d.])-1(?![\d.])", text)


def test_every_file_is_there_and_no_plot_is_blank(study: Path) -> None:
    for name in TABLES:
        assert (study / name).stat().st_size > 100, name
    for name in PLOTS:
        assert (study / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        pixels = np.asarray(Image.open(study / f"{name}.png").convert("RGB")).astype(int)
        height, width = pixels.shape[:2]
        assert 500 < width <= 2400, name
        assert 300 < height <= 2400, name
        assert (pixels.sum(2) < 700).mean() > 0.01, name
        assert len(np.unique(pixels @ [65536, 256, 1])) > 20, name
        # Nothing is cut off: the outermost pixels are the white margin.
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (rim > 240).all(), name
    assert not [path for path in study.rglob("*") if path.name.endswith(".part")]


def test_rebuilding_gives_the_same_bytes(study: Path) -> None:
    files = [study / name for name in TABLES] + [study / f"{name}.{kind}" for name in PLOTS for kind in ("png", "pdf")]
    before = {path: path.read_bytes() for path in files}
    text = build(study, "fcn", resamples=200)
    assert text == (study / "text").read_text()
    assert [path.name for path, data in before.items() if path.read_bytes() != data] == []


def test_runs_table_holds_the_provenance_of_finished_runs_only(study: Path) -> None:
    table = pd.read_csv(study / "runs.csv")
    assert len(table) == 6
    assert 9 not in set(table["seed"])
    assert table.loc[0, "boundary_AP"] == pytest.approx(results(study, "fcn")[0]["metrics"]["boundary"]["AP"])
    assert set(table["commit"]) == {"0123456789abcdef"}
    first = results(study, "fcn")[0]
    row = table[table["hash"] == first["hash"]].iloc[0]
    assert row["mask_AP"] == pytest.approx(first["metrics"]["mask"]["AP"])
    assert (row["device"], row["torch"], row["wall_seconds"]) == ("made-up device", "2.14.1", 15.25)


def test_speed_table_keeps_the_units_of_the_file(study: Path) -> None:
    measured = json.loads((study / "speed.json").read_text())["variants"]["unet"]
    row = rows(study / "speed.csv")["unet"]
    assert float(row["head_ms_median"]) == pytest.approx(measured["head_ms"]["median"])
    assert float(row["head_flops_per_roi"]) == pytest.approx(measured["head_flops_per_roi"])
    assert "rois 100, size 28." in (study / "speed.md").read_text()
    assert f"{measured['head_ms']['median']:.2f} (" in (study / "speed.md").read_text()


def test_the_text_fits_120_columns_with_long_labels(tmp_path: Path) -> None:
    for depth in (1, 2):
        options = {"depth": depth, "a_rather_long_option": f"value-{depth}"}
        make_run(tmp_path, "pretrained_unet_resnet34", 1.0, images=5, options=options)
    labels = read(tmp_path).variants
    write_speed(tmp_path, labels)
    text = build(tmp_path, labels[0], resamples=20).split("written to")[0]
    assert max(map(len, text.splitlines()[1:])) <= 120
    assert all(part in text for part in ("pretrained_unet_", "depth=1", "value-2"))


def test_one_variant_of_one_run_without_anything_else(tmp_path: Path) -> None:
    run = make_run(tmp_path, "unet", 1.0, images=5)
    (run / "metrics.jsonl").unlink()
    for path in (tmp_path / "ground_truth").glob("*.npz"):
        path.unlink()
    text = build(tmp_path, "fcn", resamples=20)
    assert "skipped: speed table" in text
    assert "skipped: learning curves" in text
    assert "skipped: panels" in text
    assert "baseline 'fcn' has no finished run" in text
    row = rows(tmp_path / "ap.csv")["unet"]
    assert (row["mask_AP_std"], row["mask_AP_diff"], row["n"]) == ("", "", "1")
    assert "±" not in (tmp_path / "ap.md").read_text().split("\n\n")[0]
    assert "skipped: forest: no variant has a difference" in text
    assert "skipped: win_tie_loss" in text
    assert "skipped: disagreement" in text
    assert [path.name for path in tmp_path.rglob("*.png")] == ["ap_by_object.png"]
    assert not (tmp_path / "speed.csv").exists()


def test_what_can_no_longer_be_made_is_removed(tmp_path: Path) -> None:
    make_study(tmp_path, {"fcn": 2.0, "unet": 1.0}, seeds=1, images=4)
    build(tmp_path, "fcn", resamples=20)
    assert (tmp_path / "ap_latency.png").exists()
    assert (tmp_path / "disagreement" / "unet.png").exists()
    (tmp_path / "speed.json").unlink()
    for path in (tmp_path / "runs").glob("unet-*"):
        (path / "result.json").unlink()
    text = build(tmp_path, "fcn", resamples=20)
    assert not (tmp_path / "ap_latency.png").exists()
    assert not (tmp_path / "speed.md").exists()
    # without unet there is nothing to compare fcn with
    for stem in ("forest", "win_tie_loss", "disagreement", "disagreement/unet"):
        assert not list(tmp_path.glob(f"{stem}.*")), stem
    assert [path.name for path in (tmp_path / "panels").glob("*.png")] == ["fcn.png"]
    assert "1 finished and 1 unfinished runs" in text


def test_damaged_inputs_other_than_results_cost_only_what_needs_them(tmp_path: Path) -> None:
    make_study(tmp_path, {"fcn": 2.0, "unet": 1.0}, seeds=1, images=4)
    run = next((tmp_path / "runs").glob("unet-*"))
    (run / "predictions.json").write_text("[{")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 310, "lo')
    text = build(tmp_path, "fcn", resamples=20)
    assert f"note: {run / 'predictions.json'}: not a JSON file" in text and "no interval" in text
    # the other variant is shown
    assert [path.name for path in (tmp_path / "panels").glob("*.png")] == ["fcn.png"]
    row = rows(tmp_path / "ap.csv")["unet"]
    assert row["mask_AP_mean"] != ""
    assert row["mask_AP_diff"] == ""
    assert (tmp_path / "learning_curves.png").exists()


def test_damaged_speed_is_a_user_error_and_a_missing_variant_a_note(tmp_path: Path) -> None:
    make_study(tmp_path, {"fcn": 2.0, "unet": 1.0}, seeds=1, images=4, speed=False)
    for text in ("{", "[]", '{"variants": {"fcn": {"head_ms": 3}}}'):
        (tmp_path / "speed.json").write_text(text)
        with pytest.raises(UserError, match="run the benchmark again"):
            build(tmp_path, "fcn", resamples=20)
    write_speed(tmp_path, ["fcn"])
    assert "note: speed.json has no unet" in build(tmp_path, "fcn", resamples=20)
    assert "| unet " in (tmp_path / "speed.md").read_text()

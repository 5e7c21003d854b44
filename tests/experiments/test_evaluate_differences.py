"""``experiments.evaluate`` on several results files: differences with intervals, for files of any origin."""

import json
import math
from pathlib import Path
from typing import Any

import apps
import pytest
import synthetic
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from matched_runs import paired_difference

from experiments.config import apps as app_config
from experiments.config import cli
from experiments.evaluate import compare
from instseg.errors import UserError
from instseg.evaluation import coco
from instseg.evaluation.matches import match
from instseg.statistics.verdict import holm


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Annotations, results that are bad and results that are good."""
    truth, objects, _ = synthetic.make_truth(20, 0)
    contents = {
        "a.json": truth,
        "bad.json": synthetic.make_predictions(objects, 2.5, 0),
        "good.json": synthetic.make_predictions(objects, 1.0, 1),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path / "a.json", tmp_path / "bad.json", tmp_path / "good.json"


def rewrite(path: Path, change: Any) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_the_app_compares_two_files(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    annotations, bad, good = files
    output = tmp_path / "out.json"
    keys = (f"annotations={annotations}", "resamples=300", "seed=5", f"output={output}")
    done = apps.run("evaluate", f"predictions={bad},{good}", *keys)
    assert done.returncode == 0, done.stderr
    written = json.loads(output.read_text())
    assert list(written["scores"]) == [str(bad), str(good)]
    assert (written["images"], written["resamples"], written["seed"]) == (20, 300, 5)
    assert [(row["kind"], row["predictions"]) for row in written["differences"]] == [
        (kind, str(name)) for kind in coco.KINDS for name in (bad, good)
    ]
    truth = coco.load(json.loads(annotations.read_text()))
    for number, kind in enumerate(coco.KINDS):
        first, second = written["differences"][2 * number : 2 * number + 2]
        runs = [{(0, 0): match(truth, json.loads(path.read_text()), kind)} for path in (good, bad)]
        expected = paired_difference(*runs, 300, 5).estimate
        assert second["AP"] == pytest.approx(written["scores"][str(good)][kind]["AP"])
        assert first["AP"] == pytest.approx(written["scores"][str(bad)][kind]["AP"])
        assert second["diff"] == pytest.approx(second["AP"] - first["AP"])
        assert (second["diff_low"], second["diff_high"]) == pytest.approx((expected.low, expected.high))
        assert second["p"] == second["p_holm"] == pytest.approx(expected.p)
        assert first["diff"] is None and "verdict" not in first
        low, high = second["diff_low"], second["diff_high"]
        assert f"{second['diff']:+.2f} [{low:+.2f}, {high:+.2f}]" in done.stdout
    assert "one training of each gives no verdict" in done.stdout
    assert not any(f"] {word}" in done.stdout for word in ("better", "worse", "equivalent", "undecided"))
    assert done.stdout.count("Average") == 72


def test_many_files_are_corrected_for(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    annotations, bad, good = files
    same = tmp_path / "same.json"
    rewrite(bad, lambda found: same.write_text(json.dumps(found)) and found)
    found, text = compare(annotations, [str(bad), str(good), str(same)], 200, 0)
    rows = {row["predictions"]: row for row in found["differences"] if row["kind"] == "mask"}
    assert rows[str(same)]["diff"] == 0 and rows[str(same)]["p"] == 1
    assert rows[str(good)]["p_holm"] == pytest.approx(2 * rows[str(good)]["p"])
    assert rows[str(good)]["diff_corrected_low"] < rows[str(good)]["diff_low"]
    assert holm([rows[str(good)]["p"], 1.0])[0] == 2
    assert "nan" not in text


def test_files_that_lack_images_categories_or_masks(files: tuple[Path, Path, Path]) -> None:
    annotations, bad, good = files
    rewrite(good, lambda found: [r for r in found if r["image_id"] not in (3, 4) and r["category_id"] == 1])
    rewrite(good, lambda found: [{k: v for k, v in r.items() if k != "segmentation"} for r in found])
    found, text = compare(annotations, [str(bad), str(good)], 50, 0)
    assert {row["kind"] for row in found["differences"]} == {"box"}
    images, categories = found["notes"]
    assert images.startswith(f"{good}: no result on ") and " of 20 images with objects (3, 4" in images
    assert categories == f"{good}: no result on 1 of 2 categories with objects (2); they count as not found"
    assert all(f"note: {line}" in text for line in found["notes"])
    # category 2 counts as found by nobody
    row = found["differences"][1]
    assert row["AP"] == pytest.approx(found["scores"][str(good)]["box"]["AP"])
    assert 0 < row["AP"] < 50


def test_results_without_a_single_detection(files: tuple[Path, Path, Path]) -> None:
    annotations, bad, good = files
    good.write_text("[]")
    row = compare(annotations, [str(bad), str(good)], 50, 0)[0]["differences"][1]
    assert row["AP"] == 0 and row["diff"] < 0 and row["p_holm"] < 0.05


def test_one_image_has_no_interval(files: tuple[Path, Path, Path]) -> None:
    annotations, bad, good = files
    rewrite(annotations, lambda a: {**a, "images": a["images"][:1], "annotations": a["annotations"][:2]})
    for path in (bad, good):
        rewrite(path, lambda found: [r for r in found if r["image_id"] == 1])
    found, text = compare(annotations, [str(bad), str(good)], 50, 0)
    row = found["differences"][1]
    assert row["diff"] > 0 and row["diff_low"] is None and row["p"] is None
    assert "nan" not in text and not math.isnan(row["AP"])


def test_nothing_in_common(files: tuple[Path, Path, Path], refused: Any) -> None:
    annotations, bad, good = files
    rewrite(bad, lambda found: [{k: v for k, v in r.items() if k != "bbox"} for r in found])
    rewrite(good, lambda found: [{k: v for k, v in r.items() if k != "segmentation"} for r in found])
    refused(lambda: compare(annotations, [str(bad), str(good)], 50, 0), f"{bad}: mask", f"{good}: box")
    refused(lambda: compare(annotations, [str(bad), "none.json"], 50, 0), "none.json: no such file")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("b.json", ["b.json"]),
        ("/x/b.json,c.json", ["/x/b.json", "c.json"]),
        (r"a\,b.json", ["a,b.json"]),
        (r"a\,b.json,c.json", ["a,b.json", "c.json"]),
        ('["a,b.json",c.json]', ["a,b.json", "c.json"]),
        ('"a,b.json"', ["a,b.json"]),
    ],
)
def test_commas(given: str, names: list[str]) -> None:
    app_config.register()
    GlobalHydra.instance().clear()
    with initialize_config_module("experiments.conf_apps", version_base="1.3"):
        config = compose("evaluate", overrides=["annotations=a", cli.as_list("predictions", f"predictions={given}")])
    assert app_config.to_config(config, app_config.Evaluate).names() == names


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"predictions": []}, ["predictions=[]", "B,C"]),
        ({"predictions": ["b", "c", "b"]}, ["predictions=b,c,b", "b is there twice"]),
        ({"predictions": ["b", ""]}, ["predictions= is empty"]),
        ({"predictions": 7}, ["predictions=7", "name of a results file"]),
        ({"resamples": 1}, ["resamples=1", "2 or more"]),
        ({"seed": -1}, ["seed=-1", "0 or more"]),
    ],
)
def test_wrong_keys_are_named(keys: dict[str, Any], parts: list[str], refused: Any) -> None:
    config = app_config.Evaluate(**{"annotations": "a", "predictions": "b", **keys})
    refused(config.check, *parts, error=UserError)

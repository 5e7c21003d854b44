"""Run folders -> rows: labels, what is ignored, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from synthetic import ap_frame, make_run, make_study

from experiments.runs.study import natural, read
from instseg.errors import UserError


def test_unfinished_runs_and_stray_files_are_ignored_but_counted(tmp_path: Path) -> None:
    make_run(tmp_path, "fcn", 1.0)
    make_run(tmp_path, "fcn", 1.0, seed=1, finished=False)
    (tmp_path / "runs" / "notes.txt").write_text("not a run")
    study = read(tmp_path)
    assert list(study.runs["seed"]) == [0]
    assert len(study.unfinished) == 1


def test_options_are_in_the_label_only_where_they_differ(tmp_path: Path) -> None:
    make_run(tmp_path, "unet", 1.0, options={"depth": 2, "skip": "none"})
    make_run(tmp_path, "unet", 1.0, options={"depth": 10, "skip": "none"})
    make_run(tmp_path, "unet", 1.0, options={"depth": 2, "skip": "none"}, seed=1)
    make_run(tmp_path, "fcn", 1.0, options={"layers": 4})
    study = read(tmp_path)
    assert study.variants == ["fcn", "unet(depth=2)", "unet(depth=10)"]
    assert len(study.counted("unet(depth=2)")) == 2


def test_trunks_and_data_sets_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for trunk in ("small", "resnet50"):
        make_run(tmp_path, "fcn", 1.0, trunk=trunk)
        make_run(tmp_path, "unet", 1.0, trunk=trunk)
    study = read(tmp_path)
    assert study.variants == ["fcn(trunk=resnet50)", "fcn(trunk=small)", "unet(trunk=resnet50)", "unet(trunk=small)"]
    assert study.baseline_of("unet(trunk=small)", "fcn") == "fcn(trunk=small)"
    assert study.baseline_of("unet(trunk=small)", "fcn(trunk=resnet50)") == "fcn(trunk=resnet50)"
    assert study.ordered("unet")[0] == "unet(trunk=resnet50)"


def test_a_baseline_name_that_fits_several_variants_alike_is_none(tmp_path: Path) -> None:
    for depth in (1, 2):
        make_run(tmp_path, "unet", 1.0, options={"depth": depth})
    study = read(tmp_path)
    assert study.baseline_of("unet(depth=1)", "unet") is None
    assert ap_frame(study, "unet", 10)["mask_AP_diff"].isna().all()
    assert any("no single variant" in note for note in study.notes)


def test_of_runs_with_the_same_label_fold_and_seed_the_newest_counts(tmp_path: Path) -> None:
    make_run(tmp_path, "fcn", 1.0, provenance={"finished": "2026-01-02T00:00:00Z"})
    make_run(tmp_path, "fcn", 3.0, provenance={"finished": "2026-01-03T00:00:00Z"})
    study = read(tmp_path)
    assert list(study.counted("fcn")["finished"]) == ["2026-01-03T00:00:00Z"]
    assert len(study.runs) == 2
    assert ap_frame(study, "fcn", 10)["n"].tolist() == [1]
    assert any("only the newest" in note for note in study.notes)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"variant": "fcn"}', '{"variant": "fcn", "head": 3}'])
def test_a_damaged_result_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    make_run(tmp_path, "fcn", 1.0)
    path = make_run(tmp_path, "fcn", 1.0, seed=1) / "result.json"
    path.write_text(text)
    with pytest.raises(UserError, match="delete it to rerun") as caught:
        read(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_study_and_no_finished_run_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study folder"):
        read(tmp_path / "absent")
    with pytest.raises(UserError, match="no finished run"):
        read(tmp_path)
    make_run(tmp_path, "fcn", 1.0, finished=False)
    with pytest.raises(UserError, match="1 unfinished"):
        read(tmp_path)


def test_null_nan_and_minus_one_are_all_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path, "fcn", 1.0)
    result = json.loads((run / "result.json").read_text())
    result["metrics"]["mask"] |= {"APs": None, "APm": -1, "APl": float("nan"), "AP75": 0.0}
    (run / "result.json").write_text(json.dumps(result))
    row = read(tmp_path).runs.iloc[0]
    assert np.isnan([row["mask_APs"], row["mask_APm"], row["mask_APl"]]).all()
    assert row["mask_AP75"] == 0


def test_differences_need_the_same_ground_truth(tmp_path: Path) -> None:
    make_run(tmp_path, "fcn", 2.0, images=6)
    make_run(tmp_path, "unet", 1.0, images=7)
    study = read(tmp_path)
    row = ap_frame(study, "fcn", 10).set_index("variant").loc["unet"]
    assert np.isnan(row["mask_AP_diff"])
    assert row["mask_AP_diff_n"] == 0
    assert any("ground truth" in note for note in study.notes)


def test_predictions_that_contradict_the_result_are_noted(tmp_path: Path) -> None:
    make_study(tmp_path, {"fcn": 2.0, "unet": 1.0}, seeds=1, images=5)
    runs = {path.name.split("-")[0]: path for path in (tmp_path / "runs").iterdir()}
    (runs["unet"] / "predictions.json").write_text((runs["fcn"] / "predictions.json").read_text())
    study = read(tmp_path)
    ap_frame(study, "fcn", 10)
    assert any(runs["unet"].name in note and "its metrics say" in note for note in study.notes)


def test_runs_of_several_commits_are_noted(tmp_path: Path) -> None:
    make_run(tmp_path, "fcn", 1.0)
    assert read(tmp_path).notes == []
    make_run(tmp_path, "fcn", 1.0, seed=1, provenance={"commit": "other"})
    assert any("2 commits" in note for note in read(tmp_path).notes)
    make_run(tmp_path, "fcn", 1.0, seed=2, provenance={"commit": "other", "dirty": True})
    assert "1 of 3 runs come from code with uncommitted changes" in read(tmp_path).notes


def test_natural_order() -> None:
    assert sorted(["u(10)", "u", "u(9)", "fcn"], key=natural) == ["fcn", "u", "u(9)", "u(10)"]


def test_runs_of_other_settings_are_told_apart(tmp_path: Path) -> None:
    slow, fast = ({"schedule.lr": lr, "schedule.batch_size": 4} for lr in (0.001, 0.01))
    make_run(tmp_path, "fcn", 1.0, settings=slow)
    make_run(tmp_path, "fcn", 2.0, settings=fast)
    make_run(tmp_path, "unet", 1.0, settings=fast)
    study = read(tmp_path)
    assert study.variants == ["fcn(schedule.lr=0.001)", "fcn(schedule.lr=0.01)", "unet"]
    assert study.baseline_of("unet", "fcn") == "fcn(schedule.lr=0.01)"
    table = ap_frame(study, "fcn", 20).set_index("variant")
    assert table.loc["unet", "compared_with"] == "fcn(schedule.lr=0.01)"
    assert table.loc["unet", "mask_AP_diff_n"] == 1


def test_no_difference_is_given_where_more_than_the_head_differs(tmp_path: Path) -> None:
    make_run(tmp_path, "fcn", 1.0, settings={"schedule.lr": 0.001, "augmentation.flip": 0.5})
    make_run(tmp_path, "unet", 2.0, settings={"schedule.lr": 0.01, "augmentation.flip": 0.5})
    study = read(tmp_path)
    table = ap_frame(study, "fcn", 20).set_index("variant")
    assert math.isnan(table.loc["unet", "mask_AP_diff"])
    assert any("differ in schedule.lr" in note for note in study.notes)


def test_protocols_of_one_study_are_told_apart_and_compared_each_with_its_own(tmp_path: Path) -> None:
    for protocol, heads in (("end_to_end", ("fcn", "unet")), ("frozen_core", ("fcn", "unet"))):
        for head in heads:
            make_run(tmp_path, head, 1.0 if head == "fcn" else 2.0, protocol=protocol)
    study = read(tmp_path)
    frame = ap_frame(study, "fcn", 20).set_index("variant")
    assert set(frame["compared_with"]) == {"fcn(protocol=end_to_end)", "fcn(protocol=frozen_core)"}
    for label, row in frame.iterrows():
        assert row["compared_with"] == str(label).replace("unet", "fcn")
        assert row["mask_AP_diff_n"] == (not row["is_baseline"])


def test_no_difference_is_given_between_protocols(tmp_path: Path) -> None:
    make_run(tmp_path, "fcn", 1.0)
    make_run(tmp_path, "unet", 2.0, protocol="frozen_core")
    study = read(tmp_path)
    frame = ap_frame(study, "fcn", 20).set_index("variant")
    assert frame.loc["unet", "compared_with"] == "fcn" and math.isnan(frame.loc["unet", "mask_AP_diff"])
    assert any("differ in protocol" in note for note in study.notes)

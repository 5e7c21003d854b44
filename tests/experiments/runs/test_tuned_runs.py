"""``tuning=N`` as a person runs it: trials on images held out of the training images, then the best of them."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import apps
import pytest

TUNED = (*apps.TINY, "dataset.max_train_images=10", "evaluation.speed=false", "tuning=3", "tuning_space.inner_parts=4")
FROZEN = (*TUNED, "protocol=frozen_core", "head=fcn,unet")


def _tuning(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "quick" / "tuning.json").read_text())


def _results(runs: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in runs.glob("*/result.json")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("done")
    swept = apps.run("sweep", *FROZEN, "seed=0,1", f"results_dir={folder}")
    assert swept.returncode == 0, swept.stderr[-3000:]
    return folder, swept.stdout + swept.stderr


def test_every_trial_is_written_and_the_best_is_trained_with_every_seed(done: tuple[Path, str]) -> None:
    folder, out = done
    content, study = _tuning(folder), folder / "quick"
    assert "tuning: 6 trials of 2 heads and folds, 0 of them done" in out
    assert (content["budget"], content["score"], content["choice"]) == (3, "mask_AP", "each_fold")
    assert [(t["variant"], t["fold"], t["trial"]) for t in content["trials"]] == [
        (variant, 0, number) for variant in ("fcn", "unet") for number in range(3)
    ]
    trials = _results(study / "tuning" / "runs")
    assert len(trials) == 6
    for trial in content["trials"]:
        result = trials[Path(trial["run"]).name]
        assert trial["score"] == result["metrics"]["mask"]["AP"]
        assert result["settings"]["dataset.inner_parts"] == 4
        for key, value in trial["settings"].items():
            assert result["head"]["options"][key] == value
    assert not list(study.glob("tuning/runs/*/checkpoint.pt"))
    for chosen in content["chosen"]:
        scores = [t["score"] for t in content["trials"] if t["variant"] == chosen["variant"]]
        assert chosen["score"] == max(scores) and chosen["trial"] == scores.index(max(scores))
        runs = [r for r in _results(study / "runs").values() if r["variant"] == chosen["variant"]]
        assert sorted(run["seed"] for run in runs) == [0, 1]
        for run in runs:
            assert run["head"]["tuned"]["settings"] == chosen["settings"]
            assert run["head"]["options"]["norm"] == chosen["settings"]["norm"]
            assert run["settings"]["tuning"] == 3 and run["settings"]["dataset.inner_parts"] is None
    # labels are the variants' names, whatever was chosen
    assert "\nunet " in out and "norm=" not in out.split("mask AP", 1)[1]


def test_the_validation_images_are_none_of_those_that_runs_are_scored_on(done: tuple[Path, str]) -> None:
    study = done[0] / "quick"
    images = {}
    for place in (study, study / "tuning"):
        (truth,) = place.glob("ground_truth/*.json")
        images[place] = {image["file_name"] for image in json.loads(truth.read_text())["images"]}
    assert len(images[study]) == 3 and len(images[study / "tuning"]) == 3
    assert not images[study] & images[study / "tuning"]


def test_a_larger_budget_has_the_trials_of_the_smaller(done: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(done[0], folder)
    swept = apps.run("sweep", *FROZEN, "tuning=4", "seed=0,1", f"results_dir={folder}")
    assert swept.returncode == 0, swept.stderr[-3000:]
    assert "tuning: 8 trials of 2 heads and folds, 6 of them done" in swept.stderr
    assert "replaced, as what it held was tuned with another budget or space" in swept.stderr
    before, after = _tuning(done[0]), _tuning(folder)
    assert [t for t in after["trials"] if t["trial"] < 3] == before["trials"]


def test_a_trial_s_numbers_do_not_depend_on_the_others_and_kills_change_nothing(
    done: tuple[Path, str], tmp_path: Path
) -> None:
    command = apps.command("sweep", *TUNED, "protocol=frozen_core", "head=unet", f"results_dir={tmp_path}")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trials = tmp_path / "quick" / "tuning" / "runs"
    deadline = time.time() + 200
    while time.time() < deadline and not list(trials.glob("*/checkpoint.pt")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "quick" / "tuning.json").exists()
    swept = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert swept.returncode == 0, swept.stderr[-3000:]
    alone, together = _tuning(tmp_path), _tuning(done[0])
    for key in ("trials", "chosen"):
        assert alone[key] == [row for row in together[key] if row["variant"] == "unet"]
    for trial in alone["trials"]:
        for name in ("metrics.jsonl", "predictions.json"):
            paths = [folder / "quick" / trial["run"] / name for folder in (tmp_path, done[0])]
            assert paths[0].read_bytes() == paths[1].read_bytes()


def test_tuning_end_to_end_counts_a_trial_that_diverged_as_the_worst(tmp_path: Path) -> None:
    # only the trials behind the first have a rate that is too large
    wild = ("tuning_space.lr_mult=[1e18,1e19]", "schedule.clip_norm=null", "schedule.optimizer=sgd", "schedule.lr=0.01")
    arguments = (*TUNED, "head=fcn", *wild, "tuning=2", "schedule.warmup=0", f"results_dir={tmp_path}")
    swept = apps.run("sweep", *arguments)
    assert swept.returncode == 0, swept.stderr[-3000:]
    content = _tuning(tmp_path)
    assert content["trials"][0]["score"] is not None and content["trials"][1]["score"] is None
    assert content["chosen"][0]["trial"] == 0
    (diverged,) = (tmp_path / "quick" / "tuning" / "runs").glob("*/error.txt")
    time_of = diverged.stat().st_mtime_ns
    # a trial that diverged is not tried again
    again = apps.run("sweep", *arguments)
    assert again.returncode == 0 and "2 of them done" in again.stderr
    assert diverged.stat().st_mtime_ns == time_of


def test_one_run_may_be_tuned_and_runs_that_share_no_tuning_are_refused(tmp_path: Path) -> None:
    arguments = (*TUNED, "tuning=1", "head=fcn", f"results_dir={tmp_path}")
    trained = apps.run("train", *arguments)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert _tuning(tmp_path)["chosen"][0]["trial"] == 0
    line = apps.only_error(apps.run("sweep", *arguments, "schedule.lr=0.001,0.002"))
    assert "tuning=1" in line and "fcn" in line


def test_a_damaged_trial_is_named(done: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(done[0], folder)
    trial = folder / "quick" / _tuning(folder)["trials"][1]["run"] / "result.json"
    trial.write_text('{"metrics": {}}')
    swept = apps.run("sweep", *FROZEN, "seed=0,1", f"results_dir={folder}")
    assert swept.returncode == 2 and "Traceback" not in swept.stderr
    line = swept.stderr.strip().splitlines()[-1]
    assert str(trial.parent.name) in line and "damaged" in line and "delete it" in line

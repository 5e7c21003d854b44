"""Sweeps as a person runs them: tables and plots come out, kills and failures are survived."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import apps
import pytest
import torch

from experiments.benchmark import study as speed
from instseg.training import checkpoint


def test_a_sweep_writes_tables_and_plots_and_is_safe_to_repeat(tmp_path: Path) -> None:
    arguments = ("sweep", *apps.TINY, "head=fcn,unet", f"results_dir={tmp_path}")
    done = apps.run(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 runs, 0 of them done" in done.stdout
    study = tmp_path / "quick"
    for name in ("ap", "speed", "gt_boxes", "shared_boxes"):
        for ending in ("csv", "md", "tex"):
            assert (study / f"{name}.{ending}").stat().st_size > 100
    for name in ("learning_curves", "ap_latency", "panels", "panels/fcn", "panels/unet"):
        assert (study / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (study / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    with (study / "speed.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"fcn", "unet"}
    for row in rows.values():
        for key in ("head_ms_median", "images_per_s_median", "train_images_per_s_median", "peak_memory_mib"):
            assert float(row[key]) > 0
        assert float(row["head_parameters"]) < float(row["parameters"])
    results = [json.loads((folder / "result.json").read_text()) for folder in apps.folders(tmp_path)]
    for result, folder in zip(results, apps.folders(tmp_path), strict=True):
        assert folder.name == f"{result['variant']}-generated-f0-s0-{result['hash']}"
        assert torch.__version__.startswith(result["provenance"]["versions"]["torch"])
        assert (study / result["ground_truth"]).exists()

    # the time of a whole sweep is on record, with what it ran on
    (line,) = map(json.loads, (study / "sweeps.jsonl").read_text().splitlines())
    assert (line["carried_out"], line["done_before"], line["failed"]) == (2, 0, 0)
    assert line["seconds"] > sum(result["provenance"]["train_seconds"] for result in results)
    assert line["commit"] == results[0]["provenance"]["commit"] and "threads" in line["device"]

    before = {path: path.stat().st_mtime_ns for path in study.glob("runs/*/*")} | {
        study / name: (study / name).stat().st_mtime_ns for name in ("speed.json", "sweeps.jsonl")
    }
    again = apps.run(*arguments)
    assert again.returncode == 0
    assert "2 runs, 2 of them done" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}

    # from files alone, without the weights
    for path in study.glob("runs/*/checkpoint.pt"):
        path.unlink()
    tables = {name: (study / name).read_bytes() for name in ("ap.csv", "ap.md", "speed.md", "panels.png")}
    for name in tables:
        (study / name).unlink()
    report = apps.run("report", "study=quick", f"results_dir={tmp_path}")
    assert report.returncode == 0, report.stderr
    assert tables == {name: (study / name).read_bytes() for name in tables}


def test_the_rest_of_the_model_starts_the_same_for_every_head(tmp_path: Path) -> None:
    from composition import composed

    from experiments.runs.end_to_end import build_model

    fcn, unet = (build_model(composed(f"head={head}"), 2).state_dict() for head in ("fcn", "unet"))
    shared = fcn.keys() & unet.keys()
    assert len(shared) > 100
    assert all(torch.equal(fcn[key], unet[key]) for key in shared)
    other = build_model(composed("seed=1"), 2).state_dict()
    assert not torch.equal(fcn["backbone.body.stem.0.weight"], other["backbone.body.stem.0.weight"])


def test_a_seed_begins_anew_in_every_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what it does to a head would be the same in all folds, and folds are taken for independent draws of it."""
    from composition import composed

    from experiments.runs import end_to_end

    folds = [composed("dataset=pennfudan", f"dataset.fold={fold}") for fold in (0, 1, 2)]
    models = [end_to_end.build_model(one, 2).state_dict() for one in folds]
    for key in ("backbone.body.stem.0.weight", "roi_heads.mask_head.0.0.weight"):
        first, *others = (model[key] for model in models)
        assert not any(torch.equal(first, other) for other in others) and not torch.equal(*others)
    # batches and the draws of a step, too
    asked: list[int] = []
    monkeypatch.setattr(end_to_end, "train", lambda *arguments, **options: asked.append(options["seed"]))
    monkeypatch.setattr(
        end_to_end.loader, "training_batches", lambda *arguments, **options: asked.append(options["seed"])
    )
    data = type("Data", (), {"image_ids": [], "learnable": lambda self: [0], "num_classes": 2})()
    for one in folds:
        end_to_end.training_batches(one, data, 0, 1, torch.device("cpu"))  # type: ignore[arg-type]
        end_to_end._train(one, None, data, data, Path(), torch.device("cpu"))  # type: ignore[arg-type]
    assert asked[:2] == [0, 0] and asked[::2] == asked[1::2] and len(set(asked)) == 3


def test_a_killed_sweep_resumes_to_the_very_numbers(tmp_path: Path) -> None:
    arguments = ("sweep", *apps.TINY, "schedule.iterations=60", "runtime.evaluate_every=0", "evaluation.speed=false")
    whole = apps.run(*arguments, f"results_dir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr[-3000:]

    broken = tmp_path / "broken"
    process = subprocess.Popen(
        apps.command(*arguments, f"results_dir={broken}", "head=fcn,unet"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # killed in the second run, after a checkpoint and well before the end
    deadline = time.monotonic() + 120
    while not list(broken.glob("quick/runs/unet-*/checkpoint.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (cut,) = broken.glob("quick/runs/unet-*")
    assert not (cut / "result.json").exists()
    (first,) = broken.glob("quick/runs/fcn-*")
    stamp = (first / "result.json").stat().st_mtime_ns

    resumed = apps.run(*arguments, f"results_dir={broken}", "head=fcn,unet")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert f"{first.name}: done" in resumed.stdout
    assert f"{cut.name}: to be resumed" in resumed.stdout
    assert (first / "result.json").stat().st_mtime_ns == stamp
    found = json.loads((cut / "result.json").read_text())
    assert 0 < found["provenance"]["resumed_from"] < 60

    (same,) = (tmp_path / "whole").glob("quick/runs/unet-*")
    for name in ("metrics.jsonl", "predictions.json"):
        assert (cut / name).read_text() == (same / name).read_text()
    assert found["metrics"] == json.loads((same / "result.json").read_text())["metrics"]
    ours, theirs = (checkpoint.load(folder / "checkpoint.pt")["model"] for folder in (cut, same))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_runs_side_by_side_give_the_same_numbers(tmp_path: Path) -> None:
    arguments = (
        "sweep",
        *apps.TINY,
        "evaluation.speed=false",
        "runtime.threads=1",
        "head=fcn,unet",
        "schedule.lr=1e-3,1e30",
    )
    for jobs in (1, 2):
        done = apps.run(*arguments, f"runtime.jobs={jobs}", f"results_dir={tmp_path / str(jobs)}")
        assert done.returncode == 1
        assert done.stderr.count("not finite at iteration") == 2
        assert "2 of 4 runs failed" in done.stderr
        assert "Traceback" not in done.stderr
    one, two = (apps.folders(tmp_path / jobs) for jobs in "12")
    assert [folder.name for folder in one] == [folder.name for folder in two]
    for ours, theirs in zip(one, two, strict=True):
        assert (ours / "metrics.jsonl").read_text() == (theirs / "metrics.jsonl").read_text()
        assert (
            (ours / "result.json").exists() == (theirs / "result.json").exists() == (not (ours / "error.txt").exists())
        )


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for one in map(int, listed) for child in (one, *_children(one))]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc to find a process's children")
def test_a_killed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    process = subprocess.Popen(
        apps.command(
            *("sweep", *apps.TINY, "runtime.jobs=2", "head=fcn,unet,unet_no_skip", "evaluation.speed=false"),
            *("schedule.iterations=80", "runtime.evaluate_every=0", f"results_dir={tmp_path}"),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("quick/runs/*/checkpoint.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    workers = [
        pid for pid in _children(process.pid) if b"popen_loky_posix" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    assert "a process was killed while it ran" in err
    assert "Traceback" not in err
    assert len(list(tmp_path.glob("quick/runs/*/result.json"))) == 3
    assert "3 finished and 0 unfinished" in out


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_sweep_takes_its_processes_with_it(tmp_path: Path, workers: int) -> None:
    process = subprocess.Popen(
        apps.command(
            "sweep",
            *apps.TINY,
            "runtime.jobs=2",
            "head=fcn,unet",
            "schedule.iterations=100000",
            f"runtime.workers={workers}",
            f"results_dir={tmp_path}",
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("quick/runs/*/checkpoint.pt"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for folder in apps.folders(tmp_path):
        with (folder / ".lock").open("w") as lock:
            while True:
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    assert time.monotonic() < deadline, "a run goes on without its sweep"
                    time.sleep(0.05)


def test_a_failing_variant_does_not_stop_the_others(tmp_path: Path) -> None:
    done = apps.run(
        "sweep", *apps.TINY, "evaluation.speed=false", "head=fcn", "schedule.lr=1e30,1e-3", f"results_dir={tmp_path}"
    )
    assert done.returncode == 1
    bad, good = sorted(apps.folders(tmp_path), key=lambda folder: (folder / "result.json").exists())
    assert not (bad / "result.json").exists() and (good / "result.json").exists()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert bad.name in line and "not finite at iteration" in line and "generated train image" in line
    assert "1 of 2 runs failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "quick" / "ap.md").exists()


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("head=fcn,unett",), "did you mean 'unet'"),
        (("head=fcn,unet", "head.options.convs=2"), "head.options.convs"),
        (("study=pennfudan", "data_root=/nowhere"), "/nowhere"),
        (("study=coco_1x", "data_root=null"), "COCO"),
        (("seed=0,0",), "the same"),
    ],
)
def test_wrong_sweeps_stop_before_anything_trains(tmp_path: Path, overrides: tuple[str, ...], part: str) -> None:
    done = apps.run("sweep", *overrides, f"results_dir={tmp_path}")
    assert part in apps.only_error(done)
    assert not list(tmp_path.rglob("runs"))


def test_a_run_is_not_done_twice_at_once(tmp_path: Path) -> None:
    from composition import composed

    folder = composed(*apps.TINY, f"results_dir={tmp_path}").folder()
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        done = apps.run("train", *apps.TINY, f"results_dir={tmp_path}")
    assert "another process" in apps.only_error(done)


def test_a_run_that_needs_too_much_memory_says_so(tmp_path: Path) -> None:
    done = apps.run("train", *apps.TINY, "head=fcn", "head.options.width=1000000", f"results_dir={tmp_path}")
    line = apps.only_error(done)
    assert str(apps.folders(tmp_path)[0]) in line and "out of memory" in line and "tried to allocate" in line


def test_rates_count_the_images_that_were_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("sweep", *apps.TINY, f"results_dir={tmp_path}", "head=fcn", "schedule.iterations=2")
    assert apps.run(*arguments, "evaluation.speed=false").returncode == 0
    # every piece of work takes a second: rates are then the numbers of images, three held out, two a batch
    monkeypatch.setattr(speed.timing, "alternating", lambda work, **_: {key: [1.0] * 3 for key in work})
    before = torch.are_deterministic_algorithms_enabled()
    try:
        found = speed.measure_study(tmp_path / "quick", data_root=None, device="cpu")["variants"]["fcn"]
    finally:
        torch.use_deterministic_algorithms(before)
    assert found["images_per_s"]["median"] == 3
    assert found["train_images_per_s"]["median"] == 2
    assert found["head_ms"]["median"] == 1000

    # what can't be timed is said, and the tables of AP are there all the same
    for path in [tmp_path / "quick" / "speed.json", *tmp_path.glob("quick/ap.*"), *tmp_path.glob("quick/*/*/*.pt")]:
        path.unlink()
    done = apps.run(*arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("not timed: ")
    assert "checkpoint.pt" in done.stderr
    assert (tmp_path / "quick" / "ap.md").exists()

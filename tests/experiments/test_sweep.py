"""Sweeps as a person runs them: tables and plots come out, kills and failures are survived."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import apps
import pytest
import torch
from composition import composed

from experiments.benchmark import study as speed
from experiments.runs import end_to_end
from experiments.runs.end_to_end import build_model
from experiments.runs.folder import ActiveRun
from instseg.errors import DivergedError
from instseg.training import checkpoint
from instseg.training.loop import HeadResult


def test_a_sweep_writes_tables_and_plots_and_is_safe_to_repeat(tmp_path: Path) -> None:
    contrast = "study.contrasts=[{variant:unet,rival:fcn}]"
    arguments = ("sweep", *apps.TINY, "head=fcn,unet", contrast, f"results_dir={tmp_path}")
    done = apps.run(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 runs, 0 of them done" in done.stdout
    study = tmp_path / "quick"
    for name in ("ap", "contrasts", "speed", "gt_boxes", "shared_boxes"):
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


def test_the_rest_of_the_model_starts_the_same_for_every_head() -> None:
    fcn, unet = (build_model(composed(f"head={head}"), 2).state_dict() for head in ("fcn", "unet"))
    shared = fcn.keys() & unet.keys()
    assert len(shared) > 100
    assert all(torch.equal(fcn[key], unet[key]) for key in shared)
    other = build_model(composed("seed=1"), 2).state_dict()
    assert not torch.equal(fcn["backbone.body.stem.0.weight"], other["backbone.body.stem.0.weight"])


def test_a_seed_begins_anew_in_every_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what it does to a head would be the same in all folds, and folds are taken for independent draws of it."""
    folds = [composed("dataset=pennfudan", f"dataset.fold={fold}") for fold in (0, 1, 2)]
    models = [build_model(config, 2).state_dict() for config in folds]
    for key in ("backbone.body.stem.0.weight", "roi_heads.mask_head.0.0.weight"):
        first, *others = (model[key] for model in models)
        assert not any(torch.equal(first, other) for other in others) and not torch.equal(*others)
    # batches and the draws of a step, too
    seeds: list[int] = []
    monkeypatch.setattr(end_to_end.loader, "training_batches", lambda *_, **options: seeds.append(options["seed"]))
    data: Any = type("Data", (), {"image_ids": [], "trainable_indices": lambda self: [0]})()

    def train(*_: Any, **options: Any) -> list[HeadResult]:
        seeds.append(options["seed"])
        return [HeadResult(error=DivergedError())]

    monkeypatch.setattr(end_to_end, "train", train)
    for config in folds:
        end_to_end.training_batches(config, data, 0, 1, torch.device("cpu"))
        active = ActiveRun(config, data, data, code={}, began=0.0)
        end_to_end.train_and_score([active], [build_model(config, 2)], torch.device("cpu"))
    assert seeds[:2] == [0, 0] and seeds[::2] == seeds[1::2] and len(set(seeds)) == 3


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
    result = json.loads((cut / "result.json").read_text())
    assert 0 < result["provenance"]["resumed_from"] < 60

    (same,) = (tmp_path / "whole").glob("quick/runs/unet-*")
    for name in ("metrics.jsonl", "predictions.json"):
        assert (cut / name).read_text() == (same / name).read_text()
    assert result["metrics"] == json.loads((same / "result.json").read_text())["metrics"]
    resumed_weights, weights = (checkpoint.load(folder / "checkpoint.pt")["model"] for folder in (cut, same))
    assert all(torch.equal(resumed_weights[key], weights[key]) for key in weights)


def test_a_failing_variant_stops_no_other_and_runs_side_by_side_give_the_same_numbers(tmp_path: Path) -> None:
    arguments = ("evaluation.speed=false", "runtime.threads=1", "head=fcn,unet", "schedule.lr=1e-3,1e30")
    for jobs in (1, 2):
        results = f"results_dir={tmp_path / str(jobs)}"
        done = apps.run("sweep", *apps.TINY, *arguments, f"runtime.jobs={jobs}", results)
        assert done.returncode == 1
        failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
        assert len(failed) == 2 and "2 of 4 runs failed" in done.stderr and "Traceback" not in done.stderr
        assert all("not finite at iteration" in line and "generated train image" in line for line in failed)
        unfinished = [run.name for run in apps.folders(tmp_path / str(jobs)) if not (run / "result.json").exists()]
        assert sorted(line.split(": ")[1] for line in failed) == unfinished
        assert (tmp_path / str(jobs) / "quick" / "ap.md").exists()
    alone, beside = (apps.folders(tmp_path / jobs) for jobs in "12")
    assert [folder.name for folder in alone] == [folder.name for folder in beside]
    for first, second in zip(alone, beside, strict=True):
        assert (first / "metrics.jsonl").read_text() == (second / "metrics.jsonl").read_text()
        done_or_not = [(folder / "result.json").exists() for folder in (first, second)]
        assert done_or_not in ([True, True], [False, False])
        assert done_or_not == [not (folder / "error.txt").exists() for folder in (first, second)]


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [process for child in map(int, listed) for process in (child, *_children(child))]


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


def test_an_interrupted_sweep_ends_with_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        apps.command("sweep", *apps.TINY, "head=fcn", "schedule.iterations=100000", f"results_dir={tmp_path}"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # shells start background jobs with SIGINT ignored, which children inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("quick/runs/*/checkpoint.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in err and "Traceback" not in err


# every process that finds a file of this name runs it when it starts: it adds a folder to the package of heads
SITE = """import heads
heads.__path__.append({folder!r})
"""
KILLER = """import os, signal
from heads import fcn

class Killer(fcn.FCN):
    def forward(self, rois):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_process_is_killed_twice_is_given_up_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE.format(folder=str(tmp_path)))
    (tmp_path / "killer.py").write_text(KILLER)
    done = apps.run(
        *("sweep", *apps.TINY, "head=fcn", "head.name=fcn,killer", "runtime.jobs=2", "evaluation.speed=false"),
        f"results_dir={tmp_path}/results",
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert done.stderr.count("a process was killed while it ran") == 2
    runs = apps.folders(tmp_path / "results")
    (given_up,) = [run for run in runs if not (run / "result.json").exists()]
    assert len(runs) == 2
    assert "name: killer" in (given_up / "config.yaml").read_text()
    assert f"failed: {given_up.name}: its process was killed twice; is there enough memory?" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("head=fcn,unett",), "did you mean 'unet'"),
        (("head=fcn,unet", "head.options.convs=2"), "head.options.convs"),
        (("study=pennfudan", "data_root=/nowhere"), "/nowhere"),
        (("study=coco_1x", "data_root=null"), "COCO"),
        (("seed=0,0",), "the same"),
        (("schedule.until=plato",), "unknown schedule.until 'plato'"),
        (("schedule.until=plateau", "schedule.decay=step"), "schedule.decay=step can't be: give schedule.decay=cosine"),
        (("seed=range(0,0)",), "seed=range(0,0): a sweep over no values"),
        (("seed=interval(0,1)",), "write seed=a,b,c"),
        (("seed",), "'seed' can't be read: write key=value"),
        (("dataset=pennfudan", f"data_root=/{'x' * 300}"), "File name too long"),
    ],
)
def test_wrong_sweeps_stop_before_anything_trains(tmp_path: Path, overrides: tuple[str, ...], part: str) -> None:
    done = apps.run("sweep", *overrides, f"results_dir={tmp_path}")
    assert part in apps.only_error(done)
    assert not list(tmp_path.rglob("runs"))


@pytest.mark.parametrize("content", [b"", b'{"train": {', b"\xff"])
def test_a_damaged_note_of_the_data_stops_a_sweep(tmp_path: Path, content: bytes) -> None:
    path = composed(*apps.TINY, "head=fcn", f"results_dir={tmp_path}").folder() / "data.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    line = apps.only_error(apps.run("sweep", *apps.TINY, "head=fcn,unet", f"results_dir={tmp_path}"))
    assert f"{path} is damaged" in line and f"delete {path.parent}" in line
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize(
    ("flags", "part"), [("--help", "== Groups"), ("--cfg job schedule.lr=0.5", "lr: 0.5"), ("--info defaults", "head/")]
)
def test_with_a_flag_of_hydra_s_nothing_is_run(tmp_path: Path, flags: str, part: str) -> None:
    done = apps.run("sweep", *flags.split(), f"results_dir={tmp_path}")
    assert done.returncode == 0 and part in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_done_twice_at_once(tmp_path: Path) -> None:
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
        rates = speed.measure_study(tmp_path / "quick", data_root=None, device="cpu")["variants"]["fcn"]
    finally:
        torch.use_deterministic_algorithms(before)
    assert rates["images_per_s"]["median"] == 3
    assert rates["train_images_per_s"]["median"] == 2
    assert rates["head_ms"]["median"] == 1000

    # what can't be timed is said, and the tables of AP are there all the same
    for path in [tmp_path / "quick" / "speed.json", *tmp_path.glob("quick/ap.*"), *tmp_path.glob("quick/*/*/*.pt")]:
        path.unlink()
    done = apps.run(*arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("not timed: ")
    assert "checkpoint.pt" in done.stderr
    assert (tmp_path / "quick" / "ap.md").exists()

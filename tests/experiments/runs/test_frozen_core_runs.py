"""``protocol=frozen_core`` as a person runs it: one core, all heads of a group at once."""

import json
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import apps
import pytest
import torch
from composition import composed

from experiments.config import checks
from experiments.config.run import Config
from experiments.runs import frozen_core
from experiments.runs.folder import is_done
from instseg import progress
from instseg.errors import UserError
from instseg.training import checkpoint
from instseg.training import frozen_core as training

FROZEN = (*apps.TINY, "protocol=frozen_core", "evaluation.speed=false")


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Any:
    yield
    torch.use_deterministic_algorithms(False)


def _configs(folder: Path, *overrides: str, heads: tuple[str, ...] = ("fcn", "unet")) -> list[Config]:
    return [composed(*FROZEN, f"results_dir={folder}", f"head={head}", *overrides) for head in heads]


def _result(config: Config) -> dict[str, Any]:
    return json.loads((config.folder() / "result.json").read_text())


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint.pt")["model"]


def _same(first: Config, second: Config) -> bool:
    a, b = _weights(first.folder()), _weights(second.folder())
    names = ("metrics.jsonl", "predictions.json", "true_boxes.json")
    return (
        all(torch.equal(a[key], b[key]) for key in a | b)
        and all((first.folder() / name).read_text() == (second.folder() / name).read_text() for name in names)
        and _result(first)["metrics"] == _result(second)["metrics"]
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep of three heads on one core."""
    folder = tmp_path_factory.mktemp("done")
    swept = apps.run("sweep", *FROZEN, "head=fcn,unet,pointrend", f"results_dir={folder}", "evaluation.speed=true")
    assert swept.returncode == 0, swept.stderr[-3000:]
    return folder, swept.stdout


def test_a_sweep_trains_one_core_and_names_the_protocol(done: tuple[Path, str]) -> None:
    folder, out = done
    (core,) = (folder / "quick" / "cores" / "runs").iterdir()
    digest = core.name.rsplit("-", 1)[1]
    assert f"at once on core f0 s0, {digest}, trained first: fcn, unet, pointrend" in out
    assert "protocol frozen_core" in out
    assert len(apps.folders(folder)) == 3
    boxes = set()
    frozen_weights = _weights(core)
    for run in apps.folders(folder):
        result = json.loads((run / "result.json").read_text())
        assert result["protocol"] == "frozen_core" and result["hash"] in run.name
        assert result["trained"] == {"iterations": 6, "tail_start": None, "limit_reached": None}
        assert result["provenance"]["core"] == f"cores/runs/{core.name}"
        boxes.add(json.dumps(result["metrics"]["box"]))
        weights = _weights(run)
        core_names = [key for key in frozen_weights if not key.startswith("roi_heads.mask_")]
        assert len(core_names) > 50 and all(torch.equal(weights[key], frozen_weights[key]) for key in core_names)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        assert [line["iteration"] for line in lines if "eval" in line] == [3, 6]
    assert len(boxes) == 1
    assert json.loads((core / "result.json").read_text())["protocol"] == "end_to_end"
    assert set(json.loads((folder / "quick" / "speed.json").read_text())["variants"]) == {"fcn", "unet", "pointrend"}


def test_a_head_alone_gives_the_same_numbers_on_a_core_of_its_own(done: tuple[Path, str], tmp_path: Path) -> None:
    among = _configs(done[0], heads=("unet",))[0]
    alone = _configs(tmp_path, heads=("unet",))[0]
    assert frozen_core.run_alone(alone) == alone.folder()
    assert _same(alone, among)


def test_heads_and_their_core_are_trained_until_their_losses_no_longer_fall(tmp_path: Path) -> None:
    # any loss is on a plateau at the first look, behind two windows of two iterations
    options = ("schedule.until=plateau", "schedule.warmup=0", "schedule.plateau_window=2", "schedule.plateau_check=1")
    most, least = (
        _configs(tmp_path, *options, f"schedule.plateau_tolerance={tolerance}", heads=("unet",))[0]
        for tolerance in (0.99, 0.98)
    )
    frozen_core.run_alone(most)
    for folder in (most.folder(), most.core_run().folder()):
        result = json.loads((folder / "result.json").read_text())
        assert result["iterations"] == 6
        assert result["trained"] == {"iterations": 5, "tail_start": 4, "limit_reached": False}
        assert result["settings"]["schedule.until"] == "plateau" and "schedule.iterations" not in result["settings"]
        assert [json.loads(line)["iteration"] for line in (folder / "metrics.jsonl").open()][-1] == 5
    assert most.hash() != least.hash()


def test_a_finished_head_is_skipped_and_a_new_one_uses_the_core(done: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(done[0] / "quick", tmp_path / "quick")
    new, old = _configs(tmp_path, heads=("unet_no_skip", "unet"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock" and path.is_file()}
    assert frozen_core.run_group([new, old]) == {}
    assert _result(new)["variant"] == "unet_no_skip"
    kept = {path: path.stat().st_mtime_ns for path in before}
    assert kept == before
    # a result without weights can't be a core
    for path in (tmp_path / "quick" / "cores").rglob("checkpoint.pt"):
        path.unlink()
    with pytest.raises(UserError, match="has lost its checkpoint"):
        frozen_core.run_group(_configs(tmp_path, heads=("hourglass",)))


def test_the_study_s_own_fcn_serves_as_core(done: tuple[Path, str], tmp_path: Path) -> None:
    unet = _configs(tmp_path, heads=("unet",))[0]
    own = replace(unet.core_run(), study=unet.study, results_dir=unet.results_dir).folder()
    (core,) = (done[0] / "quick" / "cores" / "runs").iterdir()
    assert core.name == own.name
    shutil.copytree(core, own)
    # as a sweep with protocol=end_to_end would name it
    assert composed(*apps.TINY, "head=fcn", f"results_dir={tmp_path}").folder() == own
    assert frozen_core.run_group([unet]) == {}
    assert not (tmp_path / "quick" / "cores").exists()
    assert _result(unet)["provenance"]["core"] == f"runs/{own.name}"
    assert _same(unet, _configs(done[0], heads=("unet",))[0])


def _too_much(where: str) -> None:
    """A GPU's error, which no CPU gives, or the one that a CPU does give."""
    if where == "cuda":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    torch.empty(10**15)


@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_heads_that_need_too_much_memory_go_in_two_passes(
    where: str, done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done[0] / "quick" / "cores", tmp_path / "quick" / "cores")
    configs = _configs(tmp_path, heads=("fcn", "pointrend", "unet"))
    step, starts, said = training.step, [], []

    def full(models: Any, *arguments: Any, **options: Any) -> Any:
        starts.append((len(models), options["iteration"]))
        # two heads fit, and a third one only for a while
        if len(models) > 2 and options["iteration"] == 3:
            _too_much(where)
        return step(models, *arguments, **options)

    monkeypatch.setattr(training, "step", full)
    monkeypatch.setattr(progress, "say", said.append)
    assert frozen_core.run_group(configs) == {}
    # from the checkpoint behind the second iteration
    assert starts == [(3, i) for i in range(4)] + [(2, i) for i in range(2, 6)] + [(1, i) for i in range(2, 6)]
    assert said == ["3 heads at once need too much memory; they go on in two passes: fcn, pointrend | unet"]
    for config, whole in zip(configs, _configs(done[0], heads=("fcn", "pointrend", "unet")), strict=True):
        assert _same(config, whole)


@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_a_head_that_does_not_fit_alone_leaves_the_others(
    where: str, done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done[0] / "quick" / "cores", tmp_path / "quick" / "cores")
    large, small = _configs(tmp_path, heads=("unet", "fcn"))
    step = training.step

    def full(models: Any, *arguments: Any, **options: Any) -> Any:
        if any(type(model.mask_head).__name__ == "UNet" for model in models):
            _too_much(where)
        return step(models, *arguments, **options)

    monkeypatch.setattr(training, "step", full)
    errors = frozen_core.run_group([large, small])
    assert list(errors) == [large.hash()]
    assert isinstance(errors[large.hash()], UserError)
    message = str(errors[large.hash()])
    assert "alone" in message and "allocate" in message and "\n" not in message
    assert is_done(small) and not is_done(large)


def test_groups_are_of_one_core_whatever_the_head() -> None:
    def config(*overrides: str) -> Config:
        return composed("protocol=frozen_core", *overrides)

    a, b = config("head=fcn"), config("head=unet")
    c, d = config("head=fcn", "seed=1"), config("head=fcn", "schedule.lr=1e-4")
    e = config("head=fcn", "dataset.fold=1")
    assert frozen_core.groups([a, c, b, d, e, composed()]) == [[a, b], [c], [d], [e]]
    # the normalisation of heads may be the core's too
    assert a.core_run().hash() != config("head_norm=none").core_run().hash()
    assert config("head=smp").hash() != config("head=smp", "head_norm=none").hash()
    assert a.hash() != composed("head=fcn").hash() == a.core_run().hash()
    norms = [config("study=ablation_norm", "head=unet", f"head.options.norm={norm}") for norm in ("none", "batch")]
    assert len(frozen_core.groups(norms)) == 1


@pytest.mark.parametrize("dataset", ["generated", "pennfudan", "coco"])
@pytest.mark.parametrize("study", ["heads", "pennfudan"])
def test_studies_of_heads_take_the_protocol_on_every_data_set(study: str, dataset: str) -> None:
    config = composed(f"study={study}", f"dataset={dataset}", "protocol=frozen_core")
    checks.check(config)
    core = config.core_run()
    checks.check(core)
    assert core.head.name == "fcn" and core.folder().is_relative_to(f"results/{study}/cores/runs")
    assert (core.dataset, core.trunk, core.schedule) == (config.dataset, config.trunk, config.schedule)


@pytest.mark.slow
def test_a_killed_sweep_resumes_to_the_very_numbers(tmp_path: Path) -> None:
    long = ("schedule.iterations=30", "runtime.evaluate_every=0", "head=fcn,unet")
    process = subprocess.Popen(
        apps.command("sweep", *FROZEN, *long, f"results_dir={tmp_path}"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("quick/runs/unet-*/checkpoint.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("quick/runs/*/result.json"))
    resumed = apps.run("sweep", *FROZEN, *long, f"results_dir={tmp_path}", "runtime.jobs=2", "seed=0,1")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "to be resumed" in resumed.stdout and "4 finished and 0 unfinished" in resumed.stdout
    cut = _configs(tmp_path, *long[:2], heads=("unet",))[0]
    assert 0 < _result(cut)["provenance"]["resumed_from"] < 30
    whole = _configs(tmp_path / "whole", *long[:2], heads=("unet",))[0]
    shutil.copytree(tmp_path / "quick" / "cores", tmp_path / "whole" / "quick" / "cores")
    frozen_core.run_alone(whole)
    assert _same(cut, whole)


def test_a_head_that_diverges_is_reported_and_the_others_go_on(done: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(done[0] / "quick" / "cores", tmp_path / "quick" / "cores")
    swept = apps.run(
        *("sweep", *FROZEN, "head=fcn", "head.dice_weight=0,1e38", "schedule.clip_norm=null"),
        f"results_dir={tmp_path}",
    )
    assert swept.returncode == 1
    bad, good = sorted(apps.folders(tmp_path), key=lambda folder: (folder / "result.json").exists())
    assert not (bad / "result.json").exists() and (good / "result.json").exists()
    assert "not finite at iteration" in (bad / "error.txt").read_text()
    (line,) = [line for line in swept.stderr.splitlines() if line.startswith("failed: ")]
    assert bad.name in line and "1 of 2 runs failed" in swept.stderr and "Traceback" not in swept.stderr

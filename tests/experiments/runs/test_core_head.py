"""A frozen core may be trained with another mask head, or with none."""

import json
from pathlib import Path

import apps
import pandas as pd
import pytest
from composition import composed

from experiments.report.curves import read_log

ARGUMENTS = (*apps.TINY, "protocol=frozen_core", "evaluation.speed=false", "runtime.evaluate_every=0")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    swept = apps.run("sweep", *ARGUMENTS, "core_head=none,fcn,unet", "head=fcn,unet", f"results_dir={folder}")
    assert swept.returncode == 0, swept.stderr[-3000:]
    return folder / "quick"


def test_each_core_is_trained_with_its_head(done: Path) -> None:
    cores = {}
    for folder in (done / "cores" / "runs").iterdir():
        head = json.loads((folder / "result.json").read_text())["head"]
        log = read_log(folder / "metrics.jsonl")
        assert (log["loss_classifier"] > 0).all()
        cores[head["name"], bool((log["loss_mask"] == 0).all())] = folder.name
    # by its box losses alone: the mask loss counts nothing
    assert set(cores) == {("fcn", True), ("fcn", False), ("unet", False)}


def test_heads_are_compared_on_the_same_core(done: Path) -> None:
    table = pd.read_csv(done / "ap.csv").set_index("variant")
    assert set(table.index) == {
        f"{head}(core_head={core})" for head in ("fcn", "unet") for core in ("fcn", "none", "unet")
    }
    for core in ("fcn", "none", "unet"):
        assert table.loc[f"unet(core_head={core})", "compared_with"] == f"fcn(core_head={core})"


def test_the_fcn_s_core_is_that_of_a_run_that_does_not_say() -> None:
    runs = [composed("protocol=frozen_core", f"core_head={name}") for name in ("fcn", "none", "unet")]
    assert runs[0].hash() == composed("protocol=frozen_core").hash()
    assert len({run.hash() for run in runs}) == len({run.core_run().hash() for run in runs}) == 3

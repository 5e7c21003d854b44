"""Runs of both protocols on augmented images, some of which lose all of their instances."""

import json
from collections.abc import Iterator
from pathlib import Path

import apps
import pytest
import torch
from composition import composed

from experiments.config import checks
from experiments.runs.end_to_end import training_batches
from experiments.runs.frozen_core import run_alone


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def test_a_core_and_a_head_learn_from_augmented_images(tmp_path: Path) -> None:
    strong = ("augmentation=strong", "augmentation.jpeg=0.5", "augmentation.min_area=500")
    config = composed(*apps.TINY, *strong, "protocol=frozen_core", "head=unet", f"results_dir={tmp_path}")
    checks.check(config)
    counts = [
        [len(target["labels"]) for target in targets]
        for _, targets in training_batches(config, config.make_dataset("train"), 0, 6, torch.device("cpu"))
    ]
    assert any(map(sum, counts)) and any(0 in batch for batch in counts)
    folder = run_alone(config)
    for run in (folder, config.core_run().folder()):
        assert len((run / "metrics.jsonl").read_text().splitlines()) >= 6
        settings = json.loads((run / "result.json").read_text())["settings"]
        assert settings["augmentation.copy_paste"] == 0.5 and settings["augmentation.crop"] == 160

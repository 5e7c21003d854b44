"""The benchmark of intervals, small; a wrong matching is never timed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from composition import benchmark_options as options

from experiments.benchmark import outcome, setup
from experiments.benchmark.cases import intervals
from instseg.evaluation.matches import match
from instseg.statistics.resampling import average_precision

KEYS = ("what=intervals", "image=[64,80]", "images=4", "instances=3", "rounds=2", "device=cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"IMAGES": 30, "DETECTIONS": 10, "CATEGORIES": 3, "OBJECTS": 200, "RESAMPLES": 20}.items():
        monkeypatch.setattr(intervals, name, value)


def test_rows_and_files(tmp_path: Path) -> None:
    prepared = setup.make(options(*KEYS, f"out={tmp_path}"))
    text = outcome.write(intervals.measure(prepared), prepared.options, prepared.config, prepared.device)
    table = pd.read_csv(tmp_path / "intervals-quick.csv").set_index("name")
    names = [f"matching, {kind}: {suite}" for kind in ("box", "mask") for suite in ("ours", "pycocotools")]
    names.append("matching, boundary: ours")
    assert list(table.index) == [*names, "resampling two variants"]
    assert (table["seconds_median"] > 0).all()
    assert table.loc[names[1], "compared_with"] == names[0]
    record = json.loads((tmp_path / "intervals-quick.json").read_text())
    assert record["what"]["resampled_images"] == 30 and record["what"]["peak_process_mib"] > 50
    assert "on 30 such images takes" in text


def test_artificial_detectors_are_neither_perfect_nor_useless() -> None:
    matches = intervals.random_matches(np.random.default_rng(0))
    assert 5 < average_precision(matches)[0] < 95
    assert sum(len(category.image) for category in matches.categories) == 300


def test_a_wrong_matching_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(truth: Any, results: list[dict[str, Any]], kind: Any) -> Any:
        return match(truth, results[::2], kind)

    monkeypatch.setattr(intervals, "match", wrong)
    with pytest.raises(AssertionError, match="differ"):
        intervals.measure(setup.make(options(*KEYS)))

"""Several variants against one baseline: Holm's correction, and marks where a difference is real."""

import math
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_study

from experiments import tables
from experiments.aggregate import KINDS, read
from experiments.compare import compare

NOISE = {"fcn": 2.0, "far": 0.7, "near": 1.9, "same": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("results") / "many", NOISE, seeds=3, images=15, speed=False)


def test_the_differences_of_a_kind_are_corrected_together(folder: Path) -> None:
    frame = compare(read(folder), "fcn", 100).set_index("variant")
    for kind in KINDS:
        p = frame[f"{kind}_AP_diff_p"].drop("fcn").sort_values()
        corrected = np.minimum(1, np.maximum.accumulate(p.to_numpy() * [3, 2, 1]))
        assert frame.loc[p.index, f"{kind}_AP_diff_p_holm"].to_numpy() == pytest.approx(corrected)
        assert frame.loc["far", f"{kind}_AP_real"] is True
        # the predictions of two heads of equal noise are the same
        assert frame.loc["same", f"{kind}_AP_diff"] == 0 and frame.loc["same", f"{kind}_AP_real"] is False
        assert frame.loc["fcn", f"{kind}_AP_real"] is None and math.isnan(frame.loc["fcn", f"{kind}_AP_diff_p"])
        for variant in p.index:
            row = frame.loc[variant]
            low, high = row[f"{kind}_AP_diff_holm_low"], row[f"{kind}_AP_diff_holm_high"]
            assert row[f"{kind}_AP_real"] == (row[f"{kind}_AP_diff_p_holm"] < 0.05) == (low > 0 or high < 0)
            assert low <= row[f"{kind}_AP_diff_low"] <= row[f"{kind}_AP_diff_high"] <= high
        far = frame.loc["far"]
        assert far[f"{kind}_AP_diff_holm_low"] < far[f"{kind}_AP_diff_low"]


def test_tables_mark_what_is_real_and_say_so(folder: Path) -> None:
    frame = compare(read(folder), "fcn", 100)
    tables.write_ap(folder, frame, "fcn", 100)
    for name, dash in (("ap.md", "–"), ("ap.tex", "--")):
        text = (folder / name).read_text()
        rows = {variant: [line for line in text.splitlines() if f"{variant} " in line] for variant in NOISE}
        assert all("] *" in line for line in rows["far"]) and len(rows["far"]) == len(KINDS)
        assert all("] *" not in line and "+0.0 [+0.0, +0.0]" in line for line in rows["same"])
        assert all(f" {dash} " in line for line in rows["fcn"][-len(KINDS) :])
        assert "Holm" in text and "*: " in text
    assert tables.terminal(frame, None).count("] *") == int(sum((frame[f"{k}_AP_real"] == True).sum() for k in KINDS))  # noqa: E712


def test_own_intervals_stay_within_0_and_100(tmp_path: Path) -> None:
    frame = compare(read(make_study(tmp_path / "x", {"fcn": 0.05, "bad": 9.0}, seeds=2, images=4)), "fcn", 50)
    low, high = frame["mask_AP_low"].min(), frame["mask_AP_high"].max()
    assert low >= 0 and high <= 100

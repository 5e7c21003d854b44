"""How often equal heads are called different after tuning: the table in docs/tuning.md is what the simulation gives."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from null_studies import NullStudy, false_alarms

PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"
ROW = re.compile(
    r"^\| (\d) × (\d) \| (untuned|each fold|first fold) \| (–|[\d.]+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|$",
    re.MULTILINE,
)
STUDIES = 1000
Row = tuple[str, ...]
ROWS: list[Row] = ROW.findall(PAGE.read_text())


def study_of(row: Row) -> NullStudy:
    folds, seeds, choice, noise = row[:4]
    validation = 1.0 if noise == "–" else float(noise)
    chosen = None if choice == "untuned" else choice
    return NullStudy(folds=int(folds), seeds=int(seeds), choice=chosen, validation=validation)


def shown(row: Row) -> np.ndarray:
    """The three rates, as shares."""
    return np.array([float(rate) / 100 for rate in row[4:]])


def name(row: Row) -> str:
    return "-".join(row[:4])


def test_the_table_has_every_cell() -> None:
    assert len({row[:4] for row in ROWS}) == len(ROWS) == 14
    assert {row[2] for row in ROWS} == {"untuned", "each fold", "first fold"}
    assert f"{STUDIES:,} studies a cell" in PAGE.read_text()


@pytest.mark.parametrize("row", [ROWS[i] for i in (0, 2, 6, 12)], ids=name)
def test_few_studies_agree_with_the_table(row: Row) -> None:
    studies = 80
    *_, any_mark = false_alarms(study_of(row), studies)
    expected = shown(row)[-1]
    assert abs(any_mark - expected) <= 3.5 * math.sqrt(expected * (1 - expected) / studies)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_the_table_is_what_the_simulation_gives(row: Row) -> None:
    # the same random numbers: only the rounding of another machine may turn a verdict
    assert np.abs(np.array(false_alarms(study_of(row), STUDIES)) - shown(row)).max() <= 0.003


def test_a_choice_in_each_fold_keeps_the_promise_and_one_for_all_does_not() -> None:
    for row in ROWS:
        folds, _, choice, *_ = row
        kept = shown(row)[-1] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)
        assert kept == (choice == "untuned" or (choice == "each fold" and folds == "5")), row


def test_tuned_heads_have_the_settings_that_won_in_their_fold() -> None:
    random = np.random.default_rng(0)
    exact = NullStudy(validation=0.0).levels(random)
    # without noise all heads choose the best trial
    assert exact.shape == (9, 5) and np.ptp(exact) == 0
    assert np.ptp(NullStudy(choice=None).levels(random)) == 0
    noisy = NullStudy(validation=2.0).levels(random)
    assert np.ptp(noisy, axis=1).max() > 0
    first = NullStudy(validation=2.0, choice="first fold").levels(random)
    assert np.ptp(first, axis=1).max() == 0 and np.ptp(first[:, 0]) > 0

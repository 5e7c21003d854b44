"""Every number in the findings is in the committed tables of the studies that its section names."""

import re
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent / "results"
SECTIONS = re.split(r"^## ", (ROOT / "findings.md").read_text().replace("−", "-"), flags=re.MULTILINE)[1:]
DIFFERENCE = re.compile(r"([+-]?\d+\.\d) \[([+-]?\d+\.\d), ([+-]?\d+\.\d)\]")
VERDICT = re.compile(DIFFERENCE.pattern + r"\s(better|worse|equivalent|undecided)")


def _studies(section: str) -> list[Path]:
    names = dict.fromkeys(re.findall(r"\(reference/(\w+)/", section))
    return [ROOT / "reference" / name for name in names]


@cache
def _tables(study: Path) -> list[pd.DataFrame]:
    tables = []
    for path in study.glob("*.csv"):
        table = pd.read_csv(path)
        if path.name == "gt_boxes.csv":
            # IoU of objects is told in percent, as AP is
            table = table.rename(columns=lambda name: name.removesuffix("_percent"))
        tables.append(table)
    return tables


def _rounded(value: float) -> str:
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text


def _intervals(study: Path) -> set[tuple[str, str, str]]:
    """Every number that has an interval, its own or a corrected one."""
    known = set()
    for table in _tables(study):
        for column in table.columns:
            if not column.endswith("_low"):
                continue
            stem = column.removesuffix("_low")
            value = stem if stem in table else stem.removesuffix("_corrected")
            if value in table and f"{stem}_high" in table:
                rows = table[[value, column, f"{stem}_high"]].dropna().to_numpy()
                known |= {(_rounded(v), _rounded(low), _rounded(high)) for v, low, high in rows}
    return known


def _verdicts(study: Path) -> set[tuple[str, ...]]:
    """Every corrected interval with its verdict."""
    known = set()
    for table in _tables(study):
        for column in table.columns:
            if column.endswith("verdict"):
                stem = column.removesuffix("verdict") + "diff"
                rows = table[[stem, f"{stem}_corrected_low", f"{stem}_corrected_high", column]].dropna().to_numpy()
                known |= {(*map(_rounded, row[:3]), row[3]) for row in rows}
    return known


def _numbers(study: Path) -> set[str]:
    """All numbers of the tables, without their signs."""
    columns = [table.select_dtypes("number") for table in _tables(study)]
    return {_rounded(abs(value)) for table in columns for value in table.to_numpy().ravel() if pd.notna(value)}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0][:40])
def test_every_number_is_in_a_table_of_the_studies_named(section: str) -> None:
    studies = _studies(section)
    differences = {tuple(text.removeprefix("+") for text in match) for match in DIFFERENCE.findall(section)}
    decimals = set(re.findall(r"(?<![\d.])\d+\.\d(?![\d.])", section))
    if decimals:
        assert studies, "numbers, and no study is named"
    known = set().union(*map(_intervals, studies))
    assert differences <= known, differences - known
    verdicts = {tuple(text.removeprefix("+") for text in match) for match in VERDICT.findall(section)}
    known_verdicts = set().union(*map(_verdicts, studies))
    assert verdicts <= known_verdicts, verdicts - known_verdicts
    numbers = set().union(*map(_numbers, studies))
    assert decimals <= numbers, decimals - numbers

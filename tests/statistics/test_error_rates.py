"""The tables of error rates in the documentation are what ``experiments.error_rates`` gives."""

import math
import re
from pathlib import Path

import pytest

from experiments import error_rates

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"spreads": "statistics.md", "verdicts": "statistics.md", "tuning": "tuning.md"}
FEW = 60


def documented(table: str) -> dict[tuple[str, ...], list[float | None]]:
    """The rows of a table, by the cells that name them: shares, None for "–"."""
    names, _ = next(iter(error_rates.TABLES[table]()))
    text = (DOCS / PAGES[table]).read_text().split(f"table={table}")[1].split("```\n\n")[1]
    rows = {}
    for line in re.findall(r"^\| (.*) \|$", text.split("\n\n")[0], re.MULTILINE)[1:]:
        cells = [cell.strip() for cell in line.split("|")]
        shares = [None if cell == "–" else float(cell.removesuffix(" %")) / 100 for cell in cells[len(names) :]]
        rows[tuple(cells[: len(names)])] = shares
    return rows


def counted(table: str, studies: int) -> dict[tuple[str, ...], list[float | None]]:
    return {
        tuple(names.values()): [None if share is None else float(share) for share in count(studies).values()]
        for names, count in error_rates.TABLES[table]()
    }


def studies_of(table: str) -> int:
    """As many studies a row as the page says."""
    before = " ".join((DOCS / PAGES[table]).read_text().split(f"table={table}")[0].split())
    return int(re.findall(r"([\d,]+) studies a row", before)[-1].replace(",", ""))


@pytest.mark.parametrize("table", PAGES)
def test_the_pages_have_every_row(table: str) -> None:
    assert list(documented(table)) == [tuple(names.values()) for names, _ in error_rates.TABLES[table]()]


@pytest.mark.parametrize(
    ("table", "row"), [("spreads", 11), ("verdicts", 0), ("verdicts", 3), ("tuning", 0), ("tuning", 12)]
)
def test_few_studies_agree_with_the_page(table: str, row: int) -> None:
    names, count = list(error_rates.TABLES[table]())[row]
    shares = documented(table)[tuple(names.values())]
    for share, (column, few) in zip(shares, count(FEW).items(), strict=True):
        if share is not None:
            # heads of a study go together, so that its studies are the independent draws
            assert abs(share - few) <= 4 * math.sqrt(max(share * (1 - share), 0.01) / FEW), column


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("table", PAGES)
def test_the_page_is_what_the_command_gives(table: str) -> None:
    pages, again = documented(table), counted(table, studies_of(table))
    for names, shares in pages.items():
        # the same random numbers: only the rounding of another machine may turn a verdict
        for share, other in zip(shares, again[names], strict=True):
            assert (share is None) == (other is None)
            assert share is None or other is None or abs(share - other) <= 0.003, names


def test_the_rules_other_than_the_suite_s_break_the_promise() -> None:
    for names, (_, own, _, _, moderated, _, _, pooled, _) in documented("spreads").items():
        assert own is not None and own <= 0.06, names
        if names[1] == "one head, 400 times":
            assert pooled is not None and pooled > 0.1, names
        if names == ("1 × 2", "one head, 400 times"):
            assert moderated is not None and moderated > 0.1

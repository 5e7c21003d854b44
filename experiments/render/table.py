"""Tables and their numbers: as CSV for machines, as Markdown, LaTeX and plain text for people.

In CSV files a missing value is an empty field and every number has its own column; elsewhere it is "–".
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from instseg.files import write_atomically
from instseg.statistics.verdict import Comparison

MISSING = "–"
WIDTH = 120
"""Characters of a line in the terminal."""


@dataclass
class Table:
    """A table in its two forms, ``numbers`` for machines and the same as ``text`` for people, with a line below it.

    Attributes:
        rule_every: number of rows between two rules in LaTeX.
    """

    numbers: pd.DataFrame
    text: pd.DataFrame
    note: str = ""
    rule_every: int | None = None

    def write(self, stem: Path, *endings: str) -> list[Path]:
        """Write the files of these endings, of ``csv``, ``md`` and ``tex``."""
        content: dict[str, Callable[[], str]] = {
            "csv": lambda: self.numbers.to_csv(index=False, na_rep="", lineterminator="\n"),
            "md": self.markdown,
            "tex": self.latex,
        }
        return [write_atomically(stem.with_name(f"{stem.name}.{ending}"), content[ending]()) for ending in endings]

    def markdown(self) -> str:
        """The text as Markdown, with the note below."""
        safe = self.text.map(lambda value: str(value).replace("|", r"\|"))
        align = ["left" if _is_words(self.text[name]) else "right" for name in self.text.columns]
        table = safe.to_markdown(index=False, disable_numparse=True, colalign=align)
        return f"{table}\n" + (f"\n{self.note}\n" if self.note else "")

    def latex(self) -> str:
        """The text, in which LaTeX's own characters are escaped, as a plain ``tabular`` with booktabs rules
        (``\\usepackage{booktabs}``), the note as a comment above it."""
        columns = "".join("l" if _is_words(self.text[name]) else "r" for name in self.text.columns)
        body = self.text.to_latex(index=False, escape=True, column_format=columns)
        for plain, command in (("±", r"$\pm$"), ("Δ", r"$\Delta$"), ("–", "--"), ("<", "$<$"), (">", "$>$")):
            body = body.replace(plain, command)
        # A hyphen before a number is a minus.
        body = re.sub(r"(?<=[\s\[])-(?=\d)", "$-$", body)
        lines = body.splitlines()
        if self.rule_every:
            first, last = lines.index(r"\midrule") + 1, lines.index(r"\bottomrule")
            for place in reversed(range(first + self.rule_every, last, self.rule_every)):
                lines.insert(place, r"\midrule")
        return f"% {self.note}\n" + "\n".join(lines) + "\n"


def _is_words(column: pd.Series) -> bool:
    """Whether a column holds names rather than figures."""
    return column.name == "" or not all(re.match(r"[+-]?\d|–|yes|no", str(value)) for value in column)


def fitted(text: pd.DataFrame) -> str:
    """A plain table, its first column wrapped so that lines stay within the terminal."""
    # tabulate keeps two spaces beside a heading and two between columns.
    rest = sum(max(len(name) + 2, *map(len, text[name])) + 2 for name in text.columns[1:])
    first = text.columns[0]
    return tabulate(
        text.assign(**{first: [wrap(label, max(16, WIDTH - rest)) for label in text[first]]}).to_numpy().tolist(),
        headers=list(text.columns),
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(text.columns) - 1)),
    )


def wrap(label: str, width: int) -> str:
    """Break a long label after underscores, commas and the like, or anywhere where it has none."""
    lines = [""]
    for piece in re.findall(rf"[^-_=,( ]{{,{width - 1}}}[-_=,( ]*", label):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def cell(value: Any) -> str:
    """Any value as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def number(value: float, digits: int | None = None, *, comma: bool = False) -> str:
    """A number with so many decimals, or with three figures and no exponent where ``digits`` is None; ``comma``:
    between thousands."""
    if math.isnan(value):
        return MISSING
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:{',' if comma else ''}.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, ``+0.0`` for what rounds to 0 from either side."""
    # -0.0 + 0.0 is 0.0
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def ranged(median: float, low: float, high: float) -> str:
    """``1.50 (1.42–1.62)``, or what of it is known."""
    texts = number(median), number(low), number(high)
    return texts[0] if MISSING in texts else f"{texts[0]} ({texts[1]}–{texts[2]})"


def difference(comparison: Comparison, digits: int = 1, *, verdict: bool = True) -> str:
    """``+2.1 [+0.3, +3.9] better``: a difference, its corrected interval and the verdict, as far as there are any."""
    if not comparison.exists:
        return MISSING
    text = signed(comparison.value, digits)
    low, high = comparison.corrected_interval
    if not math.isnan(low):
        text += f" [{signed(low, digits)}, {signed(high, digits)}]"
    return f"{text} {comparison.verdict}" if verdict and comparison.verdict else text

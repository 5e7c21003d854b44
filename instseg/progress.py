"""Progress bars that are readable on a terminal and in a log."""

import sys
from typing import Any

from tqdm import tqdm

_line: int | None = None


def use_line(line: int) -> None:
    """Keep this process's bars on one line of the terminal, counted from 0; other processes have the other lines."""
    global _line
    _line = line


def say(line: str) -> None:
    """Print a line without breaking the bars."""
    tqdm.write(line, file=sys.stderr)


def bar(*, nested: bool = False, **options: Any) -> tqdm:
    """A tqdm bar with tqdm's own options; where stderr is no terminal it is written every ten seconds, not ten times a
    second. ``nested`` says that another bar is shown meanwhile: a process with one line leaves nested bars out."""
    live = sys.stderr.isatty()
    pace = {"dynamic_ncols": live, "mininterval": 0.1 if live else 10, "maxinterval": 10, "leave": not nested}
    if _line is not None:
        pace |= {"position": _line, "disable": nested}
    return tqdm(**{**pace, **options})

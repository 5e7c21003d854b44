"""Everything that is wrong with an annotation file, gathered before an error is raised."""

from pathlib import Path
from typing import Literal

from instseg.errors import DataError, unknown_name

Invalid = Literal["error", "drop"]


def drops(invalid: str) -> bool:
    """Whether instances that cannot be used are to be left out.

    Raises:
        UserError: ``invalid`` is neither ``error`` nor ``drop``.
    """
    if invalid not in ("error", "drop"):
        raise unknown_name("value of invalid", str(invalid), ("error", "drop"))
    return invalid == "drop"


class Faults:
    """Faults by kind, in the file or folder that every line begins with. The error's message is the first kind's first
    line, its ``lines`` are all of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, list[str]] = {}

    def add(self, kind: str, line: str) -> None:
        self._lines.setdefault(kind, []).append(line)

    def raise_first(self) -> None:
        """Raise a DataError where there are any."""
        if self._lines:
            first = next(iter(self._lines.values()))
            more = f" (and {len(first) - 1} more like it)" if len(first) > 1 else ""
            every = [f"{self._path}: {line}" for lines in self._lines.values() for line in lines]
            raise DataError(f"{self._path}: {first[0]}{more}", every)


def skipped(path: Path, lines: list[str], *, what: str, drop: bool) -> list[str]:
    """The lines, one for each instance (``what``, such as ``annotation``) that is left out.

    Raises:
        DataError: there are some, and they are not to be left out (``drop``).
    """
    if lines and not drop:
        raise DataError(
            f"{path}: {lines[0]}; {len(lines)} such {what}(s) in all: correct them, or leave them out "
            "with dataset.options.invalid=drop",
            [f"{path}: {line}" for line in lines],
        )
    return lines

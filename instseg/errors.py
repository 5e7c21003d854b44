"""Errors caused by what a user gave: one clear line, never a traceback."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user gave is wrong. ``str(error)`` is one line that names the file, key or id and what
    would be right; the apps print it and exit with status 2."""


class DataError(UserError):
    """A data set, annotation file or image cannot be used as it is.

    Attributes:
        lines: all faults, a line each; for a single one, the message alone.
    """

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = list(lines) or [message]


class DivergedError(UserError):
    """The training loss is no longer finite."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name of some kind, such as ``"head"``, that is not known: the nearest known ones, then all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return UserError(f"unknown {kind} {name!r}: {hint}known: {', '.join(known)}")

"""Which runs are of one variant: labels that hold the name, and what differs where runs of one name differ."""

import json
import re
from typing import Any

SETTINGS = ("trunk", "dataset", "protocol", "iterations")
"""What makes variants of one name differ, besides the head's options and the settings of the study."""


def natural(text: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts ``depth=10`` after ``depth=2``."""
    parts = re.findall(r"\d+|\D+", text)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def label(rows: list[dict[str, Any]]) -> None:
    """Set ``variant`` of each run's row: its name, and where runs of that name differ in options or settings, what
    differs behind it."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    for name, group in by_name.items():
        settings = [
            {"head": row["head"], **row["options"], **{key: row[key] for key in SETTINGS}, **_own_settings(row, group)}
            for row in group
        ]
        keys = list(dict.fromkeys(key for values in settings for key in values))
        shown = [{key: _short(values[key]) for key in keys if key in values} for values in settings]
        differing = [key for key in keys if len({values.get(key) for values in shown}) > 1]
        for row, values in zip(group, shown, strict=True):
            extra = ", ".join(f"{key}={values[key]}" for key in differing if key in values)
            row["variant"] = f"{name}({extra})" if extra else name


def _own_settings(row: dict[str, Any], group: list[dict[str, Any]]) -> dict[str, Any]:
    """A run's settings, less those of trunk or data set where runs differ in its name already."""
    named = tuple(f"{key}." for key in ("trunk", "dataset") if len({other[key] for other in group}) > 1)
    return {key: value for key, value in row["settings"].items() if not key.startswith(named)}


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)

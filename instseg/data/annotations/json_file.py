"""Reading what people's annotation tools write as JSON."""

import json
import reprlib
from pathlib import Path
from typing import Any, TypeGuard

from instseg.errors import DataError

_LARGEST = 2**53  # COCO's evaluation keeps ids as floats
_LONGEST = 1000  # characters of a text; no name or path is longer


def read_json(path: Path) -> Any:
    """The content of a JSON file; a DataError where it is missing, cannot be read, or is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"annotation file {path} does not exist") from None
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is truncated or no JSON: {' '.join(str(error).split())}") from None


def whole(value: Any) -> int | None:
    """A whole number, which some tools write as ``"7"`` or ``7.0``; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 17:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) <= _LARGEST else None


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a text of one line, not too long, that can be written to a file."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return False
    return value.splitlines() == [value] == [value.encode("utf-8", "replace").decode()]


def plain(entry: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object without its lists and objects, which may be nested deeply, but for those to keep."""
    return {key: value for key, value in entry.items() if key in keep or not isinstance(value, list | dict)}


def short(value: Any) -> str:
    """A value of any size in a few characters, for messages."""
    text = " ".join(reprlib.repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."

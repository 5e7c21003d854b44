"""Files that are whole or absent, and JSON files that say what is wrong with them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instseg.errors import DataError


def write_atomically(path: Path, data: str | bytes) -> Path:
    """Write a whole file or nothing, so that no reader ever sees half of it; makes the folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


@contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """A ``DataError`` about the content of a file gets the file's name in front."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: there is no such file, or it is no JSON; one line that begins with its name.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error}); a JSON file is needed") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({' '.join(str(error).split())})") from error

"""What ``experiments.predict`` has done so far, so that it goes on where it was broken off."""

import json
from pathlib import Path
from typing import Any

from instseg.files import write_atomically


class Journal:
    """A file with a line an image, which is deleted when all images are done.

    Images of a file that is there are taken over if its first line equals ``about``, the runs and settings in JSON.

    Raises:
        OSError: the file can't be read or written.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path = path
        lines = path.read_text().split("\n") if path.exists() else []
        # the last line is empty, or was broken off
        first, *rest = [_parsed(line) for line in lines[:-1]] or [None]
        self._images = {entry["name"]: entry for entry in rest if entry is not None and first == about}
        entries = [about, *self._images.values()]
        write_atomically(path, "".join(f"{json.dumps(entry)}\n" for entry in entries))

    def get(self, name: str, image: Path) -> dict[str, Any] | None:
        """The content that was added for an image; None where the file is new, changed or gone."""
        entry = self._images.get(name)
        # the reader of images reports a file that is gone
        return entry["found"] if entry is not None and image.exists() and entry["file"] == _stamp(image) else None

    def add(self, name: str, image: Path, content: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(f"{json.dumps({'name': name, 'file': _stamp(image), 'found': content})}\n")

    def end(self) -> None:
        """Delete the file: all images are done."""
        self._path.unlink(missing_ok=True)


def _stamp(image: Path) -> list[int]:
    """By which a changed file is known: its size and time."""
    status = image.stat()
    return [status.st_size, status.st_mtime_ns]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None

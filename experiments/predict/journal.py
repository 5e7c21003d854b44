"""What ``experiments.predict`` has found so far, so that it goes on where it was broken off."""

import json
from pathlib import Path
from typing import Any

from instseg.files import write_atomically


class Journal:
    """A line an image, in a file that is gone when all images are done.

    Args:
        path: of the file; what lies there is taken over where it was found by the same runs and settings.
        about: those runs and settings, as JSON has them.

    Raises:
        OSError: the file can't be read or written.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path = path
        self._images: dict[str, dict[str, Any]] = {}
        lines = path.read_text().split("\n") if path.exists() else []
        # a line that was broken off has no end
        first, *rest = [_parsed(line) for line in lines[:-1]] or [None]
        if first == about:
            self._images = {one["name"]: one for one in rest if one is not None}
        kept = [about, *self._images.values()]
        write_atomically(path, "".join(f"{json.dumps(one)}\n" for one in kept))

    def get(self, name: str, image: Path) -> dict[str, Any] | None:
        """What was found on an image, as it was added; None where it is a new or another file."""
        one = self._images.get(name)
        # what has gone since is for the reader of images to tell
        return one["found"] if one is not None and image.exists() and one["file"] == _file(image) else None

    def add(self, name: str, image: Path, found: dict[str, Any]) -> None:
        """Keep what was found on an image."""
        with self._path.open("a") as file:
            file.write(f"{json.dumps({'name': name, 'file': _file(image), 'found': found})}\n")

    def end(self) -> None:
        """All images are done."""
        self._path.unlink(missing_ok=True)


def _file(image: Path) -> list[int]:
    about = image.stat()
    return [about.st_size, about.st_mtime_ns]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None

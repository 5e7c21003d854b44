"""Images in a folder by their names, and the folder of a data set."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from instseg.errors import DataError

# formats that Pillow knows by name alone, or that hold no image
_NO_IMAGES = ("BUFR", "GRIB", "HDF5", "MPEG")
_UNREADABLE = ".heic .heif .avif .jxl .svg .dng .cr2 .cr3 .nef .arw .orf .raf .rw2"
"""Endings of images that Pillow may not be able to read: these are listed, so that a line names each."""


@dataclass
class Listing:
    """Images and other files in a folder, as :func:`list_images` returns them."""

    paths: list[Path] = field(default_factory=list)  # of the images, sorted
    others: int = 0  # how many further files there are
    subfolders: int = 0  # how many folders were not looked into
    unread: list[str] = field(default_factory=list)  # one line for each folder that can't be read


@cache
def endings() -> frozenset[str]:
    """The endings of images' names, in small letters, whether Pillow reads them or not."""
    known = Image.registered_extensions().items()
    readable = {ending for ending, form in known if form in Image.OPEN and form not in _NO_IMAGES}
    return frozenset(readable | set(_UNREADABLE.split()))


def list_images(folder: Path, *, recursive: bool = False, leave_out: Path | None = None) -> Listing:
    """Look for images by the endings of their names. Hidden files and links to folders are passed over.

    With ``recursive`` it looks into subfolders, too, except ``leave_out``.

    Raises:
        DataError: the folder itself can't be read.
    """
    listing = Listing()
    errors: list[OSError] = []
    for parent, inner, names in os.walk(folder, onerror=errors.append):
        here = Path(parent)
        if not recursive:
            listing.subfolders += len(inner)
            inner.clear()
        inner[:] = [name for name in inner if leave_out is None or (here / name).resolve() != leave_out.resolve()]
        for path in (here / name for name in names):
            # a broken link is listed, so that a line names it; a pipe is not, as reading it would wait
            is_file = path.is_file() or not path.exists()
            if is_file and path.suffix.lower() in endings() and not path.name.startswith("."):
                listing.paths.append(path)
            else:
                listing.others += 1
    for error in errors:
        line = f"folder {error.filename} can't be read: {error.strerror}"
        if Path(error.filename) == folder:
            raise DataError(line)
        listing.unread.append(line)
    listing.paths.sort()
    return listing


def find_root(root: Path, folder: str, parts: Sequence[str], layout: str) -> Path:
    """The folder of a data set: ``root / folder``, or else ``root`` itself, whichever has one of its parts.

    Raises:
        DataError: neither has a part, a name or a pattern; the line ends with ``layout``, what is expected.
    """
    if not root.is_dir():
        raise DataError(f"folder {root} does not exist; {layout}")
    for path in (root / folder, root):
        if any(any(path.glob(part)) for part in parts):
            return path
    raise DataError(f"{root} holds no {folder}: {layout}")

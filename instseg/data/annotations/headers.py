"""The headers of images, checked against the sizes in their records."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from instseg.data.annotated import ORIENTATION, ImageRecord
from instseg.data.annotations.coco_shapes import MOST_PIXELS
from instseg.data.annotations.faults import Faults
from instseg.data.images import image_header
from instseg.errors import DataError

_SIDES = ("height", "width")
_SIDEWAYS = (5, 6, 7, 8)
_READERS = 16  # a header is one short wait for the disk


def check_headers(source: Path, folder: Path, images: list[ImageRecord], *, every: bool) -> None:
    """Put missing sizes into the images' records, and ``exif_orientation`` where an image is to be turned.

    Today's annotation tools show photographs upright. So an image that has an EXIF orientation is turned upright, as
    detectron2 does, unless its record gives the size in which it is stored.

    ``source`` is the file that the records are from, for messages. With ``every`` the headers of images that have both
    sides are read, too.

    Raises:
        DataError: an image cannot be read, or is not as large as its record says, or too large for anything.
    """
    faults = Faults(source)
    todo = [image for image in images if every or any(image.record.get(side) is None for side in _SIDES)]
    with ThreadPoolExecutor(_READERS) as pool:
        headers = list(pool.map(_header, [folder / image.file for image in todo]))
    for image, header in zip(todo, headers, strict=True):
        record = image.record
        record.pop(ORIENTATION, None)
        if isinstance(header, DataError):
            faults.add("header", f"image {record['id']}: {header}")
            continue
        stored, orientation = header[:2], header[2]
        upright = stored[::-1] if orientation in _SIDEWAYS else stored
        size = next((size for size in (upright, stored) if _fits(record, size)), None)
        if size is None:
            said = tuple(record.get(key) or side for side, key in zip(stored, _SIDES, strict=True))
            line = f"image {record['id']} is {said[1]} x {said[0]} pixels there, but {stored[1]} x {stored[0]} in "
            turned = " and has no EXIF orientation that would turn it" if said == stored[::-1] else ""
            faults.add("size", f"{line}{folder / image.file}{turned}")
            continue
        record.update(zip(_SIDES, size, strict=True))
        if orientation != 1 and size == upright:
            record[ORIENTATION] = orientation
    for image in images:
        height, width = (image.record.get(key) or 1 for key in _SIDES)
        if height * width > MOST_PIXELS:
            faults.add("large", f"image {image.record['id']} has {width} x {height} pixels; {MOST_PIXELS} are the most")
    faults.raise_first()


def _fits(record: dict[str, Any], size: tuple[int, int]) -> bool:
    """Whether a record gives this (height, width), as far as it gives any."""
    return all(record.get(key) in (None, side) for side, key in zip(size, _SIDES, strict=True))


def _header(path: Path) -> tuple[int, int, int] | DataError:
    try:
        return image_header(path)
    except DataError as error:
        return error

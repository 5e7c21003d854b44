"""What the headers of pictures say against what is said of them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from instseg.data.annotated import Picture
from instseg.data.coco_shapes import MOST_PIXELS
from instseg.data.faults import Faults
from instseg.data.images import image_size
from instseg.errors import DataError

_SIDES = ("height", "width")
_READERS = 16  # a header is one short wait for the disk


def sizes(paths: list[Path]) -> list[tuple[int, int] | DataError]:
    """Height and width of pictures in pixels, or what is wrong with them, by their headers, many at a time."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(_size, paths))


def check_headers(source: Path, folder: Path, pictures: list[Picture], *, every: bool) -> None:
    """Put the sizes that are missing into the pictures' records.

    Args:
        source: the file that the records are from, for messages.
        folder: that the pictures lie in.
        pictures: their records may lack ``height`` and ``width``.
        every: look at the headers of those that have both, too.

    Raises:
        DataError: a picture cannot be read, or is not as large as its record says, or too large for anything.
    """
    faults = Faults(source)
    todo = [p for p in pictures if every or p.record.get("height") is None or p.record.get("width") is None]
    for picture, size in zip(todo, sizes([folder / p.file for p in todo]), strict=True):
        record = picture.record
        if isinstance(size, DataError):
            faults.add("header", f"image {record['id']}: {size}")
            continue
        said = tuple(side if record.get(key) is None else record[key] for side, key in zip(size, _SIDES, strict=True))
        if said != size:
            line = f"image {record['id']} is {said[1]} x {said[0]} pixels there, but {size[1]} x {size[0]} in "
            turned = " (a rotation that EXIF asks for is not applied)" if said == size[::-1] else ""
            faults.add("size", f"{line}{folder / picture.file}{turned}")
        record.update(zip(_SIDES, size, strict=True))
    for picture in pictures:
        height, width = (picture.record.get(key) or 1 for key in _SIDES)
        if height * width > MOST_PIXELS:
            faults.add(
                "large", f"image {picture.record['id']} has {width} x {height} pixels; {MOST_PIXELS} are the most"
            )
    faults.raise_first()


def _size(path: Path) -> tuple[int, int] | DataError:
    try:
        return image_size(path)
    except DataError as error:
        return error

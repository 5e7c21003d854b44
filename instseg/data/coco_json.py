"""Reading a COCO annotation file, and checking all of it before anything is trained on it."""

import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from instseg.data.coco_shapes import shape_fault
from instseg.errors import DataError

_FORM = "a COCO annotation file is one object with lists images, annotations and categories"


class Picture(NamedTuple):
    """One picture of a COCO file.

    Attributes:
        record: its entry in ``images``.
        annotations: its annotations in the file's order, less those that nothing can be scored against.
        unfit: ids of annotations that cannot be instances of a target.
    """

    record: dict[str, Any]
    annotations: list[dict[str, Any]]
    unfit: set[int]


class Contents(NamedTuple):
    """A checked COCO file: categories and pictures sorted by id, and a line for each annotation left out."""

    categories: list[dict[str, Any]]
    pictures: list[Picture]
    left_out: list[str]


def file_name(record: dict[str, Any]) -> str:
    """An image entry's file name with forward slashes; tools on Windows write the other ones."""
    return record["file_name"].replace("\\", "/")


def read_coco(path: Path, images: Path, *, drop_invalid: bool, limit: int | None) -> Contents:
    """Read and check a COCO instance file.

    With ``limit``, files and shapes are checked for the pictures that are kept only.

    Args:
        path: the JSON file.
        images: the folder that the file names refer to.
        drop_invalid: leave instances with a degenerate shape out instead of raising.
        limit: keep the first so many pictures, by id.

    Raises:
        DataError: the file or a part of it cannot be used.
    """
    data = _load(path)
    categories = _by_id(path, data, "categories", {"name": str})
    records = _by_id(path, data, "images", {"file_name": str, "height": int, "width": int})
    kept = {image_id: Picture(records[image_id], [], set()) for image_id in sorted(records)[:limit]}
    _check_files(path, images, [picture.record for picture in kept.values()])
    left_out = _sort_in(path, data["annotations"], kept, set(records), set(categories), drop_invalid)
    return Contents([categories[i] for i in sorted(categories)], list(kept.values()), left_out)


class _Faults:
    """What is wrong, by kind: one line stands for all faults of a kind, and all stand in the error's ``lines``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, list[str]] = {}

    def add(self, kind: str, line: str) -> None:
        self._lines.setdefault(kind, []).append(line)

    def raise_first(self) -> None:
        for lines in self._lines.values():
            more = len(lines) - 1
            every = [f"{self._path}: {line}" for of_kind in self._lines.values() for line in of_kind]
            raise DataError(f"{self._path}: {lines[0]}" + (f" (and {more} more like it)" if more else ""), every)


def _load(path: Path) -> dict[str, list[Any]]:
    """The file's object, known to have the three lists and none of them empty."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"annotation file {path} does not exist") from None
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is truncated or no JSON: {' '.join(str(error).split())}") from None
    if isinstance(data, list):
        raise DataError(f"{path} holds a list, as files of results do; {_FORM}")
    if not isinstance(data, dict):
        raise DataError(f"{path} holds no object; {_FORM}")
    keys = ("images", "annotations", "categories")
    if missing := [key for key in keys if key not in data]:
        raise DataError(f"{path} has no {missing[0]!r}; {_FORM}")
    for key in keys:
        if not isinstance(data[key], list):
            raise DataError(f"{path}: {key!r} is not a list; {_FORM}")
        if not data[key]:
            raise DataError(f"{path}: {key!r} is empty; at least one is needed")
    return data


def _by_id(path: Path, data: dict[str, list[Any]], key: str, fields: dict[str, type]) -> dict[int, dict[str, Any]]:
    """The entries of ``images`` or ``categories`` by their ids."""
    found: dict[int, dict[str, Any]] = {}
    faults = _Faults(path)
    for position, entry in enumerate(data[key]):
        entry_id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(entry_id, int):
            faults.add("id", f"entry {position} of {key!r} is no object with a whole number as 'id'")
            continue
        if entry_id in found:
            faults.add("twice", f"id {entry_id} is there twice in {key!r}; ids must differ")
        for field, kind in fields.items():
            value = entry.get(field)
            if not isinstance(value, kind) or not value or (isinstance(value, int) and value < 0):
                wanted = "a text" if kind is str else "a whole number above 0"
                faults.add(field, f"id {entry_id} of {key!r} has {field} {value!r}; it must be {wanted}")
        found[entry_id] = entry
    faults.raise_first()
    return found


def _check_files(path: Path, images: Path, records: list[dict[str, Any]]) -> None:
    """All pictures are there, by one listing a folder: a stat a file takes minutes on network disks."""
    if not images.is_dir():
        raise DataError(f"image folder {images} does not exist; {path} names its pictures relative to it")
    listed: dict[str, set[str]] = {}
    faults = _Faults(path)
    for record in records:
        parent, _, name = file_name(record).rpartition("/")
        if parent not in listed:
            listed[parent] = _listing(images / parent)
        if name not in listed[parent]:
            line = f"file {images / PurePosixPath(parent, name)} of image {record['id']} does not exist"
            faults.add("file", line)
    faults.raise_first()


def _listing(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise DataError(f"image folder {folder} cannot be read: {error.strerror or error}") from None


def _sort_in(
    path: Path,
    annotations: list[Any],
    kept: dict[int, Picture],
    known_images: set[int],
    known_categories: set[int],
    drop_invalid: bool,
) -> list[str]:
    """Give each annotation to its picture; return a line for each one left out."""
    seen: set[int] = set()
    left_out: list[str] = []
    faults = _Faults(path)
    for position, annotation in enumerate(annotations):
        annotation_id = annotation.get("id") if isinstance(annotation, dict) else None
        if not isinstance(annotation_id, int):
            faults.add("id", f"entry {position} of 'annotations' is no object with a whole number as 'id'")
            continue
        if annotation_id in seen:
            faults.add("twice", f"annotation id {annotation_id} is there twice; ids must differ")
            continue
        seen.add(annotation_id)
        image_id = annotation.get("image_id")
        if not isinstance(image_id, int) or image_id not in known_images:
            line = f"annotation {annotation_id} is of image {image_id!r}, which is not in 'images'"
            faults.add("image", line)
            continue
        category_id = annotation.get("category_id")
        if not isinstance(category_id, int) or category_id not in known_categories:
            line = f"annotation {annotation_id} is of category {category_id!r}, which is not in 'categories'"
            faults.add("category", line)
            continue
        if annotation.get("iscrowd", 0) not in (0, 1):
            line = f"annotation {annotation_id} has iscrowd {annotation['iscrowd']!r}; it must be 0 or 1"
            faults.add("iscrowd", line)
            continue
        picture = kept.get(image_id)
        if picture is None:
            continue
        height, width = picture.record["height"], picture.record["width"]
        try:
            fault = shape_fault(annotation, height, width)
        except ValueError as error:
            faults.add("rle", f"annotation {annotation_id} of image {image_id}: {error}")
            continue
        if fault is None or fault.scorable:
            picture.annotations.append(annotation)
        if fault is not None:
            picture.unfit.add(annotation_id)
            left_out.append(f"annotation {annotation_id} of image {image_id}: {fault.reason}")
    faults.raise_first()
    if left_out and not drop_invalid:
        raise DataError(
            f"{path}: {left_out[0]}; {len(left_out)} such annotation(s) in all: correct them, or leave them out "
            "with dataset.options.invalid=drop",
            [f"{path}: {line}" for line in left_out],
        )
    return left_out

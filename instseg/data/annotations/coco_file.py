"""Reading a COCO annotation file, and checking all of it before anything is trained on it."""

from pathlib import Path
from typing import Any

from instseg.data.annotated import Contents, ImageRecord
from instseg.data.annotations.coco_shapes import missing_box, shape_fault
from instseg.data.annotations.faults import Faults, skipped
from instseg.data.annotations.file_names import FileFinder
from instseg.data.annotations.headers import check_headers
from instseg.data.annotations.json_file import is_text, plain, read_json, short, whole
from instseg.data.split import FoldSplit
from instseg.errors import DataError

_FORM = "a COCO annotation file is one object with lists images, annotations and categories"
_KEYS = ("images", "annotations", "categories")

Entry = dict[str, Any]


def read_coco(
    path: Path,
    images: Path,
    *,
    drop_invalid: bool,
    limit: int | None = None,
    part: FoldSplit | None = None,
    headers: bool = False,
    categories: list[Entry] | None = None,
) -> Contents:
    """Read and check a COCO instance file; :class:`instseg.data.sets.coco.CocoDataset` has the arguments.

    Raises:
        DataError: the file or a part of it cannot be used.
    """
    data = _load(path)
    own = _by_id(path, data, "categories", "name")
    known = [own[i] for i in sorted(own)] if categories is None else _among(path, own, categories)
    records = _by_id(path, data, "images", "file_name")
    chosen = sorted(records)
    if part is None:
        files = _files(path, images, [records[i] for i in chosen[:limit]])
    else:
        # all files, since one that stands for two images could be in both splits
        files = _files(path, images, [records[i] for i in chosen])
        names = {i: records[i]["file_name"].replace("\\", "/") for i in chosen}
        in_part = part.choose(dict.fromkeys(names.values(), ""), path)
        chosen = [i for i in chosen if names[i] in in_part]
    kept = {i: ImageRecord(records[i], [], set(), files[i]) for i in chosen[:limit]}
    check_headers(path, images, list(kept.values()), every=headers)
    lines = _sort_in(path, data["annotations"], kept, set(records), {c["id"] for c in known})
    return Contents(known, list(kept.values()), skipped(path, lines, what="annotation", drop=drop_invalid))


def read_categories(path: Path) -> list[Entry]:
    """The categories of a COCO file, sorted by id.

    Raises:
        DataError: they cannot be read.
    """
    found = _by_id(path, _load(path), "categories", "name")
    return [found[i] for i in sorted(found)]


def _load(path: Path) -> dict[str, list[Any]]:
    """The file's object, known to have the three lists and none of them empty."""
    data = read_json(path)
    if isinstance(data, list):
        raise DataError(f"{path} holds a list, as files of results do; {_FORM}")
    if not isinstance(data, dict):
        raise DataError(f"{path} holds no object; {_FORM}")
    if missing := [key for key in _KEYS if key not in data]:
        raise DataError(f"{path} has no {missing[0]!r}; {_FORM}")
    for key in _KEYS:
        if not isinstance(data[key], list):
            raise DataError(f"{path}: {key!r} is not a list; {_FORM}")
        if not data[key]:
            raise DataError(f"{path}: {key!r} is empty; at least one is needed")
    return data


def _by_id(path: Path, data: dict[str, list[Any]], key: str, text: str) -> dict[int, Entry]:
    """The entries of ``images`` or ``categories`` by their ids; ``text``: what each must have beside it."""
    found: dict[int, Entry] = {}
    faults = Faults(path)
    for position, given in enumerate(data[key]):
        entry_id = whole(given.get("id")) if isinstance(given, dict) else None
        if entry_id is None:
            faults.add("id", f"entry {position} of {key!r} is no object with a whole number as 'id'")
            continue
        if entry_id in found:
            faults.add("twice", f"id {entry_id} is there twice in {key!r}; ids must differ")
        entry = {**plain(given), "id": entry_id}
        if not is_text(entry.get(text)):
            faults.add(text, f"id {entry_id} of {key!r} has {text} {short(entry.get(text))}; it must be a text")
        for side in ("height", "width") if key == "images" else ():
            if (value := entry.get(side)) is not None:
                entry[side] = whole(value)
                if entry[side] is None or entry[side] < 1:
                    line = f"id {entry_id} of {key!r} has {side} {short(value)}; it must be a whole number above 0"
                    faults.add(side, line)
        found[entry_id] = entry
    faults.raise_first()
    return found


def _among(path: Path, own: dict[int, Entry], known: list[Entry]) -> list[Entry]:
    """The data set's categories, once it is sure that this file means the same by them."""
    names = {category["id"]: category["name"] for category in known}
    faults = Faults(path)
    for category_id, category in own.items():
        if category_id not in names:
            line = f"category {category_id}, {category['name']!r}, is not in the file that is trained on"
            faults.add("unknown", line)
        elif category["name"] != names[category_id]:
            line = f"category {category_id} is {category['name']!r}, in the file that is trained on "
            faults.add("other", line + repr(names[category_id]))
    faults.raise_first()
    return known


def _files(path: Path, images: Path, records: list[Entry]) -> dict[int, str]:
    """Where the images are, by their ids."""
    if not images.is_dir():
        fault = "is a file" if images.exists() else "does not exist"
        raise DataError(f"image folder {images} {fault}; {path} names its images relative to it")
    finder = FileFinder(images)
    faults = Faults(path)
    files: dict[int, str] = {}
    owners: dict[str, int] = {}
    looked = False
    for record in records:
        image_id, name = record["id"], record["file_name"].replace("\\", "/")
        file = finder.find(name)
        if file is None:
            line = f"file {images / name.lstrip('/')} of image {image_id} does not exist"
            if not looked and (folder := finder.elsewhere(name)):
                line += f"; one of that name lies in {folder}, which may be the folder to give"
            looked = True
            faults.add("file", line)
        elif file in owners:
            faults.add("shared", f"images {owners[file]} and {image_id} are both the file {images / file}")
        else:
            files[image_id] = file
            owners[file] = image_id
    faults.raise_first()
    return files


def _sort_in(
    path: Path, annotations: list[Any], kept: dict[int, ImageRecord], known_images: set[int], known_categories: set[int]
) -> list[str]:
    """Give each annotation to its image; return a line for each one left out."""
    seen: set[int] = set()
    lines: list[str] = []
    faults = Faults(path)
    for position, given in enumerate(annotations):
        annotation_id = whole(given.get("id")) if isinstance(given, dict) else None
        if annotation_id is None:
            faults.add("id", f"entry {position} of 'annotations' is no object with a whole number as 'id'")
            continue
        if annotation_id in seen:
            faults.add("twice", f"annotation id {annotation_id} is there twice; ids must differ")
            continue
        seen.add(annotation_id)
        image_id, category_id = whole(given.get("image_id")), whole(given.get("category_id"))
        if image_id not in known_images or image_id is None:
            line = f"annotation {annotation_id} is of image {short(given.get('image_id'))}, which is not in 'images'"
            faults.add("image", line)
            continue
        if category_id not in known_categories:
            line = f"annotation {annotation_id} is of category {short(given.get('category_id'))}"
            faults.add("category", f"{line}, which is not in 'categories'")
            continue
        if given.get("iscrowd") not in (0, 1, None):
            line = f"annotation {annotation_id} has iscrowd {short(given['iscrowd'])}; it must be 0 or 1"
            faults.add("iscrowd", line)
            continue
        image = kept.get(image_id)
        if image is None:
            continue
        annotation = {**plain(given, keep=("bbox", "segmentation")), "id": annotation_id, "image_id": image_id}
        annotation |= {"category_id": category_id, "bbox": given.get("bbox"), "segmentation": given.get("segmentation")}
        if annotation.get("iscrowd") is None:
            annotation.pop("iscrowd", None)
        else:
            annotation["iscrowd"] = int(annotation["iscrowd"])
        height, width = image.record["height"], image.record["width"]
        try:
            if annotation["bbox"] in (None, []):
                annotation["bbox"], fault = missing_box(annotation["segmentation"], height, width)
            else:
                fault = shape_fault(annotation, height, width)
        except ValueError as error:
            faults.add("rle", f"annotation {annotation_id} of image {image_id}: {error}")
            continue
        if fault is None or fault.scorable:
            image.annotations.append(annotation)
        if fault is not None:
            image.unfit.add(annotation_id)
            lines.append(f"annotation {annotation_id} of image {image_id}: {fault.reason}")
    faults.raise_first()
    return lines

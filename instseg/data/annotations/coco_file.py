"""Reading a COCO annotation file, and checking all of it before anything is trained on it."""

from pathlib import Path
from typing import Any

from instseg.data.annotated import Contents, ImageRecord
from instseg.data.annotations.coco_shapes import missing_box, shape_fault
from instseg.data.annotations.faults import Faults, Invalid, drops, skipped
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
    folder: Path,
    *,
    invalid: Invalid = "error",
    limit: int | None = None,
    part: FoldSplit | None = None,
    headers: bool = False,
    categories: list[Entry] | None = None,
) -> Contents:
    """Read a COCO instance file and check it as a whole, so that nothing but a damaged image can stop a run later.

    An instance is degenerate where its box or a polygon is malformed, has no area or lies outside the image, where it
    has no segmentation, or where its mask covers no pixel. A box that is missing is the mask's. With
    ``invalid="drop"`` such instances are left out of the targets, with a line for each in ``skipped``; annotations
    that pycocotools can score against stay in the ground truth, so that scores stay COCO's. Everything else that is
    wrong with the file is an error.

    Args:
        path: the JSON file.
        folder: that its file names refer to.
        invalid: what to do about degenerate instances.
        limit: keep only the first so many images, by id; files and shapes of the others are not checked.
        part: keep only this part of the images, before ``limit``; None: all.
        headers: see at once, by their headers, whether the images can be read and are as large as the file says.
        categories: those of the data set, where it has more files than one; the file must use no others.

    Raises:
        UserError: ``invalid`` has no such value.
        DataError: a file is missing or cannot be used, in one line with the file and the id.
    """
    drop = drops(invalid)
    data = _load(path)
    own = _by_id(path, data, "categories", "name")
    known = [own[i] for i in sorted(own)] if categories is None else _among(path, own, categories)
    records = _by_id(path, data, "images", "file_name")
    chosen = sorted(records)
    # of a part all files, since one that stands for two images could be in both splits
    files = _files(path, folder, [records[i] for i in (chosen[:limit] if part is None else chosen)])
    if part is not None:
        names = {i: records[i]["file_name"].replace("\\", "/") for i in chosen}
        in_part = part.choose(dict.fromkeys(names.values(), ""), path)
        chosen = [i for i in chosen if names[i] in in_part]
    images = {i: ImageRecord(records[i], [], set(), files[i]) for i in chosen[:limit]}
    check_headers(path, folder, list(images.values()), every=headers)
    lines = _add_annotations(path, data["annotations"], images, set(records), {c["id"] for c in known})
    return Contents(known, list(images.values()), skipped(path, lines, what="annotation", drop=drop))


def read_categories(path: Path) -> list[Entry]:
    """The categories of a COCO file, sorted by id; a DataError where they cannot be read."""
    categories = _by_id(path, _load(path), "categories", "name")
    return [categories[i] for i in sorted(categories)]


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
    """The entries of ``images`` or ``categories`` by their ids; each must have the text ``text`` beside its id."""
    entries: dict[int, Entry] = {}
    faults = Faults(path)
    for position, given in enumerate(data[key]):
        entry_id = whole(given.get("id")) if isinstance(given, dict) else None
        if entry_id is None:
            faults.add("id", f"entry {position} of {key!r} is no object with a whole number as 'id'")
            continue
        if entry_id in entries:
            faults.add("twice", f"id {entry_id} is there twice in {key!r}; ids must differ")
        entry = {**plain(given), "id": entry_id}
        if not is_text(entry.get(text)):
            faults.add(text, f"id {entry_id} of {key!r} has {text} {short(entry.get(text))}; it must be a text")
        for side in ("height", "width") if key == "images" else ():
            if (value := entry.get(side)) is not None:
                entry[side] = whole(value)
                if (entry[side] or 0) < 1:
                    line = f"id {entry_id} of {key!r} has {side} {short(value)}; it must be a whole number above 0"
                    faults.add(side, line)
        entries[entry_id] = entry
    faults.raise_first()
    return entries


def _among(path: Path, own: dict[int, Entry], known: list[Entry]) -> list[Entry]:
    """The data set's categories, once it is sure that this file means the same by them."""
    names = {category["id"]: category["name"] for category in known}
    faults = Faults(path)
    for category_id, category in own.items():
        name = category["name"]
        if category_id not in names:
            faults.add("unknown", f"category {category_id}, {name!r}, is not in the file that is trained on")
        elif name != names[category_id]:
            line = f"category {category_id} is {name!r}, in the file that is trained on {names[category_id]!r}"
            faults.add("other", line)
    faults.raise_first()
    return known


def _files(path: Path, folder: Path, records: list[Entry]) -> dict[int, str]:
    """Where the images are, by their ids."""
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"image folder {folder} {fault}; {path} names its images relative to it")
    finder, faults = FileFinder(folder), Faults(path)
    files: dict[int, str] = {}
    owners: dict[str, int] = {}
    searched = False
    for record in records:
        image_id, name = record["id"], record["file_name"].replace("\\", "/")
        file = finder.find(name)
        if file is None:
            line = f"file {folder / name.lstrip('/')} of image {image_id} does not exist"
            # searched once, as it is slow
            if not searched and (other := finder.elsewhere(name)):
                line += f"; one of that name lies in {other}, which may be the folder to give"
            searched = True
            faults.add("file", line)
        elif file in owners:
            faults.add("shared", f"images {owners[file]} and {image_id} are both the file {folder / file}")
        else:
            files[image_id] = file
            owners[file] = image_id
    faults.raise_first()
    return files


def _add_annotations(
    path: Path, annotations: list[Any], images: dict[int, ImageRecord], image_ids: set[int], category_ids: set[int]
) -> list[str]:
    """Add each annotation to its image, if that is among ``images``, which are kept; return a line for each degenerate
    one. The file may refer to all of ``image_ids`` and ``category_ids``."""
    known: set[int] = set()
    lines: list[str] = []
    faults = Faults(path)
    for position, given in enumerate(annotations):
        annotation_id = whole(given.get("id")) if isinstance(given, dict) else None
        if annotation_id is None:
            faults.add("id", f"entry {position} of 'annotations' is no object with a whole number as 'id'")
            continue
        if annotation_id in known:
            faults.add("twice", f"annotation id {annotation_id} is there twice; ids must differ")
            continue
        known.add(annotation_id)
        image_id, category_id = whole(given.get("image_id")), whole(given.get("category_id"))
        name = f"annotation {annotation_id}"
        if image_id not in image_ids or image_id is None:
            faults.add("image", f"{name} is of image {short(given.get('image_id'))}, which is not in 'images'")
            continue
        if category_id not in category_ids:
            line = f"{name} is of category {short(given.get('category_id'))}, which is not in 'categories'"
            faults.add("category", line)
            continue
        if given.get("iscrowd") not in (0, 1, None):
            faults.add("iscrowd", f"{name} has iscrowd {short(given['iscrowd'])}; it must be 0 or 1")
            continue
        image = images.get(image_id)
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
            faults.add("rle", f"{name} of image {image_id}: {error}")
            continue
        if fault is None or fault.scorable:
            image.annotations.append(annotation)
        if fault is not None:
            image.unfit.add(annotation_id)
            lines.append(f"{name} of image {image_id}: {fault.reason}")
    faults.raise_first()
    return lines

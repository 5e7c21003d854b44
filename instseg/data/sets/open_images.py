"""Open Images segmentations in the folders that the ``openimages`` downloader writes.

``CLASS/images/ID.jpg`` and ``CLASS/segmentations/ID_MID_BOX.png``, a mask an instance, of a size of its own. Source:
R. Benenson, S. Popov and V. Ferrari, "Large-scale interactive object segmentation with human annotators", CVPR 2019;
https://storage.googleapis.com/openimages/web.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from instseg.data.annotated import AnnotatedImages, Contents, ImageRecord
from instseg.data.annotations.coco_shapes import mask_annotation
from instseg.data.annotations.faults import Faults, Invalid, drops, skipped
from instseg.data.annotations.headers import check_headers
from instseg.data.folders import find_root
from instseg.data.images import SUFFIXES, read_label_map
from instseg.data.split import FoldSplit, check_split
from instseg.errors import DataError, UserError, unknown_name
from instseg.progress import bar

_LAYOUT = "CLASS/images/ID.jpg and CLASS/segmentations/ID_MID_BOX.png are expected, as the openimages downloader writes"
_READERS = 8
_OTHER_SHAPE = 0.05  # of the width; differences by rounding are far smaller


class OpenImages(AnnotatedImages):
    """Open Images, one split of one fold.

    Every folder of a class is a category. An image in the folders of several classes is one image with the
    instances of all. Images without a mask file are left out with a line each: in Open Images a missing mask says
    nothing about what is in the image, as not every box was segmented. Masks are resized to their image by nearest
    neighbour. Ids are positions in the order of all names, from 1. Masks that cannot be instances (``invalid``) are
    empty ones, those without an image and those of another shape.

    Args:
        classes: the folders to use; None: every one that has both subfolders.
    """

    def __init__(
        self,
        split: str,
        *,
        root: Path | None,
        fold: int = 0,
        images: int | None = None,
        classes: Sequence[str] | None = None,
        folds: int = 5,
        split_seed: int = 0,
        invalid: Invalid = "drop",
    ) -> None:
        part, drop = FoldSplit(split, fold, folds, split_seed), drops(invalid)
        check_split(split, images)
        if root is None:
            raise DataError(f"no data_root is given for Open Images: {_LAYOUT}")
        folder = find_root(root, "open_images", ["*/segmentations"], _LAYOUT)
        names = _class_names(folder, classes)
        files = _list_files(folder, names)
        chosen = part.choose({image: names[masks[0][0] - 1] for image, masks in files.masks.items()}, folder)
        ids = {image: i for i, image in enumerate(sorted(files.images), start=1)}
        records = [
            ImageRecord({"id": ids[image], "file_name": files.images[image]}, [], set(), files.images[image])
            for image in sorted(chosen)[:images]
        ]
        check_headers(folder, folder, records, every=True)
        unusable = _add_masks(folder, records, files)
        # what belongs to no split is listed with the training split
        if split == "train":
            unusable = files.unpaired + unusable
        lines = skipped(folder, unusable, what="mask", drop=drop)
        if split == "train":
            lines = lines + files.bare
        categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
        super().__init__(Contents(categories, records, lines), folder, name="open_images", source=folder)


class _Files(NamedTuple):
    """The files in the folders of the classes."""

    images: dict[str, str]  # name of an image -> its file, relative to the data set's folder
    masks: dict[str, list[tuple[int, Path]]]  # name of an image that has some -> (category id, file) of each
    unpaired: list[str]  # a line for each mask without an image
    bare: list[str]  # a line for each image without a mask


def _class_names(folder: Path, classes: Sequence[str] | None) -> list[str]:
    """The names of the classes to use, sorted."""
    known = sorted(path.parent.name for path in folder.glob("*/segmentations") if (path.parent / "images").is_dir())
    if not known:
        raise DataError(f"{folder} holds no Open Images: {_LAYOUT}")
    if classes is None:
        return known
    if isinstance(classes, str) or not classes or not all(isinstance(name, str) for name in classes):
        raise UserError(f"dataset.options.classes={classes}: a list of folders in {folder}, or null for all")
    for name in classes:
        if name not in known:
            raise unknown_name(f"class in {folder}", name, known)
    return sorted(set(classes))


def _list_files(folder: Path, classes: list[str]) -> _Files:
    files = _Files({}, {}, [], [])
    faults = Faults(folder)
    for name in classes:
        for path in _images_in(folder / name / "images"):
            file = f"{name}/images/{path.name}"
            first = files.images.setdefault(path.stem, file)
            if first != file and first.startswith(f"{name}/"):
                faults.add("twice", f"{first} and {path.name} are both image {path.stem}")
    faults.raise_first()
    if not files.images:
        raise DataError(f"{folder} holds no image in {classes[0]}/images; {_LAYOUT}")
    for category, name in enumerate(classes, start=1):
        for path in _images_in(folder / name / "segmentations"):
            file, parts = f"{name}/segmentations/{path.name}", path.stem.rsplit("_", 2)
            if len(parts) < 3:
                files.unpaired.append(f"mask {file} is not named ID_MID_BOX")
            elif parts[0] not in files.images:
                files.unpaired.append(f"mask {file} has no image {parts[0]}")
            else:
                files.masks.setdefault(parts[0], []).append((category, path))
    files.bare.extend(f"image {file} has no mask" for name, file in files.images.items() if name not in files.masks)
    return files


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _add_masks(folder: Path, images: list[ImageRecord], files: _Files) -> list[str]:
    """Add each mask to its image as a COCO annotation; return a line for each that cannot be an instance."""
    todo = [(image, *mask) for image in images for mask in files.masks[Path(image.file).stem]]
    faults = Faults(folder)
    lines = []
    with ThreadPoolExecutor(_READERS) as pool:
        rles = bar(iterable=pool.map(_read, todo), total=len(todo), desc="masks")
        for number, ((image, category, path), rle) in enumerate(zip(todo, rles, strict=True), start=1):
            if isinstance(rle, DataError):
                faults.add("damaged", str(rle))
            elif isinstance(rle, str):
                lines.append(f"mask {path.relative_to(folder).as_posix()}: {rle}")
            else:
                image.annotations.append(mask_annotation(rle, number, image.record["id"], category))
    faults.raise_first()
    return lines


def _read(mask: tuple[ImageRecord, int, Path]) -> dict[str, Any] | str | DataError:
    """A mask resized to its image as RLE, or why it cannot be an instance, or what is wrong with the file."""
    image, _, path = mask
    height, width = image.record["height"], image.record["width"]
    try:
        foreground = read_label_map(path) > 0
    except DataError as error:
        return error
    rows, columns = foreground.shape
    if not foreground.any():
        return "it is empty"
    if abs(columns * height / rows - width) > max(2, _OTHER_SHAPE * width):
        return f"it is {columns} x {rows} pixels, its image {width} x {height}, which is another shape"
    resized = Image.fromarray(foreground.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    rle = coco_mask.encode(np.asfortranarray(resized))
    return rle if coco_mask.area(rle) else f"nothing is left of it in its image's {width} x {height} pixels"

"""One's own images with a COCO-style annotation file, as Label Studio, CVAT and Roboflow export it.

The format is that of https://cocodataset.org/#format-data.
"""

from collections.abc import Mapping
from pathlib import Path

from instseg.data.annotations.coco_file import read_categories
from instseg.data.annotations.faults import Invalid
from instseg.data.sets.coco import CocoDataset
from instseg.data.split import FoldSplit, check_split
from instseg.errors import UserError

FILES = ("annotations", "images", "val_annotations", "val_images")


def coco_json(
    split: str,
    files: Mapping[str, Path],
    *,
    fold: int = 0,
    limit: int | None = None,
    folds: int = 5,
    split_seed: int = 0,
    invalid: Invalid = "drop",
) -> CocoDataset:
    """A split of a COCO-style file, or one of two files.

    Without ``val_annotations`` the images are dealt out to folds (see :class:`instseg.data.split.FoldSplit`). With
    it, that file is the validation split as a whole; its categories must be among those of the other.

    Args:
        split: ``"train"`` or ``"val"``.
        files: ``annotations``, and where they are: ``images``, by default the folder of ``annotations``;
            ``val_annotations``; and ``val_images``, by default ``images`` if given, else the folder of
            ``val_annotations``.
        fold: which fold is held out, where there is no ``val_annotations``.
        limit: keep only the first so many images of the split, by id.
        folds: how many there are.
        split_seed: of the order in which images are dealt out.
        invalid: see :class:`instseg.data.sets.coco.CocoDataset`.

    Raises:
        UserError: ``annotations`` is not given, or an argument has no such value.
        DataError: a file is missing or cannot be used, in one line with the file and the id.
    """
    check_split(split)
    if "annotations" not in files:
        raise UserError(
            "dataset coco_json needs dataset.annotations=FILE.json, and dataset.images=FOLDER unless the images "
            "lie beside that file"
        )
    annotations, held_out = files["annotations"], files.get("val_annotations")
    images = files.get("images", annotations.parent)
    if held_out is None:
        if "val_images" in files:
            raise UserError(f"dataset.val_images={files['val_images']} is of no use without dataset.val_annotations")
        part = FoldSplit(split, fold, folds, split_seed)
        return _dataset(annotations, images, invalid=invalid, limit=limit, part=part)
    if fold != 0:
        raise UserError(f"dataset.fold={fold}: with dataset.val_annotations there is fold 0 alone")
    if split == "train":
        return _dataset(annotations, images, invalid=invalid, limit=limit)
    folder = files.get("val_images") or files.get("images", held_out.parent)
    return _dataset(held_out, folder, invalid=invalid, limit=limit, categories=read_categories(annotations))


def _dataset(annotations: Path, images: Path, **options: object) -> CocoDataset:
    return CocoDataset(annotations, images, name="coco_json", headers=True, **options)  # type: ignore[arg-type]

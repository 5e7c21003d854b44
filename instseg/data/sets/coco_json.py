"""Images of one's own with a COCO-style annotation file, as Label Studio, CVAT and Roboflow export it.

The format is that of https://cocodataset.org/#format-data.
"""

from collections.abc import Mapping
from pathlib import Path

from instseg.data.annotated import AnnotatedImages
from instseg.data.annotations.coco_file import read_categories, read_coco
from instseg.data.annotations.faults import Invalid
from instseg.data.split import FoldSplit, check_split
from instseg.errors import UserError


class CocoJson(AnnotatedImages):
    """A split of a COCO-style file, or one of two files.

    Without ``val_annotations`` the images are dealt out to folds (see :class:`instseg.data.split.FoldSplit`). With
    it, that file is the validation split as a whole; its categories must be among those of the other.

    ``files`` has ``annotations``, and where they are: ``images``, by default the folder of ``annotations``;
    ``val_annotations``; and ``val_images``, by default ``images`` if given, else the folder of ``val_annotations``.
    """

    FILES = ("annotations", "images", "val_annotations", "val_images")

    def __init__(
        self,
        split: str,
        *,
        files: Mapping[str, Path],
        fold: int = 0,
        images: int | None = None,
        folds: int = 5,
        split_seed: int = 0,
        invalid: Invalid = "drop",
    ) -> None:
        check_split(split, images)
        if "annotations" not in files:
            raise UserError(
                "dataset coco_json needs dataset.annotations=FILE.json, and dataset.images=FOLDER unless the images "
                "lie beside that file"
            )
        source, val_source = files["annotations"], files.get("val_annotations")
        folder = files.get("images", source.parent)
        part = categories = None
        if val_source is None:
            if "val_images" in files:
                raise UserError(
                    f"dataset.val_images={files['val_images']} is of no use without dataset.val_annotations"
                )
            part = FoldSplit(split, fold, folds, split_seed)
        elif fold != 0:
            raise UserError(f"dataset.fold={fold}: with dataset.val_annotations there is fold 0 alone")
        elif split == "val":
            categories = read_categories(source)
            source, folder = val_source, files.get("val_images") or files.get("images", val_source.parent)
        contents = read_coco(
            source, folder, invalid=invalid, limit=images, part=part, headers=True, categories=categories
        )
        super().__init__(contents, folder, name="coco_json", source=source)

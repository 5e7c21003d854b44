"""COCO instance annotations over a folder of images: COCO 2017 itself, or any export in its format.

Source: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org.
"""

from pathlib import Path
from typing import Any

from instseg.data.annotated import AnnotatedImages
from instseg.data.annotations.coco_file import read_coco
from instseg.data.annotations.faults import Invalid, drops
from instseg.data.split import FoldSplit, check_split
from instseg.errors import DataError, UserError


class CocoDataset(AnnotatedImages):
    """Images with instances from a COCO annotation file.

    Images are in the order of their ids; those without annotations are kept. Crowd regions are instances
    with ``iscrowd`` 1. The file is checked as a whole when the data set is made, so that nothing but a damaged
    image can stop a run later.

    An instance is degenerate where its box or a polygon is malformed, has no area or lies outside the
    image, where it has no segmentation, or where its mask covers no pixel. A box that is missing is the
    mask's. With ``invalid="drop"`` such instances are left out of the targets, with a line for each in
    ``skipped``; ``ground_truth()`` keeps those that pycocotools can score against, so that scores stay COCO's.
    Everything else that is wrong with the file is an error.

    Args:
        annotations: the JSON file.
        images: the folder that its file names refer to.
        name: short name for messages and result files.
        invalid: what to do about degenerate instances.
        limit: keep only the first so many images, by id; files and shapes of the others are not checked.
        part: keep only this part of the images, before ``limit``; None: all.
        headers: see at once, by their headers, whether the images can be read and are as large as the file says.
        categories: those of the data set, where it has more files than one; the file must use no others.

    Raises:
        UserError: ``invalid`` or ``limit`` has no such value.
        DataError: a file is missing or cannot be used, in one line with the file and the id.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        name: str = "coco",
        invalid: Invalid = "error",
        limit: int | None = None,
        part: FoldSplit | None = None,
        headers: bool = False,
        categories: list[dict[str, Any]] | None = None,
    ) -> None:
        drop = drops(invalid)
        if limit is not None and limit < 1:
            raise UserError(f"limit={limit}: at least 1 image must be kept")
        annotations, images = Path(annotations), Path(images)
        contents = read_coco(
            annotations, images, drop_invalid=drop, limit=limit, part=part, headers=headers, categories=categories
        )
        super().__init__(contents, images, name=name, source=annotations)


def coco2017(split: str, *, root: Path, invalid: Invalid = "error", limit: int | None = None) -> CocoDataset:
    """COCO 2017 as its archives unpack: ``annotations/instances_{split}2017.json`` and ``{split}2017/``.

    Args:
        split: ``"train"`` (118,287 images) or ``"val"`` (5,000).
        root: the folder ``coco`` or the one that holds it.
        invalid: see :class:`CocoDataset`.
        limit: see :class:`CocoDataset`.

    Raises:
        UserError: no such split.
        DataError: the folder or a file is missing, or see :class:`CocoDataset`.
    """
    check_split(split)
    layout = (
        f"the root must hold annotations/instances_{split}2017.json and {split}2017/, or a folder coco with them; "
        "python -m experiments.data dataset=coco download=true fetches COCO 2017, 19 GB, from "
        "https://cocodataset.org/#download"
    )
    folder = Path(root) / "coco" if (Path(root) / "coco").is_dir() else Path(root)
    annotations, images = folder / "annotations" / f"instances_{split}2017.json", folder / f"{split}2017"
    for path in (annotations, images):
        if not path.exists():
            raise DataError(f"{path} does not exist: {layout}")
    return CocoDataset(annotations, images, name="coco", invalid=invalid, limit=limit)

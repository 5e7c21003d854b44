"""Nuclei in microscopy: images of the Data Science Bowl 2018 with a mask for every nucleus, in folds.

Source: J. C. Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl", Nature
Methods 16, 2019; https://bbbc.broadinstitute.org/BBBC038 (CC0).
"""

from pathlib import Path

from instseg.data.annotated import AnnotatedImages
from instseg.data.annotations.coco_file import read_coco
from instseg.data.folders import find_root
from instseg.data.split import FoldSplit, check_split
from instseg.errors import DataError

FOLDER, ANNOTATIONS, IMAGES = "dsb2018", "annotations.json", "images"
_LAYOUT = (
    f"{FOLDER}/ with {IMAGES}/ and {ANNOTATIONS} is expected: images of stage 1 and one COCO annotation file of their "
    "masks"
)


class Nuclei(AnnotatedImages):
    """A split of the images in ``dsb2018/images`` with the nuclei of ``dsb2018/annotations.json``, a COCO annotation
    file, which are dealt out to folds; see :class:`instseg.data.split.FoldSplit`."""

    def __init__(
        self,
        split: str,
        *,
        root: Path | None,
        fold: int = 0,
        images: int | None = None,
        folds: int = 5,
        split_seed: int = 0,
    ) -> None:
        check_split(split, images)
        if root is None:
            raise DataError(f"no data_root is given for the nuclei: {_LAYOUT}")
        folder = find_root(root, FOLDER, (IMAGES, ANNOTATIONS), _LAYOUT)
        source, part = folder / ANNOTATIONS, FoldSplit(split, fold, folds, split_seed)
        contents = read_coco(source, folder / IMAGES, limit=images, part=part, headers=True)
        super().__init__(contents, folder / IMAGES, name="nuclei", source=source)

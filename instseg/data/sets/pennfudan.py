"""Penn-Fudan pedestrians: 170 street images with 423 pedestrians, in five folds.

Source: L. Wang, J. Shi, G. Song and I. Shen, "Object Detection Combining Recognition and Segmentation",
ACCV 2007; https://www.cis.upenn.edu/~jshi/ped_html/. The images may not be reposted, so they are fetched from
there.
"""

import hashlib
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from torchvision import tv_tensors

from instseg.data.annotated import AnnotatedImages, Contents, ImageRecord
from instseg.data.annotations.coco_shapes import mask_annotation
from instseg.data.annotations.faults import Faults
from instseg.data.archives.fetch import Archive, Source
from instseg.data.dataset import Sample
from instseg.data.folders import find_root
from instseg.data.images import image_size, read_label_map
from instseg.data.split import check_split
from instseg.errors import DataError, UserError

FOLDS = 5
# The publisher gives no checksum. Several independent public projects record this one with this size, e.g.
# SurveilX's scripts/acquire_dataset.py (EXPECTED_SHA256) and its notes on detection data sets.
_SHA256 = "9095a9613c95586f1c7f2a327d454833d16e0f5e17e5f83d35027ffd315b48e2"
URL = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"
_LAYOUT = (
    f"PennFudanPed/ with PNGImages/ and PedMasks/ is expected, as {URL} unpacks; "
    "python -m experiments.data dataset=pennfudan download=true fetches it"
)


class PennFudan(AnnotatedImages):
    """Penn-Fudan, one split of one fold.

    Image ``i`` (from 0, in the sorted order of all file names) is held out in fold ``i mod 5``. ``image_ids`` are the
    1-based positions in that order, so they are the same in every fold. Annotation ``100000 * image_id + k`` is an
    image's ``k``-th pedestrian.
    """

    SOURCE = Source(
        "PennFudanPed",
        ("PNGImages", "PedMasks"),
        (Archive(URL, "PennFudanPed", size=53_723_336, unpacked=54_000_000, sha256=_SHA256),),
        automatic=True,
    )

    def __init__(self, split: str, *, root: Path, fold: int = 0, images: int | None = None) -> None:
        check_split(split, images)
        if fold not in range(FOLDS):
            raise UserError(f"dataset.fold={fold}: pennfudan has folds 0 to {FOLDS - 1}")
        folder = find_root(root, self.SOURCE.folder, self.SOURCE.parts, _LAYOUT)
        stems = _checked_stems(folder)
        chosen = [i for i in range(len(stems)) if (i % FOLDS == fold) == (split == "val")][:images]
        if not chosen:
            raise DataError(
                f"{folder / 'PNGImages'} holds {len(stems)} image(s): none is left for split {split} of fold {fold}"
            )
        faults = Faults(folder)
        records = []
        for i in chosen:
            try:
                records.append(_read(folder, stems[i], i + 1))
            except DataError as error:
                faults.add("damaged", str(error))
        faults.raise_first()
        contents = Contents([{"id": 1, "name": "pedestrian"}], records, [])
        super().__init__(contents, folder, name="pennfudan", source=folder)

    def __getitem__(self, index: int) -> Sample:
        image, target = super().__getitem__(index)
        # not channels last as in other data sets: sums over pixels, as in photometric distortion, round by the strides,
        # and results of record were made with these
        return tv_tensors.Image(image.contiguous()), target

    def fingerprint(self) -> str:
        images = [Path(self.describe(i)) for i in range(len(self))]
        files = images + [_mask_of(path) for path in images]
        return hashlib.sha256(repr([(f.name, f.stat().st_size) for f in files]).encode()).hexdigest()[:16]


def _read(folder: Path, stem: str, image_id: int) -> ImageRecord:
    """An image with its pedestrians, from its map of their numbers."""
    file = f"PNGImages/{stem}.png"
    labels = read_label_map(_mask_of(folder / file))
    numbers = np.unique(labels)
    masks = labels[:, :, None] == numbers[numbers > 0]
    annotations = [
        mask_annotation(rle, 100_000 * image_id + k, image_id, category_id=1)
        for k, rle in enumerate(coco_mask.encode(np.asfortranarray(masks, dtype=np.uint8)), start=1)
    ]
    height, width = labels.shape
    return ImageRecord({"id": image_id, "file_name": file, "height": height, "width": width}, annotations, set(), file)


def _mask_of(image: Path) -> Path:
    return image.parents[1] / "PedMasks" / f"{image.stem}_mask.png"


def _checked_stems(folder: Path) -> list[str]:
    """The sorted names of all images, each known to have a mask of its size."""
    images, masks = folder / "PNGImages", folder / "PedMasks"
    for path in (images, masks):
        if not path.is_dir():
            raise DataError(f"Penn-Fudan folder {path} does not exist; {_LAYOUT}")
    names = sorted(path.name for path in images.glob("*.png") if not path.name.startswith("."))
    stems = [name.removesuffix(".png") for name in names]
    masked = {path.stem for path in masks.glob("*.png") if not path.name.startswith(".")}
    if not stems:
        raise DataError(f"{images} holds no PNG image; {_LAYOUT}")
    expected = {f"{stem}_mask" for stem in stems}
    if missing := sorted(expected - masked):
        raise DataError(f"mask {masks / missing[0]}.png does not exist, its image does ({len(missing)} such image(s))")
    if extra := sorted(masked - expected):
        image = images / extra[0].removesuffix("_mask")
        raise DataError(f"{masks / extra[0]}.png has no image {image}.png ({len(extra)} such mask(s))")
    for image in (images / name for name in names):
        if (size := image_size(image)) != (mask_size := image_size(_mask_of(image))):
            raise DataError(
                f"mask {_mask_of(image)} is {mask_size[1]} x {mask_size[0]} pixels, its image {size[1]} x {size[0]}; "
                "they must be of one size"
            )
    return stems

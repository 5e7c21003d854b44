"""Penn-Fudan pedestrians: 170 street images with 423 pedestrians, in five folds.

Source: L. Wang, J. Shi, G. Song and I. Shen, "Object Detection Combining Recognition and Segmentation",
ACCV 2007; https://www.cis.upenn.edu/~jshi/ped_html/. The images may not be reposted, so they are fetched from
there.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision import tv_tensors

from instseg.data.archives.download import DEFAULT_DIR, download, unpack_zip
from instseg.data.dataset import InstanceDataset, Sample, make_target
from instseg.data.images import image_size, read_image, read_label_map
from instseg.errors import DataError, UserError, unknown_name

FOLDS = 5
FOLDER = "PennFudanPed"
URL = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"
SIZE = 53_723_336
# The publisher gives no checksum. Several independent public projects record this one with this size, e.g.
# SurveilX's scripts/acquire_dataset.py (EXPECTED_SHA256) and its notes on detection data sets.
SHA256 = "9095a9613c95586f1c7f2a327d454833d16e0f5e17e5f83d35027ffd315b48e2"

_LAYOUT = f"{FOLDER}/ with PNGImages/ and PedMasks/ is expected, as {URL} unpacks"


class PennFudan(InstanceDataset):
    """Penn-Fudan, one split of one fold.

    Image ``i`` (from 0, in the sorted order of all file names) is held out in fold ``i mod 5``.
    ``image_ids`` are the 1-based positions in that order, so they are the same in every fold.

    Args:
        split: ``"train"``, or ``"val"`` for the images held out.
        root: the folder ``PennFudanPed`` or the one that holds it; None downloads it (51 MiB).
        fold: 0 to 4.
        images: keep only the first so many images of the split.
        download_dir: where ``PennFudanPed`` is looked for, and downloaded to, when ``root`` is None.

    Raises:
        UserError: no such split or fold, or ``images`` is below 1.
        DataError: the folder or a file is missing, an image and its mask differ in size, or the download
            failed.
    """

    def __init__(
        self,
        split: str,
        *,
        root: Path | None,
        fold: int = 0,
        images: int | None = None,
        download_dir: Path = Path(DEFAULT_DIR),
    ) -> None:
        if split not in ("train", "val"):
            raise unknown_name("split", split, ("train", "val"))
        if fold not in range(FOLDS):
            raise UserError(f"fold {fold} does not exist: Penn-Fudan has folds 0 to {FOLDS - 1}")
        if images is not None and images < 1:
            raise UserError(f"images={images}: at least 1 image must be kept")
        self.name = "pennfudan"
        self.categories = [{"id": 1, "name": "pedestrian"}]
        self.skipped = []
        self._folder = _fetched(Path(download_dir)) if root is None else _found(Path(root))
        stems = _checked_stems(self._folder)
        chosen = [i for i in range(len(stems)) if (i % FOLDS == fold) == (split == "val")][:images]
        if not chosen:
            raise DataError(
                f"{self._folder / 'PNGImages'} holds {len(stems)} image(s): none is left for split {split} "
                f"of fold {fold}"
            )
        self.image_ids = [i + 1 for i in chosen]
        self._stems = [stems[i] for i in chosen]

    def __getitem__(self, index: int) -> Sample:
        pixels = torch.from_numpy(read_image(self._image(index))).permute(2, 0, 1).contiguous()
        masks, boxes = self._instances(index)
        labels = torch.ones(len(masks), dtype=torch.int64)
        target = make_target(torch.from_numpy(boxes), labels, torch.from_numpy(masks), self.image_ids[index])
        return tv_tensors.Image(pixels), target

    def ground_truth(self) -> dict[str, Any]:
        """COCO's annotation dict; annotation ``100000 * image_id + k`` is an image's ``k``-th pedestrian."""
        images, annotations = [], []
        for index, image_id in enumerate(self.image_ids):
            masks, boxes = self._instances(index)
            height, width = masks.shape[1:]
            file_name = f"PNGImages/{self._stems[index]}.png"
            images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
            rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
            for number, (rle, box) in enumerate(zip(rles, boxes.tolist(), strict=True), start=1):
                x1, y1, x2, y2 = box
                annotations.append(
                    {
                        "id": 100_000 * image_id + number,
                        "image_id": image_id,
                        "category_id": 1,
                        "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": int(coco_mask.area(rle)),
                        "iscrowd": 0,
                    }
                )
        return {
            "images": images,
            "annotations": annotations,
            "categories": [dict(c) for c in self.categories],
        }

    def fingerprint(self) -> str:
        files = [self._image(i) for i in range(len(self))]
        files += [self._folder / "PedMasks" / f"{stem}_mask.png" for stem in self._stems]
        return hashlib.sha256(repr([(f.name, f.stat().st_size) for f in files]).encode()).hexdigest()[:16]

    def describe(self, index: int) -> str:
        return str(self._image(index))

    def _image(self, index: int) -> Path:
        return self._folder / "PNGImages" / f"{self._stems[index]}.png"

    def _instances(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks (N, H, W) uint8 and tight boxes (N, 4) xyxy float32, where x2 is the last column + 1."""
        labels = read_label_map(self._folder / "PedMasks" / f"{self._stems[index]}_mask.png")
        ids = np.unique(labels)
        masks = labels[None] == ids[ids > 0][:, None, None]
        boxes = np.zeros((len(masks), 4), dtype=np.float32)
        for box, mask in zip(boxes, masks, strict=True):
            columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return masks.astype(np.uint8), boxes


def _fetched(download_dir: Path) -> Path:
    """The folder ``PennFudanPed`` in ``download_dir``, downloaded if it is not there."""
    folder = download_dir / FOLDER
    if not folder.exists():
        archive = download(URL, download_dir / f"{FOLDER}.zip", sha256=SHA256, size=SIZE)
        unpack_zip(archive, download_dir, top=FOLDER)
    return folder


def _found(root: Path) -> Path:
    """The folder that holds the two folders of images."""
    if not root.is_dir():
        raise DataError(f"Penn-Fudan folder {root} does not exist; {_LAYOUT}")
    for folder in (root / FOLDER, root):
        if folder.name == FOLDER and folder.is_dir():
            return folder
        if (folder / "PNGImages").is_dir() or (folder / "PedMasks").is_dir():
            return folder
    raise DataError(f"{root} holds no Penn-Fudan: {_LAYOUT}")


def _checked_stems(folder: Path) -> list[str]:
    """The sorted names of all images, each known to have a mask of its size."""
    images, masks = folder / "PNGImages", folder / "PedMasks"
    for part in (images, masks):
        if not part.is_dir():
            raise DataError(f"Penn-Fudan folder {part} does not exist; {_LAYOUT}")
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
    for stem in stems:
        image, mask = images / f"{stem}.png", masks / f"{stem}_mask.png"
        if (size := image_size(image)) != (mask_size := image_size(mask)):
            raise DataError(
                f"mask {mask} is {mask_size[1]} x {mask_size[0]} pixels, its image {size[1]} x {size[0]}; "
                "they must be of one size"
            )
    return stems

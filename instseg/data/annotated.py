"""Images in files with instances in COCO's form, whatever format their annotations were read from."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision import tv_tensors

from instseg.data.annotations.coco_shapes import clipped_box, to_rle
from instseg.data.dataset import InstanceDataset, Sample, make_target
from instseg.data.images import read_image
from instseg.errors import DataError

ORIENTATION = "exif_orientation"
"""Key in an image's record: its EXIF orientation, by which it is turned when it is read; absent: as it is stored."""


class ImageRecord(NamedTuple):
    """An image and its annotations."""

    record: dict[str, Any]  # its entry in COCO's ``images``: ``id, file_name, height, width``, and what else is known
    annotations: list[dict[str, Any]]  # its entries in COCO's ``annotations``, less those nothing can be scored against
    unfit: set[int]  # ids of annotations that cannot be instances of a target, as they are degenerate
    file: str  # its path relative to the data set's folder, with forward slashes


class Contents(NamedTuple):
    """Checked annotations: categories and images sorted by id, and a line for each image or annotation left out."""

    categories: list[dict[str, Any]]
    images: list[ImageRecord]
    skipped: list[str]


class AnnotatedImages(InstanceDataset):
    """Images in a folder with checked annotations.

    Images are in the order of their ids; those without annotations are kept. Crowd regions are instances
    with ``iscrowd`` 1.

    Args:
        contents: as a reader of annotations returns them (:mod:`instseg.data.annotations`).
        folder: the images' files are relative to it.
        name: of the data set.
        source: the file or folder that the annotations are from, for messages.
    """

    def __init__(self, contents: Contents, folder: Path, *, name: str, source: Path) -> None:
        self.name = name
        self._folder, self._source = folder, source
        self._categories = contents.categories
        self.categories = [{"id": c["id"], "name": c["name"]} for c in contents.categories]
        self.skipped = contents.skipped
        self.image_ids = [image.record["id"] for image in contents.images]
        self._files = [image.file for image in contents.images]
        self._sizes = [(image.record["height"], image.record["width"]) for image in contents.images]
        self._labels = {category["id"]: label for label, category in enumerate(self.categories, start=1)}
        # One block of bytes: of millions of objects a forked worker would copy every page that it counts references on
        packed = io.BytesIO()
        ends = []
        for image in contents.images:
            # without its file, so that moved images keep the fingerprint
            packed.write(pickle.dumps((image.record, image.annotations, image.unfit), protocol=5))
            ends.append(packed.tell())
        self._packed, self._ends = packed.getvalue(), np.array(ends)
        self._trainable = [
            i
            for i, image in enumerate(contents.images)
            if any(not a.get("iscrowd", 0) and a["id"] not in image.unfit for a in image.annotations)
        ]

    def __getitem__(self, index: int) -> Sample:
        record, annotations, unfit, _ = self._image(index)
        annotations = [a for a in annotations if a["id"] not in unfit]
        height, width = record["height"], record["width"]
        path = Path(self.describe(index))
        pixels = read_image(path, record.get(ORIENTATION, 1))
        if pixels.shape[:2] != (height, width):
            raise DataError(
                f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but {self._source} says "
                f"{width} x {height} for image {record['id']}"
            )
        masks = torch.zeros((0, height, width), dtype=torch.uint8)
        if annotations:
            decoded = coco_mask.decode([to_rle(a["segmentation"], height, width) for a in annotations])
            masks = torch.from_numpy(decoded.transpose(2, 0, 1))
        target = make_target(
            torch.tensor([clipped_box(a["bbox"], height, width) for a in annotations], dtype=torch.float32),
            torch.tensor([self._labels[a["category_id"]] for a in annotations], dtype=torch.int64),
            masks,
            record["id"],
            torch.tensor([int(a.get("iscrowd", 0)) for a in annotations], dtype=torch.int64),
        )
        # channels last, which torchvision's v2 resizes in half the time, to the same values
        return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)), target

    def ground_truth(self) -> dict[str, Any]:
        """COCO's annotation dict of these images: the file's own entries, crowd regions included.

        Changes are those that pycocotools needs: uncompressed RLE is compressed (the same mask), a missing
        ``iscrowd`` is 0, a missing ``area`` is the mask's, and where the file counts annotations from 0, all ids are
        shifted to begin at 1 (``id_shift``), as pycocotools takes a match with id 0 for no match.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(len(self)):
            record, instances, *_ = self._image(index)
            images.append(record)
            annotations += [_scorable(a, record["height"], record["width"]) for a in instances]
        self.id_shift = max(0, 1 - min((a["id"] for a in annotations), default=1))
        if self.id_shift:
            for annotation in annotations:
                annotation["id"] += self.id_shift
        categories = [dict(category) for category in self._categories]
        return {"images": images, "annotations": annotations, "categories": categories}

    def fingerprint(self) -> str:
        return hashlib.sha256(self._packed + repr(self._categories).encode()).hexdigest()[:16]

    def trainable_indices(self) -> list[int]:
        return self._trainable

    def sizes(self) -> list[tuple[int, int]]:
        return self._sizes

    def describe(self, index: int) -> str:
        return str(self._folder / self._files[index])

    def _image(self, index: int) -> ImageRecord:
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        record, annotations, unfit = pickle.loads(self._packed[start : int(self._ends[index])])
        return ImageRecord(record, annotations, unfit, self._files[index])


def _scorable(annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """An annotation with all that pycocotools' evaluation reads."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        rle = to_rle(segmentation, height, width)
        annotation["segmentation"] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    annotation.setdefault("iscrowd", 0)
    area = annotation.get("area")
    if not isinstance(area, int | float) or isinstance(area, bool) or not 0 <= area <= height * width:
        annotation["area"] = int(coco_mask.area(to_rle(annotation["segmentation"], height, width)))
    return annotation

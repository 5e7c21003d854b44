"""COCO instance annotations over a folder of pictures: COCO 2017 itself, or any export in its format.

Source: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org.
"""

import hashlib
import io
import math
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision import tv_tensors

from instseg.data.coco_json import Picture, file_name, read_coco
from instseg.data.coco_shapes import clipped_box, to_rle
from instseg.data.dataset import InstanceDataset, Sample, make_target
from instseg.data.images import read_image
from instseg.errors import DataError, UserError, unknown_name

Invalid = Literal["error", "drop"]


class CocoDataset(InstanceDataset):
    """Pictures with instances from a COCO annotation file.

    Pictures are in the order of their ids; those without annotations are kept. Crowd regions are instances
    with ``iscrowd`` 1. The file is checked as a whole when the data set is made, so that nothing but a damaged
    picture can stop a run later.

    An instance is degenerate where its box or a polygon is malformed, has no area or lies outside the
    picture, where it has no segmentation, or where its mask covers no pixel. With ``invalid="drop"`` such
    instances are left out of the targets, with a line for each in ``left_out``; ``ground_truth()`` keeps those
    that pycocotools can score against, so that scores stay COCO's. Everything else that is wrong with the file
    is an error.

    Args:
        annotations: the JSON file.
        images: the folder that its file names refer to.
        name: short name for messages and result files.
        invalid: what to do about degenerate instances.
        limit: keep only the first so many pictures, by id; files and shapes of the others are not checked.

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
    ) -> None:
        if invalid not in ("error", "drop"):
            raise unknown_name("value of invalid", str(invalid), ("error", "drop"))
        if limit is not None and limit < 1:
            raise UserError(f"limit={limit}: at least 1 picture must be kept")
        self.name = name
        self._annotations, self._images = Path(annotations), Path(images)
        contents = read_coco(self._annotations, self._images, drop_invalid=invalid == "drop", limit=limit)
        self._categories = contents.categories
        self.categories = [{"id": c["id"], "name": c["name"]} for c in contents.categories]
        self.left_out = contents.left_out
        self.image_ids = [picture.record["id"] for picture in contents.pictures]
        self._sizes = [(picture.record["height"], picture.record["width"]) for picture in contents.pictures]
        self._labels = {category["id"]: label for label, category in enumerate(self.categories, start=1)}
        # One block of bytes instead of millions of objects, which forked workers would copy by counting references.
        packed = io.BytesIO()
        ends = []
        for picture in contents.pictures:
            packed.write(pickle.dumps(tuple(picture), protocol=5))
            ends.append(packed.tell())
        self._packed, self._ends = packed.getvalue(), np.array(ends)
        self._learnable = [
            i
            for i, (_, annotations, unfit) in enumerate(contents.pictures)
            if any(not a.get("iscrowd", 0) and a["id"] not in unfit for a in annotations)
        ]

    def __getitem__(self, index: int) -> Sample:
        record, annotations, unfit = self._picture(index)
        annotations = [a for a in annotations if a["id"] not in unfit]
        height, width = record["height"], record["width"]
        path = self._path(record)
        pixels = read_image(path)
        if pixels.shape[:2] != (height, width):
            raise DataError(
                f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but {self._annotations} says "
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
        # left channels last, which v2 resizes in half the time, to the same values
        return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)), target

    def ground_truth(self) -> dict[str, Any]:
        """COCO's annotation dict of these pictures: the file's own entries, crowd regions included.

        Changed is only what pycocotools cannot do without: uncompressed RLE is compressed (the same mask), a
        missing ``iscrowd`` is 0, a missing ``area`` is the mask's, and where the file counts annotations from
        0, all their ids are shifted to begin at 1, as pycocotools takes a match with id 0 for none.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(len(self)):
            record, instances, _ = self._picture(index)
            images.append(record)
            annotations += [_scorable(a, record["height"], record["width"]) for a in instances]
        self.id_shift = max(0, 1 - min((a["id"] for a in annotations), default=1))
        if self.id_shift:
            for annotation in annotations:
                annotation["id"] += self.id_shift
        return {
            "images": images,
            "annotations": annotations,
            "categories": [dict(category) for category in self._categories],
        }

    def fingerprint(self) -> str:
        return hashlib.sha256(self._packed + repr(self._categories).encode()).hexdigest()[:16]

    def learnable(self) -> list[int]:
        return self._learnable

    def sizes(self) -> list[tuple[int, int]]:
        return self._sizes

    def describe(self, index: int) -> str:
        return str(self._path(self._picture(index).record))

    def _picture(self, index: int) -> Picture:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        start = int(self._ends[index - 1]) if index else 0
        return Picture(*pickle.loads(self._packed[start : int(self._ends[index])]))

    def _path(self, record: dict[str, Any]) -> Path:
        return self._images / file_name(record)


def coco2017(split: str, *, root: Path, invalid: Invalid = "error", limit: int | None = None) -> CocoDataset:
    """COCO 2017 as its archives unpack: ``annotations/instances_{split}2017.json`` and ``{split}2017/``.

    Args:
        split: ``"train"`` (118,287 pictures) or ``"val"`` (5,000).
        root: the folder ``coco`` or the one that holds it.
        invalid: see :class:`CocoDataset`.
        limit: see :class:`CocoDataset`.

    Raises:
        UserError: no such split.
        DataError: the folder or a file is missing, or see :class:`CocoDataset`.
    """
    if split not in ("train", "val"):
        raise unknown_name("split", split, ("train", "val"))
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


def _scorable(annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """An annotation with all that pycocotools' evaluation reads."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        rle = to_rle(segmentation, height, width)
        annotation["segmentation"] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    annotation.setdefault("iscrowd", 0)
    area = annotation.get("area")
    if not isinstance(area, int | float) or not math.isfinite(area):
        annotation["area"] = int(coco_mask.area(to_rle(annotation["segmentation"], height, width)))
    return annotation

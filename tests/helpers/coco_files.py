"""A small COCO file and its images, for the tests of the reader."""

import copy
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg.data.annotated import AnnotatedImages
from instseg.data.annotations.coco_file import read_coco

HEIGHT, WIDTH = 20, 30
SQUARE = [4.0, 5.0, 14.0, 5.0, 14.0, 15.0, 4.0, 15.0]
CROWD = {"size": [HEIGHT, WIDTH], "counts": [40, 20, 540]}


def document() -> dict[str, Any]:
    """Three images, the last without annotations; a polygon, a crowd region and another polygon."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH, "licence": 1} for i in (9, 7, 8)
        ],
        "annotations": [
            {
                "id": 11,
                "image_id": 7,
                "category_id": 5,
                "iscrowd": 0,
                "area": 99.5,
                "bbox": [4.0, 5.0, 10.0, 10.0],
                "segmentation": [SQUARE],
            },
            {
                "id": 12,
                "image_id": 7,
                "category_id": 2,
                "iscrowd": 1,
                "area": 20,
                "bbox": [2, 0, 1, 20],
                "segmentation": CROWD,
            },
            {
                "id": 13,
                "image_id": 8,
                "category_id": 2,
                "iscrowd": 0,
                "area": 100.0,
                "bbox": [-4, 5, 100, 10.0],
                "segmentation": [SQUARE, [20, 2, 26, 2, 23, 8]],
            },
        ],
        "categories": [{"id": 5, "name": "cat", "supercategory": "pet"}, {"id": 2, "name": "dog"}],
    }


def read(annotations: Path, images: Path, **options: Any) -> AnnotatedImages:
    """A COCO file over a folder of images; the options are those of ``read_coco``."""
    return AnnotatedImages(read_coco(annotations, images, **options), images, name="coco", source=annotations)


class Files:
    """A COCO file and its images in a folder; ``load`` writes a document and reads it."""

    def __init__(self, folder: Path) -> None:
        self.json, self.images = folder / "a.json", folder / "images"
        self.images.mkdir()
        for i in (7, 8, 9):
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), i, dtype=np.uint8)).save(self.images / f"{i}.png")

    def load(self, content: Any, **options: Any) -> AnnotatedImages:
        self.json.write_text(content if isinstance(content, str) else json.dumps(content))
        return read(self.json, self.images, **options)


def index_of(dictionary: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dictionary
    with redirect_stdout(StringIO()):
        coco.createIndex()
    return coco


def score(truth: dict[str, Any]) -> None:
    """pycocotools takes the ground truth, for boxes and masks."""
    everywhere = coco_mask.encode(np.ones((HEIGHT, WIDTH), dtype=np.uint8, order="F"))
    result = {"image_id": 7, "category_id": 5, "bbox": [4, 5, 10, 10], "score": 0.5, "segmentation": everywhere}
    with redirect_stdout(StringIO()):
        coco = index_of(truth)
        for kind in ("bbox", "segm"):
            COCOeval(coco, coco.loadRes([copy.deepcopy(result)]), kind).evaluate()

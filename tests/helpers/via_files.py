"""A small VIA file and its images, for the tests of the reader."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instseg.data.sets.balloon import FILE, Balloon

HEIGHT, WIDTH = 20, 30


def polygon(*points: tuple[float, float], name: str = "polygon") -> dict[str, Any]:
    xs, ys = zip(*points, strict=True)
    return shape(name, all_points_x=list(xs), all_points_y=list(ys))


def shape(name: str, **numbers: Any) -> dict[str, Any]:
    return {"shape_attributes": {"name": name, **numbers}, "region_attributes": {}}


SQUARE = polygon((4, 5), (14, 5), (14, 15), (4, 15))
TRIANGLE = polygon((20, 2), (26, 2), (23, 8))


def document() -> dict[str, Any]:
    """Two images, one with regions as an object and one with a list."""
    return {
        "b.png99": {"filename": "b.png", "size": 99, "regions": {"0": SQUARE, "1": TRIANGLE}, "file_attributes": {}},
        "a.png98": {"filename": "a.png", "size": 98, "regions": [SQUARE], "file_attributes": {}},
    }


class Files:
    """A balloon folder whose splits are the same; ``load`` writes a document and reads it."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "balloon" / "train"
        self.json = self.folder / FILE
        self.folder.mkdir(parents=True)
        for i, name in enumerate(("a", "b")):
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), i, dtype=np.uint8)).save(self.folder / f"{name}.png")

    def load(self, content: Any, **options: Any) -> Balloon:
        self.json.write_text(content if isinstance(content, str) else json.dumps(content))
        return Balloon("train", root=self.root, **options)

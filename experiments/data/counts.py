"""What a data set holds, in numbers: images and instances by split, class and size, without decoding an image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from experiments.config.groups import DatasetConfig
from experiments.render.table import MISSING, fitted
from instseg.data import InstanceDataset
from instseg.data.annotations.coco_shapes import to_rle
from instseg.evaluation.coco import SIZES
from instseg.files import write_atomically
from instseg.progress import bar

SPLITS = ("train", "val")
CELL = 4 * 4
"""Pixels in a cell of the finest feature map, P2; a head can make out hardly anything of a smaller mask."""
_NAMED = 12  # classes that the terminal names; the files name all


@dataclass
class Split:
    """One split in numbers."""

    name: str  # ``train`` or ``val``
    data: InstanceDataset
    images: pd.DataFrame
    """A row an image, in the data set's order: ``id``, ``height``, ``width``, ``scale`` (by which a run resizes it for
    evaluation), ``instances`` (crowd regions not among them)."""
    instances: pd.DataFrame
    """A row an annotation, crowd regions included: ``id`` as in the annotation file, ``image`` (a row of ``images``),
    ``label`` (from 1), ``iscrowd``, ``area`` as COCO counts it, ``pixels`` of the mask, ``box`` (x, y, width, height),
    ``misfit`` (pixels by which an edge of the box is off the mask's) and ``twin`` (id of an earlier one with the same
    class and mask in the image, or None)."""

    def alone(self) -> pd.DataFrame:
        """The instances that are no crowd regions."""
        return self.instances[self.instances["iscrowd"] == 0]

    def resized(self) -> np.ndarray:
        """Mask area of each instance of :meth:`alone` when its image has the size of evaluation, in pixels."""
        alone = self.alone()
        return alone["pixels"].to_numpy() * self.images["scale"].to_numpy()[alone["image"]] ** 2


def read(name: str, data: InstanceDataset, config: DatasetConfig) -> Split:
    """A split's numbers, from its ground truth."""
    truth = data.ground_truth()
    row_of = {image_id: row for row, image_id in enumerate(data.image_ids)}
    sizes = np.array(data.sizes(), dtype=np.int64).reshape(-1, 2)
    labels = {category["id"]: label for label, category in enumerate(data.categories, start=1)}
    rows: list[tuple[Any, ...]] = []
    shapes: dict[tuple[int, int, bytes], int] = {}
    for annotation in bar(iterable=truth["annotations"], desc=f"{name}: masks", unit=" instances", delay=2):
        image, label = row_of[annotation["image_id"]], labels[annotation["category_id"]]
        rle = to_rle(annotation["segmentation"], *sizes[image].tolist())
        file_id = annotation["id"] - data.id_shift
        twin = shapes.setdefault((image, label, rle["counts"]), file_id)
        box = [float(side) for side in annotation["bbox"]]
        misfit = _misfit(box, coco_mask.toBbox(rle), sizes[image])
        pixels, twin_id = int(coco_mask.area(rle)), None if twin == file_id else twin
        rows.append((file_id, image, label, annotation["iscrowd"], annotation["area"], pixels, box, misfit, twin_id))
    columns = ["id", "image", "label", "iscrowd", "area", "pixels", "box", "misfit", "twin"]
    # without these a split without instances would have columns without a type; ids stay Python's integers
    kinds = {"image": "int64", "label": "int64", "iscrowd": "int64", "area": "float64", "pixels": "int64"}
    instances = pd.DataFrame(rows, columns=columns, dtype=object).astype({**kinds, "misfit": "float64"})
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    images = pd.DataFrame(
        {
            "id": data.image_ids,
            "height": sizes[:, 0],
            "width": sizes[:, 1],
            "scale": np.minimum(config.min_size / short, config.max_size / long),
            "instances": np.bincount(instances["image"][instances["iscrowd"] == 0], minlength=len(sizes)),
        }
    )
    return Split(name, data, images, instances)


def _misfit(box: list[float], tight: np.ndarray, size: np.ndarray) -> float:
    """Pixels by which an edge of a box, cut at the image's edge, is off that of the mask's box."""
    height, width = size
    given, edges = (np.array([x, y, x + w, y + h]) for x, y, w, h in (box, tight))
    return float(np.abs(given.clip(0, [width, height, width, height]) - edges).max())


def by_class(splits: list[Split]) -> pd.DataFrame:
    """A row a split and class, with a row of all classes first in each split: ``images`` that have one,
    ``instances``, ``crowd`` regions, and the instances of each of COCO's sizes."""
    rows = []
    for split in splits:
        for label in range(split.data.num_classes):
            of_class = split.instances if label == 0 else split.instances[split.instances["label"] == label]
            alone = of_class[of_class["iscrowd"] == 0]
            rows.append(
                {
                    "split": split.name,
                    "class": "all" if label == 0 else split.data.categories[label - 1]["name"],
                    "label": label,
                    "images": len(split.images) if label == 0 else of_class["image"].nunique(),
                    "instances": len(alone),
                    "crowd": len(of_class) - len(alone),
                    **{size: int(alone["area"].between(*limits, "left").sum()) for size, limits in SIZES.items()},
                }
            )
    return pd.DataFrame(rows)


def in_one_split(splits: list[Split]) -> dict[str, list[str]]:
    """Names of the classes with instances in one split alone, by that split, and, under ``none``, in no split."""
    names = {label: category["name"] for label, category in enumerate(splits[0].data.categories, start=1)}
    train, val = (set(split.alone()["label"]) for split in splits)
    labels = {"train": train - val, "val": val - train, "none": names.keys() - train - val}
    return {where: [names[label] for label in sorted(some)] for where, some in labels.items()}


def overview(splits: list[Split], classes: pd.DataFrame) -> pd.DataFrame:
    """The table on top of ``summary.md``: a row a quantity, a column a split."""
    columns: dict[str, dict[str, str]] = {}
    for split in splits:
        counts = classes[(classes["split"] == split.name) & (classes["label"] == 0)].iloc[0]
        images, resized = split.images, split.resized()
        total = max(len(resized), 1)
        columns[split.name] = {
            "images": f"{len(images):,}",
            "without instances": f"{(images['instances'] == 0).sum():,}",
            "instances": f"{counts['instances']:,}",
            "crowd regions": f"{counts['crowd']:,}",
            "classes with instances": f"{split.alone()['label'].nunique()} of {split.data.num_classes - 1}",
            **{size: f"{counts[size]:,} ({counts[size] / total:.0%})" for size in SIZES},
            "instances an image": _three(images["instances"]),
            "image width": _three(images["width"]),
            "image height": _three(images["height"]),
            "median mask area, resized": f"{np.median(resized):,.0f}" if len(resized) else MISSING,
            "too small masks, resized": f"{(resized < CELL).sum():,}",
        }
    return pd.DataFrame(columns).rename_axis("").reset_index()


def _three(values: pd.Series) -> str:
    return f"{values.min():,} / {values.median():,.0f} / {values.max():,}"


def notes(splits: list[Split], config: DatasetConfig, most: int | None = None) -> list[str]:
    """Definitions of the numbers, and a line on classes that are not in both splits, with ``most`` of their names."""
    lines = [
        "Small, medium and large are COCO's: areas below 32², below 96² and above, in pixels as stored. Three numbers "
        f"are least / median / most. Resized: as for evaluation, the short side to {config.min_size} pixels, the "
        f"long one to at most {config.max_size}; masks are too small that have fewer than {CELL} pixels, a cell of the "
        "finest feature map."
    ]
    where = {"train": "in train alone", "val": "in val alone, so never learnt", "none": "in neither split"}
    for key, names in in_one_split(splits).items():
        if names:
            more = f" and {len(names[most:])} more" if most is not None and names[most:] else ""
            some = ", ".join(names[:most]) + more
            lines.append(f"{len(names)} class{'es' if len(names) > 1 else ''} {where[key]}: {some}")
    return lines


def write(folder: Path, name: str, splits: list[Split], config: DatasetConfig) -> None:
    """``summary.md`` and ``counts.csv``."""
    classes = by_class(splits)
    table = overview(splits, classes)
    parts = [classes[(classes["split"] == split.name) & (classes["label"] > 0)] for split in splits]
    columns = {"class": [str(name).replace("|", r"\|") for name in parts[0]["class"]]}
    for split, part in zip(splits, parts, strict=True):
        for key in ("images", "instances", "crowd", *SIZES):
            columns[f"{split.name} {key}"] = [f"{count:,}" for count in part[key]]
    text = [f"# {name}", _markdown(table), *notes(splits, config), _markdown(pd.DataFrame(columns))]
    write_atomically(folder / "summary.md", "\n\n".join(text) + "\n")
    write_atomically(folder / "counts.csv", classes.drop(columns="label").to_csv(index=False, lineterminator="\n"))


def _markdown(table: pd.DataFrame) -> str:
    align = ["left", *["right"] * (table.shape[1] - 1)]
    return table.to_markdown(index=False, disable_numparse=True, colalign=align)


def terminal(name: str, splits: list[Split], config: DatasetConfig) -> str:
    """``summary.md`` for the terminal, without the table of classes."""
    table = overview(splits, by_class(splits)).rename(columns={"": name})
    return "\n".join([fitted(table), *notes(splits, config, most=_NAMED)[1:]])

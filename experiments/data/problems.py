"""Faults of a data set, and what may be one: a line each, with file and id."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.counts import Split, in_one_split
from instseg.data.batches import loader
from instseg.files import write_atomically
from instseg.progress import bar

FEW = 10
"""Pixels; nothing can be learnt from a mask with fewer."""
LOOSE = 2.5
"""Pixels by which an edge of a box may differ from its mask's: polygons do not end at whole pixels."""
KINDS = {
    "error": "a run stops at these",
    "left out": "no part of what is trained on and scored, and why",
    "look": "no errors, but worth a look",
}


class Problem(NamedTuple):
    """One line: a kind of :data:`KINDS`, the split, and what it is."""

    kind: str
    split: str
    text: str


def in_numbers(splits: list[Split]) -> list[Problem]:
    """Problems that show without decoding an image."""
    problems = []
    for split in splits:
        problems += [Problem("left out", split.name, line) for line in split.data.skipped]
        if not split.data.trainable_indices():
            kind, use = ("error", "learn from") if split.name == "train" else ("look", "score against")
            problems.append(Problem(kind, split.name, f"no image has an instance to {use}"))
        problems += _suspicious(split)
    where = {"train": "in train alone", "val": "in val alone, so it is never learnt", "none": "in neither split"}
    for key, names in in_one_split(splits).items():
        split_name = "both" if key == "none" else key
        problems += [Problem("look", split_name, f"class {name!r} has instances {where[key]}") for name in names]
    return problems


def _suspicious(split: Split) -> list[Problem]:
    """Instances with tiny masks, with boxes that don't fit their masks, or that are there twice."""
    alone = split.alone()
    # those without a pixel are among the skipped ones
    alone = alone[alone["pixels"] > 0]
    odd = alone[(alone["pixels"] < FEW) | (alone["misfit"] > LOOSE) | alone["twin"].notna()]
    problems = []
    for row in odd.to_dict("records"):
        reasons = []
        if row["pixels"] < FEW:
            reasons.append(f"its mask has {row['pixels']} pixel{'s' if row['pixels'] > 1 else ''}")
        if row["misfit"] > LOOSE:
            box = ", ".join(f"{side:.1f}" for side in row["box"])
            reasons.append(f"its box [{box}] is up to {row['misfit']:.1f} pixels off its mask")
        if row["twin"] is not None:
            reasons.append(f"same class and mask as annotation {row['twin']}")
        name = split.data.categories[row["label"] - 1]["name"]
        image_id, file = split.images["id"].iloc[row["image"]], split.data.describe(row["image"])
        line = f"annotation {row['id']} of image {image_id} ({name}), {file}: {'; '.join(reasons)}"
        problems.append(Problem("look", split.name, line))
    return problems


def in_images(splits: list[Split], decode: str | int, workers: int) -> list[Problem]:
    """Problems that show when ``decode`` images of each split, or ``all``, are read with their masks: unreadable ones,
    and images with equal pixels."""
    problems = []
    by_digest: dict[bytes, tuple[Split, int]] = {}
    for split in splits:
        indices = evenly(range(len(split.data)), len(split.data) if decode == "all" else int(decode))
        read = loader.verify_images(split.data, indices, workers=workers)
        for index, fault, digest in bar(iterable=read, total=len(indices), desc=f"{split.name}: read", unit=" images"):
            if fault is not None:
                problems.append(Problem("error", split.name, fault))
                continue
            first, first_index = by_digest.setdefault(digest, (split, index))
            if (first.name, first_index) != (split.name, index):
                line = f"{_describe(split, index)} has the pixels of {_describe(first, first_index)} of {first.name}"
                problems.append(Problem("look", split.name, line))
    return problems


def _describe(split: Split, index: int) -> str:
    return f"image {split.data.image_ids[index]}, {split.data.describe(index)},"


def evenly(items: Sequence[int], count: int) -> list[int]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    if count >= len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def write(path: Path, problems: list[Problem], checked: str) -> Path:
    """Write ``problems.txt``: the line ``checked``, on what was looked at, then the problems by kind, counted."""
    text = [checked, ""]
    for kind, meaning in KINDS.items():
        of_kind = [problem for problem in problems if problem.kind == kind]
        text.append(f"{kind}: {len(of_kind)} ({meaning})")
        text += [f"{kind}: {problem.split}: {problem.text}" for problem in of_kind]
        text.append("")
    return write_atomically(path, "\n".join(text))


def counted(problems: list[Problem]) -> str:
    """``2 errors, 3 left out, 7 worth a look``."""
    names = {"error": "errors", "left out": "left out", "look": "worth a look"}
    return ", ".join(f"{sum(problem.kind == kind for problem in problems):,} {name}" for kind, name in names.items())

"""What is wrong with a data set, or looks it: one line each, with file and id."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.counts import Split, in_one_split
from instseg.data.batches import loader
from instseg.files import write_atomically
from instseg.progress import bar

FEW = 10
"""Pixels; of a mask with fewer nothing can be learnt."""
LOOSE = 2.5
"""Pixels by which a box may be off its mask: polygons have no whole pixels, and their edges are rounded."""
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


def of_numbers(splits: list[Split]) -> list[Problem]:
    """What can be said without decoding an image."""
    found = []
    for split in splits:
        found += [Problem("left out", split.name, line) for line in split.data.skipped]
        if not split.data.trainable_indices():
            learnt = split.name == "train"
            what = f"no image has an instance to {'learn from' if learnt else 'score against'}"
            found.append(Problem("error" if learnt else "look", split.name, what))
        found += _suspicious(split)
    where = {"train": "in train alone", "val": "in val alone, so it is never learnt", "none": "in neither split"}
    for key, names in in_one_split(splits).items():
        split_name = "both" if key == "none" else key
        found += [Problem("look", split_name, f"class {name!r} has instances {where[key]}") for name in names]
    return found


def _suspicious(split: Split) -> list[Problem]:
    alone = split.alone()
    # those without a pixel were left out
    alone = alone[alone["pixels"] > 0]
    odd = alone[(alone["pixels"] < FEW) | (alone["misfit"] > LOOSE) | alone["twin"].notna()]
    found = []
    for row in odd.to_dict("records"):
        what = []
        if row["pixels"] < FEW:
            what.append(f"its mask has {row['pixels']} pixel{'s' if row['pixels'] > 1 else ''}")
        if row["misfit"] > LOOSE:
            box = ", ".join(f"{side:.1f}" for side in row["box"])
            what.append(f"its box [{box}] is up to {row['misfit']:.1f} pixels off its mask")
        if row["twin"] is not None:
            what.append(f"same class and mask as annotation {row['twin']}")
        name = split.data.categories[row["label"] - 1]["name"]
        image_id, file = split.images["id"].iloc[row["image"]], split.data.describe(row["image"])
        line = f"annotation {row['id']} of image {image_id} ({name}), {file}: {'; '.join(what)}"
        found.append(Problem("look", split.name, line))
    return found


def of_images(splits: list[Split], decode: str | int, workers: int) -> list[Problem]:
    """Read images and masks once, all or so many of each split: those that can't be, and those that are there
    twice, pixel by pixel."""
    found = []
    seen: dict[bytes, tuple[Split, int]] = {}
    for split in splits:
        some = evenly(range(len(split.data)), len(split.data) if decode == "all" else int(decode))
        verify_images = loader.verify_images(split.data, some, workers=workers)
        for index, fault, digest in bar(
            iterable=verify_images, total=len(some), desc=f"{split.name}: read", unit=" images"
        ):
            if fault is not None:
                found.append(Problem("error", split.name, fault))
                continue
            first, place = seen.setdefault(digest, (split, index))
            if (first.name, place) != (split.name, index):
                same = f"{_called(split, index)} has the pixels of {_called(first, place)} of {first.name}"
                found.append(Problem("look", split.name, same))
    return found


def _called(split: Split, index: int) -> str:
    return f"image {split.data.image_ids[index]}, {split.data.describe(index)},"


def evenly(items: Sequence[int], count: int) -> list[int]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    if count >= len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def write(path: Path, problems: list[Problem], checked: str) -> Path:
    """``problems.txt``: ``checked``, which says what was looked at, then kind by kind how many there are and each."""
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
    return ", ".join(f"{sum(one.kind == kind for one in problems):,} {name}" for kind, name in names.items())

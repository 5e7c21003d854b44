"""Checks of the split that is asked for, and folds for data sets that are published without a split."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from instseg.errors import DataError, UserError, unknown_name


def check_split(split: str, images: int | None = None) -> None:
    """Raise a UserError where there is no such split, or it can't have so many images (None: all)."""
    if split not in ("train", "val"):
        raise unknown_name("split", split, ("train", "val"))
    if images is not None and images < 1:
        raise UserError(f"dataset.max_{split}_images={images}: must be 1 or more, or null for all")


@dataclass(frozen=True)
class FoldSplit:
    """One split of one fold. Images are dealt out to the folds in an order drawn from the seed and their names, so
    that neither the order in a file nor the number of images asked for changes which are held out: those of ``fold``.

    Raises:
        UserError: there is no such split or fold.
    """

    split: str
    fold: int = 0
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_split(self.split)
        if type(self.folds) is not int or self.folds < 2:
            raise UserError(f"dataset.options.folds={self.folds}: a whole number from 2 is needed")
        if type(self.seed) is not int:
            raise UserError(f"dataset.options.split_seed={self.seed}: a whole number is needed")
        if type(self.fold) is not int or not 0 <= self.fold < self.folds:
            raise UserError(f"dataset.fold={self.fold}: there are folds 0 to {self.folds - 1}")

    def choose(self, names: Mapping[str, str], source: Path) -> set[str]:
        """The images of this split.

        Args:
            names: image -> group; each group is dealt out evenly.
            source: where they are from, for the message.

        Raises:
            DataError: there are fewer images than folds.
        """
        if len(names) < self.folds:
            fault = f"has {len(names)} image(s), too few for {self.folds} folds"
            raise DataError(f"{source} {fault}; set dataset.options.folds, 2 or more")
        order = sorted(names, key=lambda n: (names[n], hashlib.sha256(f"{self.seed}/{n}".encode()).digest()))
        return {n for i, n in enumerate(order) if (i % self.folds == self.fold) == (self.split == "val")}

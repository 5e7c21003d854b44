"""Validation images inside the training images: what is chosen by them has seen nothing of the held-out fold."""

import hashlib
from pathlib import Path
from typing import Any

from instseg.data.dataset import InstanceDataset, Sample
from instseg.data.split import FoldSplit


class InnerSplit(InstanceDataset):
    """A part of a data set: every ``parts``-th image, in an order drawn from the images' ids, is for validation.

    Images without an instance to learn from are dealt out by themselves, so that both splits have their share.

    Args:
        whole: the training images of a fold.
        split: ``train`` or ``val``.

    Raises:
        UserError: there is no such split, or fewer than two parts.
        DataError: there are fewer images than parts.
    """

    def __init__(self, whole: InstanceDataset, split: str, parts: int) -> None:
        trainable = {whole.image_ids[i] for i in whole.trainable_indices()}
        names = {str(image_id): str(image_id in trainable) for image_id in whole.image_ids}
        chosen = FoldSplit(split, 0, parts).choose(names, Path(whole.name))
        self._whole = whole
        self._indices = [i for i, image_id in enumerate(whole.image_ids) if str(image_id) in chosen]
        self.name, self.categories, self.skipped = whole.name, whole.categories, whole.skipped
        self.image_ids = [whole.image_ids[i] for i in self._indices]

    def __getitem__(self, index: int) -> Sample:
        return self._whole[self._indices[index]]

    def ground_truth(self) -> dict[str, Any]:
        truth, ids = self._whole.ground_truth(), set(self.image_ids)
        self.id_shift = self._whole.id_shift
        return {
            **truth,
            "images": [image for image in truth["images"] if image["id"] in ids],
            "annotations": [annotation for annotation in truth["annotations"] if annotation["image_id"] in ids],
        }

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._whole.fingerprint()} {self.image_ids}".encode()).hexdigest()[:16]

    def trainable_indices(self) -> list[int]:
        trainable = set(self._whole.trainable_indices())
        return [i for i, index in enumerate(self._indices) if index in trainable]

    def sizes(self) -> list[tuple[int, int]]:
        sizes = self._whole.sizes()
        return [sizes[i] for i in self._indices]

    def describe(self, index: int) -> str:
        return self._whole.describe(self._indices[index])

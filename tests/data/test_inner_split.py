"""Validation images inside the training images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from instseg import data
from instseg.data.inner_split import InnerSplit
from instseg.data.sets.generated import Generated
from instseg.errors import UserError

Refused = Callable[..., str]


def _whole(images: int = 12) -> Generated:
    return Generated("train", images=images, size=(64, 64), seed=0, figures=(1, 2))


def test_the_parts_are_the_whole() -> None:
    whole = _whole()
    train, val = (InnerSplit(whole, split, 4) for split in ("train", "val"))
    assert sorted(train.image_ids + val.image_ids) == sorted(whole.image_ids)
    assert len(val) == 3
    for part in (train, val):
        truth = part.ground_truth()
        assert [image["id"] for image in truth["images"]] == part.image_ids
        assert {a["image_id"] for a in truth["annotations"]} <= set(part.image_ids)
        assert part.num_classes == whole.num_classes
        indices = [whole.image_ids.index(image_id) for image_id in part.image_ids]
        assert part.sizes() == [whole.sizes()[i] for i in indices]
        assert part.trainable_indices() == [i for i, w in enumerate(indices) if w in whole.trainable_indices()]
        for i, index in enumerate(indices):
            assert part.describe(i) == whole.describe(index)
            assert torch.equal(part[i][0], whole[index][0])
            assert part[i][1]["image_id"] == whole.image_ids[index]
    everything = whole.ground_truth()["annotations"]
    assert sum(len(part.ground_truth()["annotations"]) for part in (train, val)) == len(everything)
    assert len({whole.fingerprint(), train.fingerprint(), val.fingerprint()}) == 3
    assert InnerSplit(_whole(), "val", 4).fingerprint() == val.fingerprint()


def test_what_can_not_be_split_is_named(refused: Refused) -> None:
    refused(lambda: InnerSplit(_whole(3), "train", 4), "3 image(s)", "4 folds")
    refused(lambda: InnerSplit(_whole(), "test", 4), "'test'", error=UserError)


def test_the_inner_images_are_none_of_the_held_out_fold(real_data: Path) -> None:
    held_out = set(data.build("pennfudan", "val", root=real_data, fold=2).image_ids)
    whole = data.build("pennfudan", "train", root=real_data, fold=2)
    inner = {split: set(InnerSplit(whole, split, 5).image_ids) for split in ("train", "val")}
    assert len(inner["val"]) == 28 and len(inner["train"]) == 108
    assert not held_out & (inner["train"] | inner["val"])


@pytest.mark.parametrize("fold", [0, 4])
def test_nuclei_are_dealt_out_to_folds(real_data: Path, fold: int) -> None:
    splits = [data.build("nuclei", split, root=real_data, fold=fold) for split in ("train", "val")]
    assert sum(map(len, splits)) == 334 and len(splits[1]) in (66, 67)
    assert sum(len(split.ground_truth()["annotations"]) for split in splits) == 9543
    assert not set(splits[0].image_ids) & set(splits[1].image_ids)
    image, target = splits[1][0]
    assert image.shape == (3, 256, 256) and len(target["masks"]) == len(target["boxes"]) > 0

"""Image, boxes and masks stay together under every augmentation, and all that is random hangs on seed and position."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import Files, document
from coloured import HEIGHT, WIDTH, Coloured, box_of
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from instseg.data.batches import loader, transforms
from instseg.data.batches.instances import without_crowds
from instseg.data.dataset import InstanceDataset
from instseg.errors import DataError

SAME: dict[str, Any] = {"min_size": [HEIGHT], "max_size": WIDTH}
"""Sizes that leave the images as large as they are."""
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {"flip": 0.0},
    "flip": {},
    "flip_both": {"vertical_flip": 0.5},
    "scale_jitter": {"scale": [0.5, 1.0]},
    "large_scale_jitter": {"scale": [0.1, 2.0], "crop": 56},
    "crop": {"crop": 40},
    "photometric": {"photometric": 0.5},
    "jpeg": {"jpeg": 0.5},
    "copy_paste": {"copy_paste": 0.7},
    "strong": {"scale": [0.1, 2.0], "crop": 56, "copy_paste": 0.7, "photometric": 0.5},
}
UNSCALED = [name for name, setting in SETTINGS.items() if "scale" not in setting]
DROPPING = [name for name, setting in SETTINGS.items() if {"scale", "crop", "copy_paste"} & setting.keys()]


def samples(data: InstanceDataset | None = None, seed: int = 0, **setting: Any) -> loader.TrainingSamples:
    data = data or Coloured()
    return loader.TrainingSamples(
        data, data.trainable_indices(), transforms.TrainTransform(**{**SAME, **setting}), seed
    )


def drawn(count: int = 30, **setting: Any) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """Samples of three images, with what is pasted from three others."""
    one = samples(**setting)
    one.indices = [3, 4, 5]
    return [one[position % 3, position] for position in range(count)]


def same(first: Any, second: Any) -> bool:
    """Whether two lists of samples, or two samples, are the same to the last bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize("name", SETTINGS)
def test_samples_keep_the_contract_of_targets(name: str) -> None:
    fits: list[float] = []
    for image, target in drawn(**SETTINGS[name]):
        assert type(image) is torch.Tensor and image.dtype == torch.uint8 and image.shape[0] == 3
        n = len(target["labels"])
        kinds = {"boxes": torch.float32, "labels": torch.int64, "masks": torch.uint8, "area": torch.float32}
        for key, kind in {**kinds, "iscrowd": torch.int64}.items():
            assert type(target[key]) is torch.Tensor and target[key].dtype == kind and len(target[key]) == n
        assert target["boxes"].shape == (n, 4) and target["masks"].shape[1:] == image.shape[1:]
        assert not target["iscrowd"].any() and (target["masks"] <= 1).all()
        height, width = image.shape[1:]
        assert (target["boxes"] >= 0).all() and (target["boxes"] <= torch.tensor([width, height] * 2)).all()
        counted = target["masks"].flatten(1).sum(1).float()
        assert (counted > 0).all()
        if name in DROPPING:
            assert torch.equal(counted, target["area"]) and (counted >= 10).all()
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            tight = torch.tensor([box_of(mask)]).float()
            if name in UNSCALED:
                assert torch.equal(box[None], tight)
            else:  # boxes move by parts of a pixel, masks by whole ones, and what is thin may get lost
                assert ((tight - box) * torch.tensor([1, 1, -1, -1]) >= -1).all()
                fits.append(float(box_iou(box[None], tight)))
    assert not fits or sum(fits) / len(fits) > 0.85


@pytest.mark.parametrize("name", [name for name in UNSCALED if name not in ("photometric", "jpeg")])
def test_each_mask_covers_the_pixels_of_its_instance_and_no_others(name: str) -> None:
    found = pasted = 0
    for image, target in drawn(**SETTINGS[name]):
        assert not (target["masks"].sum(0) > 1).any()
        for label, mask in zip(target["labels"], target["masks"].bool(), strict=True):
            colours = image[:, mask].unique(dim=1)
            assert colours.shape[1] == 1 and colours[0, 0] == 40 * label
            # an instance is in the image nowhere but under its mask
            assert torch.equal((image == colours[:, :, None]).all(0), mask)
            pasted += int(colours[1, 0] != 9 * target["image_id"])
            found += 1
    assert found > 100 and (pasted > 20) == (name == "copy_paste")


def test_the_default_is_the_pipeline_of_a_flip_and_a_shortest_size() -> None:
    data, sizes = Coloured(), {"min_size": [40, 48, 72], "max_size": 90}
    plain = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomShortestSize(sizes["min_size"], max_size=90)])
    one = samples(data, **sizes)
    for position in range(12):
        image, target = data[position % 6]
        with loader.seeds.stream(0, "augmentation", position):
            expected = plain(image, without_crowds(target))
        found = one[position % 6, position]
        assert torch.equal(expected[0], found[0])
        assert expected[1].keys() == found[1].keys()
        assert all(same(torch.as_tensor(expected[1][k]), torch.as_tensor(found[1][k])) for k in expected[1])


def test_chance_and_settings_are_what_they_say() -> None:
    image, target = samples(flip=1.0, vertical_flip=1.0)[0, 0]
    original, truth = Coloured()[0]
    assert torch.equal(image, original.flip(1, 2)) and torch.equal(target["masks"], truth["masks"].flip(1, 2))
    for position in range(20):
        long = max(samples(scale=[0.5, 0.75])[0, position][0].shape)
        assert 0.5 * WIDTH - 1 <= long <= 0.75 * WIDTH
    assert not torch.equal(samples(flip=0.0, jpeg=1.0, jpeg_quality=(5, 5))[0, 0][0], original)
    assert torch.equal(samples(flip=0.0, jpeg=0.0)[0, 0][0], original)


@pytest.mark.parametrize("name", ["photometric", "jpeg"])
def test_colours_change_and_nothing_else(name: str) -> None:
    changed = 0
    for position in range(12):
        plain, coloured = samples(flip=0.0)[0, position], samples(flip=0.0, **SETTINGS[name])[0, position]
        changed += not torch.equal(plain[0], coloured[0])
        assert plain[0].shape == coloured[0].shape and same(plain[1], coloured[1])
    assert 3 <= changed <= 12


def test_colours_are_changed_where_a_image_has_fewer_pixels() -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(v2.Transform):
        def forward(self, *inputs: Any) -> Any:
            seen.append(tuple(inputs[0].shape))
            return inputs[0]

    for size in (32, 64):
        one = transforms.TrainTransform(min_size=[size], max_size=size)
        one.colours = [Watched()]
        one(Coloured()[0])
    assert seen == [(3, 24, 32), (3, HEIGHT, WIDTH)]


def test_a_crop_has_its_size_and_its_padding_belongs_to_nobody() -> None:
    colour = torch.tensor(transforms.PADDING, dtype=torch.uint8)[:, None, None]
    padded = 0
    for image, target in drawn(**SETTINGS["large_scale_jitter"]):
        assert image.shape == (3, 56, 56)
        # no pixel of these images has that colour
        padding = (image == colour).all(0)
        padded += int(padding.sum())
        assert not target["masks"][:, padding].any()
    assert padded > 1000


def test_scaling_by_nothing_leaves_a_crop_of_the_image() -> None:
    image, _ = Coloured()[0]
    for position in range(5):
        found, _ = samples(flip=0.0, scale=[1.0, 1.0], crop=WIDTH)[0, position]
        rows = (found != torch.tensor(transforms.PADDING)[:, None, None]).any(0).any(1).nonzero()[:, 0]
        assert torch.equal(found[:, rows[0] : rows[-1] + 1], image)


def test_instances_that_a_crop_leaves_too_little_of_are_dropped() -> None:
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    masks[0, 5:15, 5:15], masks[1, 20:30, 30:45], masks[2, 40:, 60:] = 1, 1, 1
    boxes = torch.tensor([[5.0, 5, 15, 15], [30.25, 20, 45, 30], [60, 40, 64, 48]])
    target = transforms.without_crowds(
        {**Coloured()[0][1], "masks": tv_tensors.Mask(masks), "labels": torch.tensor([1, 2, 3])}
        | {"boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(HEIGHT, WIDTH))}
        | {"area": torch.tensor([100.0, 150, 32]), "iscrowd": torch.zeros(3, dtype=torch.int64)}
    )
    image = Coloured()[0][0]
    kept = set()
    for position in range(40):
        with loader.seeds.stream(0, position):
            _, found = transforms.TrainTransform(flip=0.0, crop=40, min_area=60, **SAME)((image, target))
        assert (found["area"] >= 60).all() and 3 not in found["labels"]
        for label, box, mask, area in zip(*(found[k] for k in ("labels", "boxes", "masks", "area")), strict=True):
            whole = area == (100 if label == 1 else 150)
            # where the crop took nothing, the box is the one that was annotated
            expected = torch.tensor(box_of(mask)).float()
            expected[0] += 0.25 * float(whole and label == 2)
            assert torch.equal(box, expected)
            kept.add((int(label), bool(whole)))
    assert kept == {(1, True), (1, False), (2, True), (2, False)}


def test_a_long_and_thin_image_keeps_a_pixel() -> None:
    thin = v2.Resize([2, 200])(*Coloured()[0])
    found, _ = transforms.TrainTransform(scale=[0.1, 0.1], **SAME)(thin)
    assert found.shape == (3, 1, 6)


@pytest.mark.parametrize("name", SETTINGS)
def test_batches_are_functions_of_seed_and_position(name: str) -> None:
    data = Coloured(images=4, instances=4)
    transform = transforms.TrainTransform(**{**SAME, **SETTINGS[name]})

    def batches(**options: Any) -> list[loader.Batch]:
        options = {"batch_size": 2, "iterations": 5, "seed": 3, **options}
        return list(loader.training_batches(data, data.trainable_indices(), transform, **options))

    expected = batches()
    assert same(expected[2:], batches(start=2, workers=2))
    assert name == "none" or not same(expected, batches(seed=4))
    # neither reads nor moves any other random stream
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    one = loader.TrainingSamples(data, data.trainable_indices(), transform, 3)
    first = [one[position % 4, position] for position in range(6)]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert same(first, [one[position % 4, position] for position in range(6)])


def test_what_is_pasted_comes_from_the_images_to_learn_from() -> None:
    data = Coloured()
    one = loader.TrainingSamples(data, [1, 4], transforms.TrainTransform(copy_paste=1.0, **SAME), 0)
    partners = set()
    for position in range(12):
        image, target = one[0, position]
        partners |= {int(image[1, mask][0]) // 9 for mask in target["masks"].bool()}
    assert partners - {0} == {1, 4}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_to_paste_from_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    files = Files(tmp_path)
    data = files.load(document())
    bad, good = data.image_ids.index(7), data.image_ids.index(8)
    path = files.images / "7.png"
    path.write_bytes(path.read_bytes()[:40])
    transform = transforms.TrainTransform(copy_paste=1.0, min_size=[20], max_size=30)
    with pytest.raises(DataError, match=r"7\.png"):
        loader.TrainingSamples(data, [bad], transform, 0)[good, 0]
    with pytest.raises(DataError, match=r"7\.png"):
        list(loader.training_batches(data, [good, bad], transform, batch_size=1, iterations=6, seed=0, workers=workers))

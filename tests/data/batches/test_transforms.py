"""Packing masks into bits changes no pixel, and crowd regions are dropped."""

from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from instseg.data.batches import instances, transforms
from instseg.data.dataset import Sample, make_target
from instseg.data.sets.coco import Coco2017

HEIGHT, WIDTH = 37, 53


def sample(n: int, *, crowds: tuple[int, ...] = ()) -> Sample:
    dice = torch.Generator().manual_seed(n)
    masks = (torch.rand((n, HEIGHT, WIDTH), generator=dice) > 0.5).to(torch.uint8)
    corners = torch.rand((n, 2), generator=dice) * 20
    boxes = torch.cat([corners, corners + 10], dim=1)
    iscrowd = torch.tensor([int(i in crowds) for i in range(n)], dtype=torch.int64)
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=dice)
    return tv_tensors.Image(image), make_target(boxes, torch.arange(1, n + 1), masks, 7, iscrowd)


def check_same(first: Sample, second: Sample) -> None:
    assert torch.equal(first[0], second[0])
    assert first[1].keys() == second[1].keys()
    for key, value in first[1].items():
        assert type(value) is type(second[1][key])
        if isinstance(value, torch.Tensor):
            assert value.dtype == second[1][key].dtype
            assert torch.equal(value, second[1][key]), key
        else:
            assert value == second[1][key]


@pytest.mark.parametrize("n", [0, 1, 8, 9, 20])
@pytest.mark.parametrize("columns_first", [False, True])
def test_packed_masks_are_moved_as_whole_ones(n: int, columns_first: bool) -> None:
    image, target = sample(n)
    if columns_first:  # as pycocotools decodes them
        target["masks"] = tv_tensors.Mask(target["masks"].mT.contiguous().mT)
    moves = [
        v2.RandomHorizontalFlip(0.5),
        v2.ScaleJitter((60, 70)),
        v2.RandomCrop((30, 41), pad_if_needed=True),
        v2.RandomAffine(degrees=30, translate=(0.1, 0.1)),
        v2.RandomPhotometricDistort(),
    ]
    before = target["masks"].clone()
    for seed in range(4):
        torch.manual_seed(seed)
        plain = v2.Compose(moves)(image, target)
        torch.manual_seed(seed)
        packed = transforms.PackedMasks(*moves)(image, target)
        check_same(plain, packed)
        assert packed[1]["masks"].shape == (n, 30, 41)
    assert torch.equal(target["masks"], before)


def test_crowd_regions_are_dropped_and_the_rest_is_as_without_them() -> None:
    transform = transforms.TrainTransform(flip=1.0, min_size=[64], max_size=80)
    image, target = transform(sample(10, crowds=(0, 4)))
    assert type(image) is torch.Tensor
    assert image.shape == (3, 55, 80)
    assert target["image_id"] == 7
    assert target["labels"].tolist() == [2, 3, 4, 6, 7, 8, 9, 10]
    assert not target["iscrowd"].any()
    whole = transform(sample(10))[1]
    keep = whole["labels"] % 4 != 1
    keep[8] = True
    for key in instances.PER_INSTANCE:
        assert type(target[key]) is torch.Tensor
        assert torch.equal(target[key], whole[key][keep])


def test_real_samples_are_those_of_the_plain_transforms(real_data: Path) -> None:
    data = Coco2017("train", root=real_data, images=12)
    plain = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomShortestSize([160, 200], max_size=300)])
    packed = transforms.TrainTransform(flip=0.5, min_size=[160, 200], max_size=300)
    for index in range(len(data)):
        image, target = data[index]
        target = instances.without_crowds(target)
        contiguous = {**target, "masks": tv_tensors.Mask(target["masks"].contiguous())}
        torch.manual_seed(index)
        expected, moved = plain(tv_tensors.Image(image.contiguous()), contiguous)
        moved = {k: v.as_subclass(torch.Tensor) if isinstance(v, torch.Tensor) else v for k, v in moved.items()}
        torch.manual_seed(index)
        check_same((expected, moved), packed((image, target)))
        assert target["area"].tolist() == target["masks"].sum((1, 2)).tolist()

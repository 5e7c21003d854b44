"""Pasting and run-length encoding against torchvision and pycocotools."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from instseg import masks
from instseg.evaluation.timing import peak_memory


def _case(count: int, size: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth random masks in boxes inside, over the border, of a pixel, and of none."""
    torch.manual_seed(seed)
    height, width = size
    corners = torch.rand(count, 2) * torch.tensor([width, height])
    sides = torch.rand(count, 2) * torch.tensor([width, height]) * 0.7
    boxes = torch.cat([corners, corners + sides], dim=1)
    boxes[: count // 4, :2] -= 0.3 * width
    boxes[count // 4 : count // 2, 2:] = boxes[count // 4 : count // 2, :2] + 1
    boxes[-1, 2:] = boxes[-1, :2]
    coarse = torch.rand(count, 1, 5, 5)
    return torch.nn.functional.interpolate(coarse, size=28, mode="bicubic").clamp(0, 1)[:, 0], boxes


@pytest.mark.parametrize("size", [(90, 120), (61, 33)])
def test_paste_is_torchvisions(size: tuple[int, int]) -> None:
    probabilities, boxes = _case(60, size, seed=1)
    expected = paste_masks_in_image(probabilities[:, None], boxes, size)[:, 0]
    torch.testing.assert_close(masks.paste(probabilities, boxes, size), expected)


@pytest.mark.parametrize("size", [(90, 120), (61, 33), (200, 7)])
def test_rle_is_that_of_the_pasted_mask(size: tuple[int, int]) -> None:
    probabilities, boxes = _case(80, size, seed=2)
    pasted = paste_masks_in_image(probabilities[:, None], boxes, size)[:, 0] > 0.5
    expected = masks.encode(pasted.numpy())
    found = masks.to_rle(probabilities, boxes, size)
    ious = coco_mask.iou(found, expected, [0] * len(found)).diagonal()
    nonempty = pasted.flatten(1).any(1).numpy()
    assert nonempty.sum() > 30
    assert (ious[nonempty] >= 0.999).all()
    assert found == expected


def test_rle_of_crops_anywhere() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(300):
        height, width = numbers.integers(1, 12, 2)
        y, x = numbers.integers(0, height + 1), numbers.integers(0, width + 1)
        h, w = numbers.integers(0, height - y + 1), numbers.integers(0, width - x + 1)
        crop = numbers.random((h, w)) < numbers.choice([0.0, 0.5, 0.9, 1.0])
        picture = np.zeros((1, height, width), dtype=np.uint8)
        picture[0, y : y + h, x : x + w] = crop
        assert masks.encode_crop(crop, int(x), int(y), (int(height), int(width))) == masks.encode(picture)[0]


def test_boxes_outside_the_picture_are_empty() -> None:
    boxes = torch.tensor([[-50.0, 2.0, -20.0, 8.0], [30.0, 30.0, 40.0, 40.0], [3.0, -90.0, 9.0, -60.0]])
    empty = masks.encode(np.zeros((1, 10, 12), dtype=np.uint8))[0]
    assert masks.to_rle(torch.ones(3, 28, 28), boxes, (10, 12)) == [empty] * 3
    assert not masks.paste(torch.ones(3, 28, 28), boxes, (10, 12)).any()


def test_no_mask_at_all() -> None:
    assert masks.to_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 10)) == []
    assert masks.paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 12)).shape == (0, 10, 12)


def test_rle_never_holds_a_picture_of_floats() -> None:
    boxes = torch.tensor([[10.0, 10.0, 200.0, 150.0]]).repeat(50, 1)
    call = lambda: masks.to_rle(torch.rand(50, 28, 28), boxes, (3000, 4000))  # noqa: E731
    assert peak_memory(call, torch.device("cpu")) < 3000 * 4000 * 4 / 10

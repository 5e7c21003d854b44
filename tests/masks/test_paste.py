"""Pasting and run-length encoding against torchvision and pycocotools."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from instseg.masks import paste, rle
from instseg.masks.rle import RLE
from instseg.timing import peak_memory


def _case(count: int, size: tuple[int, int], seed: int, m: int = 28) -> tuple[torch.Tensor, torch.Tensor]:
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
    return torch.nn.functional.interpolate(coarse, size=m, mode="bicubic").clamp(0, 1)[:, 0], boxes


@pytest.mark.parametrize("size", [(90, 120), (61, 33)])
def test_paste_is_torchvisions(size: tuple[int, int]) -> None:
    probabilities, boxes = _case(60, size, seed=1)
    expected = paste_masks_in_image(probabilities[:, None], boxes, size)[:, 0]
    torch.testing.assert_close(paste.paste(probabilities, boxes, size), expected)


def _pasted(probabilities: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], threshold: float) -> list[RLE]:
    pasted = paste_masks_in_image(probabilities[:, None], boxes, size)[:, 0] > threshold
    return paste.encode(pasted.numpy())


def _to_rle(
    probabilities: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], threshold: float = 0.5
) -> list[RLE]:
    """The masks of one image."""
    return paste.to_rles([probabilities], [boxes], [size], threshold)[0]


@pytest.mark.parametrize("size", [(90, 120), (61, 33), (200, 7)])
@pytest.mark.parametrize("m", [28, 112, 7])
def test_rle_is_that_of_the_pasted_mask(size: tuple[int, int], m: int) -> None:
    probabilities, boxes = _case(80, size, seed=2, m=m)
    expected = _pasted(probabilities, boxes, size, 0.5)
    found = _to_rle(probabilities, boxes, size)
    assert (coco_mask.area(expected) > 0).sum() > 30
    assert found == expected


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.0])
@pytest.mark.parametrize("kind", ["noise", "binary", "steps", "half", "nearly half", "full", "empty", "nan"])
def test_rle_where_rounding_tells(kind: str, threshold: float) -> None:
    size = (90, 120)
    blobs, boxes = _case(60, size, seed=3)
    boxes[::3] = boxes[::3].round()
    probabilities = {
        "noise": torch.rand(60, 28, 28),
        "binary": (blobs > 0.5).float(),
        "steps": (blobs * 8).round() / 8,
        "half": torch.full((60, 28, 28), 0.5),
        "nearly half": 0.5 + (blobs - 0.5) * 1e-6,
        "full": torch.ones(60, 28, 28),
        "empty": torch.zeros(60, 28, 28),
        "nan": blobs.where(torch.rand(60, 28, 28) > 0.02, torch.nan),
    }[kind]
    assert _to_rle(probabilities, boxes, size, threshold) == _pasted(probabilities, boxes, size, threshold)


def test_rle_of_masks_that_only_just_touch_the_threshold() -> None:
    """One row of the grid is 0.5 but for rounding in one column of pixels, and a row of pixels lies right on it."""
    torch.manual_seed(6)
    # grown, the box begins at column 8 and has 60 x 30 pixels; the grid with its border has 30 x 30 cells
    box, size = torch.tensor([10.0, 19.5, 65.5, 47.0]), (60, 80)
    column = 30
    cell, weight = 13, 0.75  # (column + 0.5) * 30 / 60 - 0.5 = 14.75, of which 1 is the border
    probabilities = torch.zeros(400, 28, 28)
    near = 0.1 + 0.3 * torch.rand(400)
    probabilities[:, 14, cell] = near
    probabilities[:, 14, cell + 1] = ((0.5 + 2**-25 - (1 - weight) * near.double()) / weight).float()
    expected = _pasted(probabilities, box.expand(400, 4), size, 0.5)
    touched = coco_mask.decode([{**code, "counts": code["counts"].encode()} for code in expected])[:, 8 + column]
    assert 50 < touched.sum() < 350
    assert _to_rle(probabilities, box.expand(400, 4), size) == expected


def test_rle_of_boxes_up_to_the_border_and_far_over_it() -> None:
    size = (50, 70)
    probabilities, _ = _case(5, size, seed=4)
    boxes = torch.tensor([[0, 0, 70, 50], [60, 40, 70, 50], [69, 49, 70, 50], [-900, -700, 999, 800], [0, 40, 70, 500]])
    for masks_for_rois in (probabilities, torch.ones(5, 28, 28)):
        assert _to_rle(masks_for_rois, boxes.float(), size) == _pasted(masks_for_rois, boxes.float(), size, 0.5)


@pytest.mark.parametrize("cells", [1, 5000, 2**20])
def test_rle_of_several_images_is_that_of_each(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paste, "_CELLS_IN_CACHE", cells)
    sizes = [(90, 120), (30, 20), (61, 33), (8, 9)]
    cases = [
        _case(count, size, seed=5) if count else (torch.zeros(0, 28, 28), torch.zeros(0, 4))
        for count, size in zip((30, 0, 20, 5), sizes, strict=True)
    ]
    cases[2][0][7] = 0.5
    expected = [_pasted(p, b, size, 0.5) if len(b) else [] for (p, b), size in zip(cases, sizes, strict=True)]
    assert paste.to_rles([p for p, _ in cases], [b for _, b in cases], sizes) == expected


def test_rle_of_crops_anywhere() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(300):
        height, width = numbers.integers(1, 12, 2)
        y, x = numbers.integers(0, height + 1), numbers.integers(0, width + 1)
        h, w = numbers.integers(0, height - y + 1), numbers.integers(0, width - x + 1)
        crop = numbers.random((h, w)) < numbers.choice([0.0, 0.5, 0.9, 1.0])
        image = np.zeros((1, height, width), dtype=np.uint8)
        image[0, y : y + h, x : x + w] = crop
        edges = paste._crop_edges(crop, int(x), int(y), int(height))
        assert rle.from_edges(edges, np.array([[height, width]])) == paste.encode(image)


def test_boxes_outside_the_image_or_inside_out_are_empty() -> None:
    boxes = torch.tensor(
        [
            [-50.0, 2.0, -20.0, 8.0],
            [30.0, 30.0, 40.0, 40.0],
            [3.0, -90.0, 9.0, -60.0],
            [2.0, 8.0, 9.0, 3.0],
            [9.0, 2.0, 3.0, 8.0],
        ]
    )
    empty = paste.encode(np.zeros((1, 10, 12), dtype=np.uint8))[0]
    assert _to_rle(torch.ones(5, 28, 28), boxes, (10, 12)) == [empty] * 5
    assert not paste.paste(torch.ones(5, 28, 28), boxes, (10, 12)).any()


def test_no_mask_at_all() -> None:
    assert _to_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 10)) == []
    assert paste.to_rles([], [], []) == []
    assert paste.paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 12)).shape == (0, 10, 12)


def test_rle_never_holds_a_image() -> None:
    boxes = torch.tensor([[10.0, 10.0, 200.0, 150.0]]).repeat(50, 1)
    call = lambda: _to_rle(torch.rand(50, 28, 28), boxes, (3000, 4000))  # noqa: E731
    assert peak_memory(call, torch.device("cpu")) < 3000 * 4000

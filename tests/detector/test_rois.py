"""RoIs against torchvision and against functions whose answer is known."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import MultiScaleRoIAlign

from instseg.detector import roi_align
from instseg.detector.mask_head import MaskTargets, class_channel
from instseg.detector.rois import RoIs, fpn_levels


def _pyramid(channels: int = 3, size: int = 256, images: int = 2) -> dict[int, torch.Tensor]:
    torch.manual_seed(0)
    return {level: torch.rand(images, channels, size // 2**level, size // 2**level) for level in (2, 3, 4, 5, 6)}


def _boxes(count: int, size: int = 256) -> torch.Tensor:
    corners = torch.rand(count, 2) * size * 0.6
    return torch.cat([corners, corners + 2 + torch.rand(count, 2) * (size - corners - 2)], dim=1)


@pytest.mark.parametrize("counts", [(7, 5), (0, 4), (3, 0), (0, 0)])
def test_align_is_torchvisions(counts: tuple[int, int]) -> None:
    pyramid = _pyramid()
    boxes = [_boxes(n) for n in counts]
    oracle = MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2)
    expected = oracle({str(level - 2): pyramid[level] for level in (2, 3, 4, 5)}, boxes, [(256, 256)] * 2)
    found = RoIs(pyramid, boxes).align(14)
    assert found.shape == (sum(counts), 3, 14, 14)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("path", [roi_align.by_rows, roi_align.AlignDenseBackward.apply])
@pytest.mark.parametrize("order", ["by image", "shuffled"])
def test_both_ways_to_align_agree_with_torchvision(path: Callable[..., torch.Tensor], order: str) -> None:
    torch.manual_seed(1)
    maps = {level: torch.rand(3, 5, 100 // 2**level, 140 // 2**level).requires_grad_() for level in (2, 3)}
    pyramid = roi_align.Pyramid(maps)
    # inside, across the borders, outside, without area, and turned over
    boxes = torch.cat([_boxes(20, 100), _boxes(20, 100) - 60, _boxes(5, 100) + 200, torch.full((2, 4), 7.0)])
    boxes = torch.cat([boxes, boxes[:3, [2, 3, 0, 1]]])
    image, level = torch.randint(0, 3, (50,)), torch.randint(2, 4, (50,))
    if order == "by image":
        image, level = image.sort().values, torch.full((50,), 2)
    expected = torch.zeros(50, 5, 7, 7)
    for k, features in maps.items():
        rois = torch.cat([image[:, None].float(), boxes], dim=1)[level == k]
        aligned = torchvision.ops.roi_align(features, rois, 7, 1 / 2**k, sampling_ratio=2)
        expected = expected.index_put((torch.where(level == k)[0],), aligned)
    grid = roi_align.Grid(pyramid.sizes(), 3, 7)
    found = path(pyramid.rows(), boxes / (2.0**level)[:, None], image, level - 2, grid).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)
    weights = torch.rand_like(found)
    gradients = [
        torch.autograd.grad((out * weights).sum(), list(maps.values()), materialize_grads=True)
        for out in (expected, found)
    ]
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_aligned_features_keep_the_maps_type_and_lie_channels_last() -> None:
    pyramid = {level: features.bfloat16() for level, features in _pyramid().items()}
    boxes = [_boxes(4), _boxes(2)]
    found = RoIs(pyramid, boxes).align(7)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=torch.channels_last)
    exact = RoIs({level: features.float() for level, features in pyramid.items()}, boxes).align(7)
    torch.testing.assert_close(found, exact.bfloat16())


def test_align_on_one_level_and_its_memory() -> None:
    rois = RoIs(_pyramid(), [_boxes(4), _boxes(2)])
    on_p2 = rois.align(28, level=2)
    assert on_p2.shape == (6, 3, 28, 28)
    assert rois.align(28, level=2) is on_p2
    assert rois.align(28) is not on_p2
    with pytest.raises(ValueError, match="level 7"):
        rois.align(14, level=7)


def test_levels_of_known_boxes() -> None:
    sides = torch.tensor([10.0, 111.0, 112.0, 224.0, 447.0, 448.0, 5000.0])
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], dim=1)
    assert fpn_levels(boxes).tolist() == [2, 2, 3, 4, 4, 5, 5]


def test_sample_reads_a_ramp_exactly() -> None:
    # a map whose value at a cell's centre is that centre's x in pixels; bilinear sampling must give x back
    xs = (torch.arange(64) + 0.5) * 4
    pyramid = {2: xs.expand(1, 1, 64, 64).clone()}
    boxes = torch.tensor([[20.0, 30.0, 120.0, 90.0], [40.0, 10.0, 60.0, 200.0]])
    points = torch.rand(2, 9, 2)
    found = RoIs(pyramid, [boxes]).sample(points, level=2)
    expected = boxes[:, None, 0] + points[..., 0] * (boxes[:, None, 2] - boxes[:, None, 0])
    torch.testing.assert_close(found, expected[:, None], atol=1e-3, rtol=0)


def test_sample_takes_each_box_from_its_own_image() -> None:
    pyramid = {2: torch.stack([torch.full((2, 8, 8), 1.0), torch.full((2, 8, 8), 2.0)])}
    boxes = [torch.tensor([[4.0, 4.0, 20.0, 20.0]]), torch.tensor([[8.0, 8.0, 24.0, 24.0]] * 2)]
    found = RoIs(pyramid, boxes).sample(torch.rand(3, 5, 2), level=2)
    assert found.shape == (3, 2, 5)
    assert found[:, 0, 0].tolist() == [1, 2, 2]


def test_crops_of_masks_are_torchvisions() -> None:
    torch.manual_seed(0)
    masks = [(torch.rand(3, 100, 120) > 0.5).to(torch.uint8), (torch.rand(2, 100, 120) > 0.5).to(torch.uint8)]
    boxes = [_boxes(4, 100), _boxes(3, 100)]
    matched = [torch.tensor([0, 2, 1, 2]), torch.tensor([1, 1, 0])]
    targets = MaskTargets(torch.ones(7, dtype=torch.int64), masks, matched, boxes)
    parts = zip(masks, boxes, matched, strict=True)
    expected = torch.cat([project_masks_on_boxes(m, b, i, 28) for m, b, i in parts])
    torch.testing.assert_close(targets.crop(28), expected)


@pytest.mark.parametrize("sizes", [((100, 120), (100, 120)), ((100, 120), (90, 60))])
def test_masks_at_points_are_those_of_grid_sample(sizes: tuple[tuple[int, int], ...]) -> None:
    torch.manual_seed(0)
    masks = [(torch.rand(n, *size) > 0.5).to(torch.uint8) for n, size in zip((3, 2), sizes, strict=True)]
    # some points lie within half a pixel of the border
    boxes = [_boxes(4, 100), torch.tensor([[0.0, 0.0, float(sizes[1][1]), float(sizes[1][0])]] * 3)]
    matched = [torch.tensor([0, 2, 1, 2]), torch.tensor([1, 1, 0])]
    points = torch.rand(7, 2000, 2)
    points[4:, 0] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    expected = []
    for m, b, i, p in zip(masks, boxes, matched, points.split([4, 3]), strict=True):
        xy = b[:, None, :2] + p * (b[:, None, 2:] - b[:, None, :2])
        grid = 2 * xy / torch.tensor([m.shape[2], m.shape[1]]) - 1
        whole = m[i][:, None].float()
        read = torch.nn.functional.grid_sample(whole, grid[:, None], padding_mode="border", align_corners=False)
        expected.append(read[:, 0, 0])
    found = MaskTargets(torch.ones(7, dtype=torch.int64), masks, matched, boxes).at(points)
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-4, rtol=0)


def test_masks_at_points_of_a_known_mask() -> None:
    # true left of x = 10; pixel centres at 9.5 and 10.5
    mask = torch.zeros(1, 40, 40, dtype=torch.uint8)
    mask[:, :, :10] = 1
    boxes = [torch.tensor([[0.0, 0.0, 20.0, 40.0]]), torch.zeros(0, 4)]
    matched = [torch.tensor([0]), torch.zeros(0, dtype=torch.int64)]
    targets = MaskTargets(torch.ones(1, dtype=torch.int64), [mask, mask[:0]], matched, boxes)
    points = torch.tensor([[[0.0, 0.5], [9.5 / 20, 0.1], [0.5, 0.2], [10.25 / 20, 1.0], [1.0, 0.0]]])
    torch.testing.assert_close(targets.at(points), torch.tensor([[1.0, 1.0, 0.5, 0.25, 0.0]]))


def test_samples_of_bfloat16_maps_lie_where_they_are_asked_for() -> None:
    # in an image of 4096 pixels, places in bfloat16 would be up to 8 pixels off
    ramp = (torch.arange(1024) % 2).float().expand(1, 1, 4, 1024)
    points = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[3000.0, 0.0, 3100.0, 16.0]])]
    found = RoIs({2: ramp.bfloat16()}, boxes).sample(points, level=2)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, RoIs({2: ramp}, boxes).sample(points, level=2).bfloat16())


def test_class_channel() -> None:
    logits = torch.arange(2 * 3 * 4.0).reshape(2, 3, 2, 2)
    labels = torch.tensor([2, 1])
    assert torch.equal(class_channel(logits, labels), torch.stack([logits[0, 2], logits[1, 1]]))
    assert torch.equal(class_channel(logits[:, :1], labels), logits[:, 0])


def test_samples_are_exact_under_autocast() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 3, 200, 336)
    boxes, points = [torch.tensor([[900.0, 500.0, 1100.0, 700.0]])], torch.rand(1, 50, 2)
    exact = RoIs({2: features.bfloat16().float()}, boxes).sample(points, level=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = RoIs({2: features.bfloat16()}, boxes).sample(points, level=2)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16())


def test_a_broken_box_is_no_index() -> None:
    boxes = torch.tensor([[torch.nan, 0.0, 5.0, 5.0], [0.0, 0.0, torch.inf, 5.0], [5.0, 5.0, 1.0, 9.0]])
    assert all(2 <= level <= 5 for level in fpn_levels(boxes).tolist())


def test_gradients_pass_where_backward_is_called_under_autocast() -> None:
    pyramid = {level: features.requires_grad_() for level, features in _pyramid().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        RoIs(pyramid, [_boxes(3), _boxes(2)]).align(7).sum().backward()
    assert pyramid[2].grad is not None and pyramid[2].grad.isfinite().all()


@pytest.mark.parametrize("path", [roi_align.by_rows, roi_align.AlignDenseBackward.apply])
def test_aligned_rois_are_torchvisions_aligned_ones(path: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(1)
    features = torch.rand(2, 5, 25, 35).requires_grad_()
    # inside, across the borders, and smaller than a cell
    small = torch.rand(4, 2) * 80
    boxes = torch.cat([_boxes(12, 100), _boxes(12, 100) - 60, torch.cat([small, small + 1.5], dim=1)])
    image = torch.arange(28) % 2
    rois = torch.cat([image[:, None].float(), boxes], dim=1)
    expected = torchvision.ops.roi_align(features, rois, 7, 1 / 4, sampling_ratio=2, aligned=True)
    pyramid = roi_align.Pyramid({2: features}, aligned=True)
    grid = roi_align.Grid(pyramid.sizes(), 2, 7, aligned=True)
    found = path(pyramid.rows(), boxes / 4 - 0.5, image, torch.zeros_like(image), grid).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)
    weights = torch.rand_like(found)
    gradients = [torch.autograd.grad((out * weights).sum(), features)[0] for out in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_maps_made_of_aligned_ones_are_aligned() -> None:
    maps = _pyramid()
    rois = RoIs(roi_align.Pyramid(maps, aligned=True), [_boxes(3), _boxes(2)])
    assert not torch.equal(rois.align(7), RoIs(maps, rois.boxes).align(7))
    assert torch.equal(rois.over(maps).align(7), rois.align(7))

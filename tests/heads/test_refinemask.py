"""RefineMask: contours, what each stage may change, and its loss."""

from typing import Any

import pytest
import torch

import heads
from heads.refinemask import RefineMask, near_contour, refine
from instseg.detector.mask_head import MaskTargets
from instseg.detector.rois import RoIs


def test_cells_near_a_contour() -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, :, :3] = True  # touches three sides of the box, which are no contour
    near_1, near_2 = near_contour(mask, 1), near_contour(mask, 2)
    assert near_1[0, 0].tolist() == [False, False, True, True, False, False, False, False]
    assert near_2[0, 7].tolist() == [False, True, True, True, True, False, False, False]
    assert not near_1[1].any() and torch.equal(near_contour(~mask, 2), near_2)


def test_finer_masks_replace_coarser_ones_near_the_contour_alone() -> None:
    coarse, middle = torch.full((1, 2, 2), 9.0), torch.full((1, 4, 4), -1.0)
    middle[..., :2] = 1.0
    fine = torch.full((1, 8, 8), 5.0)
    refined = refine([coarse, middle, fine])
    assert torch.equal(refined[0], coarse) and torch.equal(refined[1], middle)
    # the contour runs between the middle mask's columns 1 and 2: the fine one's 2 to 5
    assert refined[2][0, 0].tolist() == [1.0, 1.0, 5.0, 5.0, 5.0, 5.0, -1.0, -1.0]


class _FixedMasks(RefineMask):
    def masks(self, rois: RoIs, labels: torch.Tensor) -> list[torch.Tensor]:
        return self.fixed_masks


class _Halves(MaskTargets):
    """True left of the middle, without RoIAlign's shift of half a pixel."""

    def crop(self, size: int) -> torch.Tensor:
        return ((torch.arange(size) + 0.5) / size < 0.5).float().expand(1, size, size)


def _loss(masks: list[torch.Tensor], **options: bool) -> torch.Tensor:
    head = _FixedMasks(8, 2, width=16, **options)
    head.fixed_masks = masks
    boxes = [torch.tensor([[0.0, 0.0, 112.0, 112.0]])]
    targets = _Halves(torch.ones(1, dtype=torch.int64), [], [], boxes)
    return head.loss(torch.zeros(1, 2, 14, 14), RoIs({}, boxes), targets)["loss_mask"]


def _halves(edge: float = 0.5) -> list[torch.Tensor]:
    """Logits far from 0, true left of ``edge``."""
    sizes = (14, 28, 56, 112)
    return [torch.where((torch.arange(m) + 0.5) / m < edge, 30.0, -30.0).expand(1, m, m).clone() for m in sizes]


@pytest.mark.parametrize("stage", range(4))
def test_weights_of_the_stages(stage: int) -> None:
    masks = _halves()
    assert _loss(masks) == pytest.approx(0, abs=1e-6)
    masks[stage] = torch.zeros_like(masks[stage])
    expected = torch.tensor(2.0).log() * (stage + 1) / 4
    assert _loss(masks, boundary_loss=False) == pytest.approx(expected.item(), rel=1e-4)


def test_boundary_loss_reads_cells_near_contours() -> None:
    far, near = _halves(), _halves()
    far[3][..., :20] *= -1  # 36 cells from the contour
    near[3][..., 54:56] *= -1
    plain = [_loss(masks, boundary_loss=False).item() for masks in (far, near)]
    assert plain == pytest.approx([30 * 20 / 112, 30 * 2 / 112], rel=1e-3)
    # four columns of 56 on either side: eight of the last mask
    bound = [_loss(masks, boundary_loss=True).item() for masks in (far, near)]
    assert bound == pytest.approx([0, 30 * 2 / 8], abs=1e-3)


def test_the_contour_of_the_prediction_is_read_too() -> None:
    # the masks before the last put the contour at a quarter; the last is wrong there, right at the half
    masks = _halves(0.25)
    masks[3] = _halves()[3]
    masks[3][..., 28] *= -1
    wrong = _loss(masks)
    masks[3][..., 28] *= -1
    assert wrong > _loss(masks) + 1


def test_each_stage_reads_p2_and_the_mask_of_the_label() -> None:
    torch.manual_seed(0)
    head = heads.build("refinemask", 8, 3, width=16).eval()
    assert isinstance(head, RefineMask)
    pyramid = {k: torch.rand(1, 8, 128 // 2**k, 128 // 2**k) for k in (2, 3, 4, 5)}
    # a box that fits level 4: P2 comes in by the stages alone
    boxes = [torch.tensor([[-60.0, -60.0, 170.0, 170.0]])]
    changed = {**pyramid, 2: torch.rand(1, 8, 32, 32)}
    label = torch.tensor([1])
    with torch.no_grad():
        first, second = head.masks(RoIs(pyramid, boxes), label), head.masks(RoIs(changed, boxes), label)
        assert [mask.shape for mask in first] == [(1, m, m) for m in (14, 28, 56, 112)]
        assert torch.equal(first[0], second[0])
        assert all((a - b).abs().mean() > 1e-6 for a, b in zip(first[1:], second[1:], strict=True))
        torch.testing.assert_close(first[0], head(RoIs(pyramid, boxes))[:, 1])
        # the second mask of one class, with the first of another
        head.logits[0].bias[2] += 5
        assert torch.equal(head.masks(RoIs(pyramid, boxes), label)[1], first[1])
        head.logits[0].bias[1] += 5
        assert not torch.equal(head.masks(RoIs(pyramid, boxes), label)[1], first[1])


def test_the_first_features_are_made_once_and_taken_once() -> None:
    torch.manual_seed(0)
    head = heads.build("refinemask", 8, 3, width=16, norm="batch")
    pyramid = {k: torch.rand(1, 8, 128 // 2**k, 128 // 2**k) for k in (2, 3, 4, 5)}
    boxes, label = [torch.tensor([[10.0, 10.0, 90.0, 90.0]])], torch.tensor([1])
    targets = MaskTargets(label, [torch.ones(1, 128, 128)], [torch.tensor([0])], boxes)
    rois = RoIs(pyramid, boxes)
    loss = head.losses(head(rois), rois, targets)["loss_mask"]
    # running statistics that moved twice would have counted each batch double
    assert {int(b) for n, b in head.convs.named_buffers() if n.endswith("num_batches_tracked")} == {1}
    # computed again they are the same, and after a change of the weights nothing kept is used
    torch.testing.assert_close(head.loss(torch.zeros(1, 3, 14, 14), rois, targets)["loss_mask"], loss)
    with torch.no_grad():
        head.convs[0][0].weight.neg_()
    changed = head.loss(torch.zeros(1, 3, 14, 14), rois, targets)["loss_mask"]
    assert (changed - loss).abs() > 1e-5


def test_stages_stay_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubling them is eight times faster on a CPU then."""
    torch.manual_seed(0)
    head = heads.build("refinemask", 8, 3, width=16).eval()
    interpolate, formats = torch.nn.functional.interpolate, []

    def recorded(x: torch.Tensor, **options: Any) -> torch.Tensor:
        formats.append((x.shape[1], x.is_contiguous(memory_format=torch.channels_last)))
        return interpolate(x, **options)

    monkeypatch.setattr(torch.nn.functional, "interpolate", recorded)
    pyramid = {k: torch.rand(1, 8, 128 // 2**k, 128 // 2**k) for k in (2, 3, 4, 5)}
    head.masks(RoIs(pyramid, [torch.tensor([[10.0, 10.0, 90.0, 90.0]])]), torch.tensor([1]))
    assert formats == [(8, True), (4, True), (2, True)]

"""Mask Scoring R-CNN's arithmetic, worked out by hand."""

import pytest
import torch
import torch.nn.functional as F

import heads
from heads.maskiou import MaskIoU
from instseg.detector.mask_head import MaskTargets
from instseg.detector.rois import RoIs


def _targets(boxes: list[list[float]], mask: tuple[slice, slice]) -> MaskTargets:
    masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
    masks[0][mask] = 1
    labels, matched = torch.ones(len(boxes), dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.int64)
    return MaskTargets(labels, [masks], [matched], [torch.tensor(boxes)])


@pytest.mark.parametrize(
    ("box", "predicted", "expected"),
    [
        # the true mask is 8 x 8 at (8, 8), and RoIAlign without aligned=True reads half a pixel too far right and down
        ([7.5, 7.5, 15.5, 15.5], (slice(None), slice(None)), 1.0),
        # the box lies within the mask: all of it predicted, yet a quarter of the whole
        ([9.5, 9.5, 13.5, 13.5], (slice(None), slice(None)), 0.25),
        # a box twice as wide: half of it is background
        ([7.5, 7.5, 23.5, 15.5], (slice(None), slice(None)), 0.5),
        # and only the upper half predicted: 32 right of 64 predicted and 64 true, 64 + 64 - 32 in all
        ([7.5, 7.5, 23.5, 15.5], (slice(0, 2), slice(None)), 32 / 96),
        ([7.5, 7.5, 15.5, 15.5], (slice(0, 0), slice(0, 0)), 0.0),
    ],
)
def test_the_iou_is_with_the_whole_true_mask(box: list[float], predicted: tuple[slice, slice], expected: float) -> None:
    targets = _targets([box], (slice(8, 16), slice(8, 16)))
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0][predicted] = True
    torch.testing.assert_close(targets.iou(masks), torch.tensor([expected]), atol=1e-5, rtol=0)


def test_no_rois_have_no_iou() -> None:
    targets = MaskTargets(
        torch.zeros(0, dtype=torch.int64),
        [torch.zeros(0, 32, 32, dtype=torch.uint8)],
        [torch.zeros(0, dtype=torch.int64)],
        [torch.zeros(0, 4)],
    )
    assert targets.iou(torch.zeros(0, 4, 4)).shape == (0,)


def _head(**options: object) -> MaskIoU:
    torch.manual_seed(0)
    head = heads.build("maskiou", 8, 3, **options)
    assert isinstance(head, MaskIoU)
    return head


def _rois() -> RoIs:
    generator = torch.Generator().manual_seed(1)
    pyramid = {k: torch.rand(1, 8, 128 // 2**k, 128 // 2**k, generator=generator) for k in (2, 3, 4, 5)}
    return RoIs(pyramid, [torch.tensor([[7.5, 7.5, 23.5, 15.5], [7.5, 7.5, 15.5, 15.5]])])


def test_the_loss_is_the_squared_error_of_the_true_class_s_iou() -> None:
    head, rois = _head(), _rois()
    targets = _targets(rois.boxes[0].tolist(), (slice(8, 16), slice(8, 16)))
    targets.labels[:] = torch.tensor([2, 1])
    final = head.layers[-1]
    assert isinstance(final, torch.nn.Linear)
    torch.nn.init.zeros_(final.weight)
    with torch.no_grad():
        final.bias.copy_(torch.tensor([9.0, 0.25, 0.75]))
    # masks of all ones: IoUs of 0.5 and 1
    logits = torch.full((2, 3, 4, 4), 5.0)
    losses = head.loss(logits, rois, targets)
    expected = ((0.75 - 0.5) ** 2 + (0.25 - 1) ** 2) / 2
    torch.testing.assert_close(losses["loss_mask_iou"], torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_the_wrapped_head_equals_the_plain_head() -> None:
    torch.manual_seed(0)
    plain = heads.build("fcn", 8, 3)
    head, rois = _head(), _rois()
    for key, value in plain.state_dict().items():
        assert torch.equal(head.wrapped.state_dict()[key], value)
    targets = _targets(rois.boxes[0].tolist(), (slice(8, 16), slice(8, 16)))
    losses = head.loss(head(rois), rois, targets)
    torch.testing.assert_close(losses["loss_mask"], plain.loss(plain(rois), rois, targets)["loss_mask"])
    # the loss of the IoU has no gradient for the wrapped head
    losses["loss_mask_iou"].backward()
    assert all(p.grad is None for p in head.wrapped.parameters())
    labels = torch.tensor([1, 2])
    assert torch.equal(head.predict(rois, labels).probabilities, plain.predict(rois, labels).probabilities)


def test_a_mask_s_score_is_its_class_s_iou_between_0_and_1() -> None:
    head, rois = _head(), _rois()
    final = head.layers[-1]
    assert isinstance(final, torch.nn.Linear)
    torch.nn.init.zeros_(final.weight)
    with torch.no_grad():
        final.bias.copy_(torch.tensor([9.0, 0.3, 1.7]))
    scores = head.predict(rois, torch.tensor([1, 2])).scores
    torch.testing.assert_close(scores, torch.tensor([0.3, 1.0]))


def test_the_mask_is_max_pooled_beside_the_features() -> None:
    head, rois = _head(), _rois()
    masks = torch.rand(2, 28, 28)
    inputs_of_convs = []
    head.convs.register_forward_hook(lambda _, args, __: inputs_of_convs.append(args[0]))
    head.iou(masks, rois, torch.tensor([1, 2]))
    assert torch.equal(inputs_of_convs[0][:, :8], rois.align(14))
    assert torch.equal(inputs_of_convs[0][:, 8], F.max_pool2d(masks, 2))


def test_it_learns_to_rate_masks() -> None:
    head, rois = _head(), _rois()
    targets = _targets(rois.boxes[0].tolist(), (slice(8, 16), slice(8, 16)))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(head.losses(head(rois), rois, targets).values())).sum().backward()
        optimizer.step()
    masks = head.predict(rois, targets.labels)
    assert masks.scores is not None
    torch.testing.assert_close(masks.scores, targets.iou(masks.probabilities > 0.5), atol=0.1, rtol=0)

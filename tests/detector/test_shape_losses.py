"""Dice and boundary losses on cases worked out by hand."""

import torch

from instseg.detector.shape_losses import boundary_loss, contour, dice_loss


def _square() -> torch.Tensor:
    mask = torch.zeros(1, 6, 6)
    mask[0, 1:5, 1:5] = 1
    return mask


def test_dice_by_hand() -> None:
    mask = _square()
    assert dice_loss(mask, mask) == 0
    assert dice_loss(torch.zeros(1, 6, 6), torch.zeros(1, 6, 6)) == 0
    # nothing of 16 cells: 1 - (0 + 1) / (0 + 16 + 1)
    torch.testing.assert_close(dice_loss(torch.zeros(1, 6, 6), mask), torch.tensor(16 / 17))
    # half sure everywhere: 1 - (2 * 8 + 1) / (36 / 4 + 16 + 1); beside a perfect one, the mean of both
    unsure = torch.full((1, 6, 6), 0.5)
    torch.testing.assert_close(dice_loss(unsure, mask), torch.tensor(1 - 17 / 26))
    both = dice_loss(torch.cat([unsure, mask]), torch.cat([mask, mask]))
    torch.testing.assert_close(both, torch.tensor((1 - 17 / 26) / 2))


def test_the_contour_lies_on_both_sides_of_a_mask_s_end() -> None:
    expected = torch.ones(6, 6)
    # the 2 x 2 cells in the middle see the square alone
    expected[2:4, 2:4] = 0
    assert torch.equal(contour(_square())[0], expected)
    # the box's border is no end of a mask
    assert not contour(torch.ones(1, 6, 6)).any()
    half = torch.zeros(1, 6, 6)
    half[0, :, :3] = 1
    assert torch.equal(contour(half)[0].sum(0), torch.tensor([0.0, 0, 6, 6, 0, 0]))


def test_the_boundary_loss_reads_the_true_contour_alone() -> None:
    half = torch.zeros(1, 6, 6)
    half[0, :, :3] = 1
    logits = torch.where(half > 0, 3.0, -3.0)
    # 12 cells on the contour, all right by 3; the contour of the probabilities is 0 or p - (1 - p)
    p = torch.tensor(3.0).sigmoid()
    height = 2 * p - 1
    dice = 1 - (2 * 12 * height + 1) / (12 * height**2 + 12 + 1)
    torch.testing.assert_close(boundary_loss(logits, half), -p.log() + dice)
    # a wrong cell far from the contour tells by the contour that it makes, not by its cross-entropy
    wrong = logits.clone()
    wrong[0, 0, 0] = -3
    assert boundary_loss(wrong, half) > boundary_loss(logits, half)
    worse = logits.clone()
    worse[0, 0, 0] = -60
    assert boundary_loss(worse, half) < boundary_loss(wrong, half) + 0.1


def test_no_contour_and_no_rois() -> None:
    full = torch.ones(1, 6, 6)
    assert boundary_loss(torch.full((1, 6, 6), 4.0), full) < 1e-5
    for count in (0,):
        logits = torch.zeros(count, 6, 6, requires_grad=True)
        loss = boundary_loss(logits, logits.detach()) + dice_loss(logits.sigmoid(), logits.detach())
        assert loss == 0
        loss.backward()


def test_gradients_are_finite_from_a_flat_start() -> None:
    logits = torch.zeros(2, 8, 8, requires_grad=True)
    truth = torch.zeros(2, 8, 8)
    truth[:, 2:6, 2:6] = 1
    (boundary_loss(logits, truth) + dice_loss(logits.sigmoid(), truth)).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0

"""NMS against torchvision's, which walks from box to box; exact equality, ties included."""

import pytest
import torch
import torchvision

from instseg.detector import boxes as box_ops
from instseg.detector import nms


def _oracle(boxes: torch.Tensor, valid: torch.Tensor, threshold: float, labels: torch.Tensor | None) -> torch.Tensor:
    """torchvision's batched_nms in its exact form: it moves groups apart where there are few boxes, which rounds."""
    kept = torch.zeros_like(valid)
    falling = torch.arange(boxes.shape[1], 0, -1).float()
    for row, (box, ok) in enumerate(zip(boxes, valid, strict=True)):
        index = ok.nonzero()[:, 0]
        groups = torch.zeros(len(index)) if labels is None else labels[row, index]
        found = torchvision.ops.boxes._batched_nms_vanilla(box[index], falling[index], groups, threshold)
        kept[row, index[found]] = True
    return kept


def _check(
    boxes: torch.Tensor, threshold: float, valid: torch.Tensor | None = None, labels: torch.Tensor | None = None
):
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool) if valid is None else valid
    expected = _oracle(boxes, valid, threshold, labels)
    for method in (nms.fixed_point, nms.keep):
        assert torch.equal(method(boxes, valid, threshold, labels), expected), method.__name__
    return expected


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_random_boxes(seed: int, threshold: float) -> None:
    torch.manual_seed(seed)
    corners = torch.rand(6, 150, 2) * 60
    boxes = torch.cat([corners, corners + 1 + torch.rand(6, 150, 2) * 40], dim=2)
    valid = torch.rand(6, 150) > 0.2
    labels = torch.randint(1, 4, (6, 150))
    kept = _check(boxes, threshold, valid, labels)
    assert 0 < kept.sum() <= valid.sum()
    _check(boxes, threshold, valid)


@pytest.mark.parametrize("threshold", [0.2, 0.25, 1 / 3, 0.4, 0.5, 0.6, 0.7, 0.75])
def test_boxes_on_a_coarse_grid_have_ious_at_the_threshold_itself(threshold: float) -> None:
    torch.manual_seed(0)
    corners = torch.randint(0, 6, (20, 80, 2))
    boxes = torch.cat([corners, corners + torch.randint(1, 8, (20, 80, 2))], dim=2).float()
    _check(boxes, threshold)


def test_a_chain_of_suppressions_takes_many_rounds() -> None:
    # each box overlaps its neighbours only: every other one stays, and each decision waits for the one before
    starts = torch.arange(200.0) * 4
    boxes = torch.stack([starts, torch.zeros(200), starts + 10, torch.full((200,), 10.0)], dim=1)[None]
    kept = _check(boxes, 0.3)
    assert kept[0].tolist() == [i % 2 == 0 for i in range(200)]


def test_identical_empty_and_nan_boxes() -> None:
    same = torch.tensor([3.0, 3.0, 9.0, 9.0]).expand(1, 20, 4).clone()
    assert _check(same, 0.5).sum() == 1
    # IoU 1 is not above 1
    assert _check(same, 1.0).sum() == 20
    empty = torch.zeros(1, 5, 4)
    assert _check(empty, 0.5).sum() == 5
    same[0, ::2] = torch.nan
    valid = ~same.isnan().any(-1)
    assert _check(same, 0.5, valid).sum() == 1


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    _check(torch.rand(*shape, 4).sort(-1).values, 0.5)


def test_groups_that_are_too_large_for_a_table_are_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.rand(2, 30, 4, device="meta")
    seen: list[int] = []
    monkeypatch.setattr(nms, "fixed_point", lambda boxes, *others: seen.append(boxes.shape[1]))
    nms.keep(boxes, boxes[..., 0] > 0, 0.5)
    assert seen == [30]
    monkeypatch.setattr(nms, "LARGEST_GROUP", 29)
    monkeypatch.setattr(nms, "_group_by_group", lambda boxes, *others: seen.append(-boxes.shape[1]))
    nms.keep(boxes, boxes[..., 0] > 0, 0.5)
    assert seen == [30, -30]


def test_parts_of_a_batch_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    corners = torch.rand(7, 40, 2) * 20
    boxes = torch.cat([corners, corners + 10], dim=2)
    valid, labels = torch.ones(7, 40, dtype=torch.bool), torch.randint(0, 2, (7, 40))
    whole = nms.fixed_point(boxes, valid, 0.5, labels)
    sizes: list[int] = []
    real = box_ops.iou
    monkeypatch.setattr(nms, "rows_at_a_time", lambda elements: max(1, 5000 // elements))
    monkeypatch.setattr(nms, "iou", lambda a, b: sizes.append(len(a)) or real(a, b))
    assert torch.equal(nms.fixed_point(boxes, valid, 0.5, labels), whole)
    assert sizes == [3, 3, 1]

"""Box arithmetic, matching and sampling against torchvision's, image by image."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, clip_boxes_to_image

from instseg.detector import boxes as box_ops
from instseg.detector import matching
from instseg.detector.matching import IGNORED, NEGATIVE, POSITIVE


def _boxes(*shape: int, extent: float = 100) -> torch.Tensor:
    corners = torch.rand(*shape, 2) * extent * 0.7
    return torch.cat([corners, corners + 1 + torch.rand(*shape, 2) * extent * 0.4], dim=-1)


def test_box_arithmetic_is_torchvisions() -> None:
    torch.manual_seed(0)
    anchors, boxes, deltas = _boxes(3, 9), _boxes(3, 9), torch.randn(3, 9, 4) * 3
    for weights in ((1.0, 1.0), (10.0, 5.0)):
        coder = BoxCoder((weights[0],) * 2 + (weights[1],) * 2)
        for i in range(3):
            found = box_ops.encode(boxes, anchors, weights)[i]
            torch.testing.assert_close(found, coder.encode_single(boxes[i], anchors[i]))
            found = box_ops.decode(deltas, anchors, weights)[i]
            torch.testing.assert_close(found, coder.decode_single(deltas[i], anchors[i]))
    sizes = torch.tensor([[50, 70], [30, 90], [100, 20]])
    clipped = box_ops.clip(boxes - 20, sizes)
    for i, size in enumerate(sizes.tolist()):
        assert torch.equal(clipped[i], clip_boxes_to_image(boxes[i] - 20, tuple(size)))
    assert torch.equal(box_ops.iou(anchors, boxes)[1], box_iou(anchors[1], boxes[1]))


def _targets(counts: list[int]) -> list[dict[str, torch.Tensor]]:
    return [{"boxes": _boxes(n), "labels": torch.randint(1, 5, (n,))} for n in counts]


@pytest.mark.parametrize("best_too", [False, True])
@pytest.mark.parametrize(("high", "low"), [(0.7, 0.3), (0.5, 0.5), (0.2, 0.1)])
def test_matches_are_torchvisions(high: float, low: float, best_too: bool) -> None:
    torch.manual_seed(1)
    targets = _targets([4, 0, 7, 1])
    # an instance that nothing overlaps, and anchors that are equally good
    targets[3]["boxes"] = torch.tensor([[5000.0, 5000.0, 5010.0, 5010.0]])
    anchors = torch.cat([_boxes(60), _boxes(20).repeat(2, 1)])
    truth = matching.pad(targets)
    shared = matching.match(anchors, truth, high=high, low=low, best_too=best_too)
    own = matching.match(anchors.expand(4, -1, 4), truth, high=high, low=low, best_too=best_too)
    assert all(torch.equal(a, b) for a, b in zip(shared, own, strict=True))
    oracle = Matcher(high, low, allow_low_quality_matches=best_too)
    for i, target in enumerate(targets):
        if len(target["boxes"]) == 0:
            assert (shared[0][i] == NEGATIVE).all()
            continue
        expected = oracle(box_iou(target["boxes"], anchors))
        kinds = torch.where(expected >= 0, POSITIVE, torch.where(expected == -1, NEGATIVE, IGNORED))
        assert torch.equal(shared[0][i], kinds)
        positive = kinds == POSITIVE
        assert torch.equal(shared[1][i][positive], expected[positive])


def test_matching_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    truth, anchors = matching.pad(_targets([3, 5, 2, 4, 0])), _boxes(30)
    whole = matching.match(anchors, truth, high=0.5, low=0.3)
    monkeypatch.setattr(matching, "rows_at_a_time", lambda elements: 2)
    parts = matching.match(anchors, truth, high=0.5, low=0.3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_padding_of_images_without_instances() -> None:
    truth = matching.pad(_targets([0, 0]))
    assert truth.boxes.shape == (2, 1, 4) and not truth.valid.any()


def test_samples_hold_what_they_should() -> None:
    torch.manual_seed(3)
    kinds = torch.full((4, 50), IGNORED)
    kinds[0, :20], kinds[0, 20:] = POSITIVE, NEGATIVE
    kinds[1, :2], kinds[1, 10:40] = POSITIVE, NEGATIVE
    kinds[2, :3] = NEGATIVE
    chosen = matching.sample(kinds, 16, 0.25)
    assert chosen.most == 4
    assert chosen.positive.sum(1).tolist() == [4, 2, 0, 0]
    assert chosen.valid.sum(1).tolist() == [16, 16, 3, 0]
    picked = matching.gather_rows(kinds, chosen.indices)
    assert torch.equal(picked == POSITIVE, chosen.positive | ((picked == POSITIVE) & ~chosen.valid))
    assert (picked[chosen.valid & ~chosen.positive] == NEGATIVE).all()
    for row, valid in zip(chosen.indices, chosen.valid, strict=True):
        assert len(row[valid].unique()) == valid.sum()
    # the positives lie in the first columns, as promised
    assert not chosen.positive[:, chosen.most :].any()


def test_every_box_is_as_likely_as_the_others() -> None:
    torch.manual_seed(4)
    kinds = torch.tensor([POSITIVE] * 8 + [NEGATIVE] * 12)[None].expand(4000, -1)
    chosen = matching.sample(kinds, 8, 0.5)
    drawn = torch.bincount(chosen.indices.flatten(), minlength=20) / 4000
    # half of the positives and a third of the negatives; 5 standard deviations of 4,000 draws
    torch.testing.assert_close(drawn[:8], torch.full((8,), 1 / 2), atol=5 * (0.25 / 4000) ** 0.5, rtol=0)
    torch.testing.assert_close(drawn[8:], torch.full((12,), 1 / 3), atol=5 * (0.22 / 4000) ** 0.5, rtol=0)


def test_more_is_asked_for_than_there_is() -> None:
    kinds = torch.tensor([[POSITIVE, NEGATIVE, POSITIVE]])
    chosen = matching.sample(kinds, 512, 0.25)
    assert chosen.valid.all() and chosen.positive.sum() == 2
    assert sorted(chosen.indices[0].tolist()) == [0, 1, 2]


def test_nothing_in_matching_and_sampling_waits_for_numbers() -> None:
    # a graph without breaks holds no transfer to the CPU
    def work(boxes: torch.Tensor, truth: matching.PaddedTargets) -> tuple[torch.Tensor, torch.Tensor]:
        kinds, matched = matching.match(boxes, truth, high=0.5, low=0.5, best_too=True)
        chosen = matching.sample(kinds, 8, 0.5)
        return matching.gather_rows(matched, chosen.indices), chosen.valid

    torch.manual_seed(5)
    truth, boxes = matching.pad(_targets([3, 2])), _boxes(2, 30)
    torch.compile(work, fullgraph=True, backend="eager")(boxes, truth)

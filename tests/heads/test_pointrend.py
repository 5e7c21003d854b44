"""PointRend: which points it learns on and which cells it decides."""

import pytest
import torch
import torch.nn.functional as F

import heads
from heads.pointrend import PointRend
from instseg.detector.mask_head import MaskTargets
from instseg.detector.rois import RoIs


def _head(num_classes: int = 3, **options: object) -> PointRend:
    torch.manual_seed(0)
    head = heads.build("pointrend", 8, num_classes, **options)
    assert isinstance(head, PointRend)
    return head.eval()


def _rois(count: int = 3) -> RoIs:
    generator = torch.Generator().manual_seed(0)
    pyramid = {k: torch.rand(1, 8, 64 // 2**k, 64 // 2**k, generator=generator) for k in (2, 3, 4, 5)}
    corners = torch.rand(count, 2, generator=generator) * 20
    return RoIs(pyramid, [torch.cat([corners, corners + 30], dim=1)])


def _edge(count: int = 3, side: int = 7) -> torch.Tensor:
    """Logits that cross zero in the middle of each box, going right."""
    return torch.linspace(-3, 3, side).expand(count, side, side)


def test_the_paper_s_sizes() -> None:
    head = heads.build("pointrend", 256, 81)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")}
    assert list(shapes.values()) == [
        (256, 256, 2, 2),
        (1024, 256 * 49),
        (1024, 1024),
        (81 * 49, 1024),
        *[(256, 256 + 81)] * 3,
        (81, 256 + 81),
    ]
    points = head.training_points(_edge())
    assert points.shape == (3, 196, 2)
    assert points.min() >= 0 and points.max() <= 1


@pytest.mark.parametrize("importance", [0.0, 0.75, 1.0])
def test_important_points_lie_where_the_coarse_mask_is_uncertain(importance: float) -> None:
    head = _head(points=4000, importance=importance)
    x = head.training_points(_edge())[..., 0]
    # a fifth of uniform points lies within 0.1 of the edge; the chosen ones, out of three times as many, lie within
    # importance / 3 around it
    share = ((x - 0.5).abs() < 0.1).float().mean()
    expected = 0.2 * (1 - importance) + min(importance, 0.6)
    assert share == pytest.approx(expected, abs=0.03)


def test_points_follow_torchs_generator() -> None:
    head = _head()
    torch.manual_seed(5)
    first, second = head.training_points(_edge()), head.training_points(_edge())
    torch.manual_seed(5)
    assert torch.equal(head.training_points(_edge()), first)
    assert not torch.equal(first, second)


def test_loss_is_the_cross_entropy_of_the_true_class_at_the_points() -> None:
    head, rois = _head(), _rois()
    masks = [(torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.5).to(torch.uint8)]
    targets = MaskTargets(torch.tensor([2, 1, 2]), masks, [torch.zeros(3, dtype=torch.int64)], rois.boxes)
    logits = head(rois)
    torch.manual_seed(7)
    losses = head.loss(logits, rois, targets)
    assert set(losses) == {"loss_mask", "loss_mask_point"}
    torch.manual_seed(7)
    rows = torch.arange(3)
    points = head.training_points(logits[rows, targets.labels])
    point_logits = head.point_head(points, logits, rois)[rows, :, targets.labels]
    expected = F.binary_cross_entropy_with_logits(point_logits, targets.at(points))
    torch.testing.assert_close(losses["loss_mask_point"], expected, rtol=1e-5, atol=1e-6)
    coarse = F.binary_cross_entropy_with_logits(logits[rows, targets.labels], targets.crop(7))
    torch.testing.assert_close(losses["loss_mask"], coarse)


def test_the_coarse_mask_is_read_where_the_points_are() -> None:
    # with only the coarse values let through, the point head's logits are those of the coarse mask, interpolated
    head, rois = _head(num_classes=1, width=1), _rois()
    with torch.no_grad():
        for layer in [*head.point_layers, head.point_logits]:
            layer.weight.zero_()
            layer.weight[:, -1] = 1
    coarse = torch.rand(3, 1, 7, 7)
    size = 28
    cells = (torch.arange(size) + 0.5) / size
    points = torch.stack([cells.repeat(size), cells.repeat_interleave(size)], dim=1).expand(3, -1, 2)
    logits = head.point_head(points, coarse, rois)[..., 0].view(3, size, size)
    expected = F.interpolate(coarse, size=(size, size), mode="bilinear")[:, 0]
    torch.testing.assert_close(logits[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2])


class _FixedLogits(PointRend):
    """Gives fixed coarse and point logits, and keeps the points that are read."""

    def forward(self, rois: RoIs) -> torch.Tensor:
        return _edge(len(rois))[:, None].repeat(1, 3, 1, 1)

    def point_head(self, points: torch.Tensor, coarse: torch.Tensor, rois: RoIs) -> torch.Tensor:
        self.points_read.append(points)
        # a slanted edge: true above the diagonal, for class 2 alone
        truth = torch.where(points[..., 0] > points[..., 1], 9.0, -9.0)
        return torch.stack([-truth, torch.zeros_like(truth), truth], dim=-1)


def test_subdivision_decides_the_most_uncertain_cells() -> None:
    head = _FixedLogits(8, 3, subdivision_points=100, output_size=56)
    head.points_read = []
    masks = head.predict(_rois(), torch.tensor([2, 0, 2])).probabilities
    # 14, 28 and 56 cells a side, of which 100 are decided
    assert [points.shape for points in head.points_read] == [(3, 100, 2)] * 3
    assert ((head.points_read[0][..., 0] - 0.5).abs() <= 4.5 / 14).all()
    cells = (torch.arange(56) + 0.5) / 56
    x, y = head.points_read[-1].unbind(-1)
    rows, columns = (y * 56).long(), (x * 56).long()
    torch.testing.assert_close(x, cells[columns])
    torch.testing.assert_close(y, cells[rows])
    index = torch.arange(3)[:, None]
    decided = masks[index, rows, columns]
    truth = torch.where(x > y, 9.0, -9.0) * torch.tensor([1, -1, 1])[:, None]
    torch.testing.assert_close(decided, truth.sigmoid())


def test_enough_points_decide_every_cell() -> None:
    head = _FixedLogits(8, 3, subdivision_points=28**2, output_size=28)
    head.points_read = []
    masks = head.predict(_rois(), torch.tensor([2, 2, 2])).probabilities
    # the step from 7 to 14 would be undone by the next one
    assert [points.shape for points in head.points_read] == [(3, 28**2, 2)]
    expected = torch.ones(28, 28).triu(1) > 0
    assert torch.equal(masks > 0.5, expected.expand(3, -1, -1))


def test_predicting_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head, rois, labels = _head(output_size=56), _rois(), torch.tensor([1, 2, 0])
    with torch.no_grad():
        expected = head.predict(rois, labels).probabilities
        monkeypatch.setattr("heads.pointrend.POINTS_AT_ONCE", 200)
        sizes: list[int] = []
        point_head = head.point_head
        monkeypatch.setattr(
            head, "point_head", lambda points, *rest: (sizes.append(points.shape[1]), point_head(points, *rest))[1]
        )
        torch.testing.assert_close(head.predict(rois, labels).probabilities, expected)
    assert max(sizes) * 3 <= 200

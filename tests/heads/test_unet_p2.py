"""The U-Net with fine skips: where its skips come from."""

import pytest
import torch

import heads
from instseg.detector.rois import RoIs

SIZE = 128


def _rois(channels: int = 8) -> RoIs:
    generator = torch.Generator().manual_seed(0)
    pyramid = {
        k: torch.rand(2, channels, SIZE // 2**k, SIZE // 2**k, generator=generator).requires_grad_()
        for k in (2, 3, 4, 5, 6)
    }
    return RoIs(pyramid, [torch.tensor([[8.0, 8.0, 108.0, 108.0]]), torch.tensor([[4.0, 20.0, 90.0, 120.0]] * 2)])


def test_a_skip_is_the_aligned_map_in_fewer_channels() -> None:
    torch.manual_seed(0)
    head, rois = heads.build("unet_p2", 8, 2, width=16), _rois()
    joined: list[torch.Tensor] = []
    for stage in head.up:
        stage.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    head(rois)
    assert [x.shape for x in joined] == [(3, 16, 28, 28), (3, 8, 56, 56)]
    for x, skip in zip(joined, head.skip, strict=True):
        size, channels = x.shape[-1], x.shape[1] // 2
        torch.testing.assert_close(x[:, :channels], skip.laterals["2"](rois.align(size, level=2)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("levels", "read"), [("p2", {2, 4}), ("p2_p3", {2, 3, 4})])
def test_levels_that_are_read(levels: str, read: set[int]) -> None:
    rois = _rois()
    # a box of 230 pixels fits level 4, its skips do not
    rois = RoIs(rois.pyramid, [torch.tensor([[-60.0, -60.0, 170.0, 170.0]]), torch.zeros(0, 4)])
    torch.manual_seed(0)
    heads.build("unet_p2", 8, 2, width=16, levels=levels)(rois).sum().backward()
    assert {k for k, features in rois.pyramid.items() if features.grad is not None and features.grad.any()} == read


def test_details_finer_than_the_grid_of_the_rois_change_the_mask() -> None:
    # stripes of P2 that a grid of 14 cells averages out
    torch.manual_seed(0)
    head = heads.build("unet_p2", 8, 2, width=16).eval()
    box = [torch.tensor([[0.0, 0.0, 128.0, 128.0]])]
    flat = {k: torch.full((1, 8, SIZE // 2**k, SIZE // 2**k), 0.5) for k in (2, 3, 4, 5, 6)}
    striped = {**flat, 2: (torch.arange(32) % 2).float().expand(1, 8, 32, 32)}
    with torch.no_grad():
        change = (head(RoIs(striped, box)) - head(RoIs(flat, box)))[0, 0]
    inner = change[8:-8, 8:-8]
    assert inner.std(dim=1).mean() > 3 * inner.std(dim=0).mean()

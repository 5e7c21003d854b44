"""The hourglass, and the residual head that it is compared with."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import heads
from heads._blocks import Residual
from heads.hourglass import Stack
from instseg.detector.mask_head import MaskTargets
from instseg.detector.rois import RoIs


def _rois(count: int, channels: int = 16) -> RoIs:
    generator = torch.Generator().manual_seed(0)
    pyramid = {k: torch.rand(1, channels, 64 // 2**k, 64 // 2**k, generator=generator) for k in (2, 3, 4, 5)}
    return RoIs(pyramid, [torch.tensor([[4.0, 6.0, 50.0, 40.0]]).repeat(count, 1)])


@pytest.mark.parametrize("side", [14, 7, 5])
def test_an_hourglass_adds_the_maximum_of_the_patch_at_every_size_to_each_cell(side: int) -> None:
    stack, x = Stack(2, 3, "none"), torch.rand(2, 3, side, side)
    for block in stack.modules():
        if isinstance(block, Residual):
            # with zero weights a residual block passes positive values unchanged
            cast(nn.Conv2d, block.convs[1][0]).weight.data.zero_()
            cast(nn.Conv2d, block.convs[1][0]).bias.data.zero_()  # type: ignore[union-attr]
    expected = x.clone()
    for patch in (2, 4):
        for i in range(side):
            for j in range(side):
                top, left = i // patch * patch, j // patch * patch
                expected[..., i, j] += x[..., top : top + patch, left : left + patch].amax((-2, -1))
    torch.testing.assert_close(stack(x), expected)


@pytest.mark.parametrize("connected", [True, False])
def test_a_stack_reads_the_stack_before_through_the_convolution_between(connected: bool) -> None:
    torch.manual_seed(0)
    head = heads.build("hourglass", 16, 2, stacks=2).eval()
    if not connected:
        for parameter in cast(nn.ModuleList, head.between).parameters():
            parameter.data.zero_()
    before = head(_rois(2))
    for parameter in cast(nn.ModuleList, head.stacks)[0].parameters():
        parameter.data *= 0.5
    assert torch.equal(head(_rois(2)), before) is not connected


def test_only_the_last_stack_is_supervised() -> None:
    rois = _rois(2)
    matched = [torch.zeros(2, dtype=torch.int64)]
    targets = MaskTargets(torch.ones(2, dtype=torch.int64), [torch.ones(1, 64, 64)], matched, rois.boxes)
    head = heads.build("hourglass", 16, 2, stacks=2)
    assert head.loss(head(rois), rois, targets).keys() == {"loss_mask"}


@pytest.mark.parametrize("stacks", [1, 2])
def test_two_residual_blocks_cost_what_an_hourglass_costs(stacks: int) -> None:
    flops = []
    for head in (heads.build("hourglass", 32, 2, stacks=stacks), heads.build("resnet_head", 32, 2, blocks=2 * stacks)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            head(_rois(4, channels=32))
        flops.append(counter.get_total_flops())
    assert flops[0] == pytest.approx(flops[1], rel=0.05)


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_one_roi_trains_down_to_a_single_cell(norm: str) -> None:
    head = heads.build("hourglass", 16, 2, depth=3, roi_size=8, output_size=16, width=8, norm=norm)
    sizes: list[int] = []

    def record_size(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        sizes.append(output.shape[-1])

    for block in head.modules():
        if isinstance(block, Residual):
            block.register_forward_hook(record_size)
    logits = head(_rois(1))
    logits.sum().backward()
    assert min(sizes) == 1
    assert all(torch.isfinite(value).all() for value in head.state_dict().values())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())

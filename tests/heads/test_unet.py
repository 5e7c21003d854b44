"""The U-Net's options: what each part computes, and that the plain one stays what it was."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import heads
from heads import unet
from instseg.detector.rois import RoIs
from instseg.errors import UserError


def _rois() -> RoIs:
    pyramid = {k: torch.rand(1, 8, 128 // 2**k, 128 // 2**k) for k in (2, 3, 4, 5)}
    return RoIs(pyramid, [torch.tensor([[4.0, 4, 90, 80]])])


def _parameters(**options: Any) -> int:
    return sum(p.numel() for p in heads.build("unet", 32, 2, **options).parameters())


def test_the_plain_unet_is_unchanged() -> None:
    head = heads.build("unet", 32, 2)
    assert _parameters() == 122_274
    assert {key.split(".")[0] for key in head.state_dict()} == {"down", "grow", "up", "predictor"}
    assert list(head.state_dict())[:4] == [
        "down.0.0.0.weight",
        "down.0.0.0.bias",
        "down.0.1.0.weight",
        "down.0.1.0.bias",
    ]


@pytest.mark.parametrize(
    ("options", "more"),
    [
        # by hand: widths are 16, 32, 64 on a pyramid of 32 channels
        ({"skip": "add"}, -9 * (16 * 16 + 32 * 32)),
        # shortcuts of 32 -> 16 -> 32 -> 64 down, 64 -> 32 and 32 -> 16 up
        ({"block": "residual"}, 2 * (32 * 16) + 2 * (64 * 32) + 16 * 32 + 16 + 32 + 64 + 32 + 16),
        ({"skip": "attention"}, (2 * 32 * 16 + 16 + 16 + 1) + (2 * 16 * 8 + 8 + 8 + 1)),
        ({"up": "bilinear"}, -3 * (64 * 32 + 32 * 16)),
    ],
)
def test_parameters_of_an_option(options: dict[str, Any], more: int) -> None:
    assert _parameters(**options) - _parameters() == more


@pytest.mark.parametrize("up", list(unet.UPS))
@pytest.mark.parametrize("skip", ["concat", "add", "none", "attention"])
@pytest.mark.parametrize("roi_size", [14, 13, 28])
def test_every_stage_on_the_way_up_has_the_size_of_its_skip(up: str, skip: str, roi_size: int) -> None:
    head = heads.build("unet", 8, 2, depth=3, up=up, skip=skip, roi_size=roi_size, output_size=roi_size)
    sizes: dict[str, list[int]] = {"down": [], "up": []}
    for way, stages in (("down", head.get_submodule("down")), ("up", head.get_submodule("up"))):
        for stage in stages.children():
            stage.register_forward_hook(lambda _, __, y, way=way: sizes[way].append(y.shape[-1]))
    assert head(_rois()).shape[-2:] == (roi_size, roi_size)
    if roi_size == 14:
        assert sizes["down"] == [14, 7, 4, 2]
    assert sizes["up"] == sizes["down"][-2::-1]


@pytest.mark.parametrize("up", ["bilinear", "carafe"])
def test_upsampled_cells_lie_where_they_were_pooled(up: str) -> None:
    grow = unet.UPS[up](1, 1)
    # one channel that passes as it is; CARAFE's kernels are uniform
    for name, parameter in grow.named_parameters():
        torch.nn.init.constant_(parameter, 1.0 if name in ("0.weight", "halve.weight") else 0.0)
    fine = torch.arange(15.0).expand(1, 1, 15, 15)
    up_again = grow(F.avg_pool2d(fine, 2, ceil_mode=True))[..., :15, :15]
    inside = slice(4, 10)
    # within half a cell of the coarse grid, no drift to a side
    difference = (up_again - fine)[..., inside, inside]
    assert difference.abs().max() <= 0.5 + 1e-5
    assert difference.mean().abs() < 1e-5


def test_attention_gate_lets_through_a_share_of_the_skip() -> None:
    torch.manual_seed(0)
    gate = unet.AttentionGate(6)
    skip, gating = torch.randn(3, 6, 7, 7), torch.randn(3, 6, 7, 7)
    torch.nn.init.normal_(gate.psi.weight, std=3)
    weights = gate.weights(skip, gating)
    assert weights.shape == (3, 1, 7, 7)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert weights.std() > 0.1
    torch.testing.assert_close(gate(skip, gating), skip * weights)
    # the gating signal takes part in it
    assert not torch.allclose(gate.weights(skip, -gating), weights, atol=0.1)
    torch.nn.init.constant_(gate.psi.bias, -1e4)
    assert (gate(skip, gating) == 0).all()
    torch.nn.init.constant_(gate.psi.bias, 1e4)
    assert torch.equal(gate(skip, gating), skip)


def test_attention_weighs_the_skip_and_not_the_upsampled_features() -> None:
    torch.manual_seed(0)
    head = heads.build("unet", 8, 2, skip="attention", depth=1)
    tensors: list[Tensor] = []
    head.get_submodule("grow.0").register_forward_hook(lambda _, __, y: tensors.append(y))
    head.get_submodule("down.0").register_forward_hook(lambda _, __, y: tensors.append(y))
    head.get_submodule("up.0").register_forward_pre_hook(lambda _, x: tensors.append(x[0]))
    torch.nn.init.constant_(head.get_parameter("gates.0.psi.bias"), -1e4)
    head(_rois())
    skip, grown, joined = tensors
    assert skip.abs().sum() > 0
    assert (joined[:, :4] == 0).all()
    assert torch.equal(joined[:, 4:], grown)


def test_scse_weighs_cells_and_channels() -> None:
    torch.manual_seed(0)
    scse = unet.SCSE(6)
    x = torch.randn(3, 6, 5, 5)
    for layer in (scse.channel, scse.spatial):
        torch.nn.init.normal_(layer.weight)
    by_cell = F.conv2d(x, scse.spatial.weight, scse.spatial.bias).sigmoid()
    weights = scse(x) / x
    torch.nn.init.constant_(scse.spatial.bias, -1e4)
    by_channel = scse(x) / x
    assert torch.allclose(by_channel, by_channel[:, :, :1, :1])
    assert by_channel[0, :, 0, 0].std() > 0.01
    torch.testing.assert_close(weights, by_channel + by_cell)


def test_carafe_with_uniform_kernels_averages_the_neighbourhood() -> None:
    torch.manual_seed(0)
    carafe = unet.CARAFE(6, 3)
    torch.nn.init.zeros_(carafe.kernels.weight)
    torch.nn.init.zeros_(carafe.kernels.bias)
    x = torch.randn(2, 6, 7, 4)
    average = F.avg_pool2d(F.conv2d(x, carafe.halve.weight, carafe.halve.bias), 5, stride=1, padding=2)
    torch.testing.assert_close(carafe(x), F.interpolate(average, scale_factor=2, mode="nearest"))


def test_reassembly_takes_each_new_cells_own_kernel() -> None:
    torch.manual_seed(0)
    x, kernels = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5, 4, 9)
    padded, reassembled = F.pad(x, [1, 1, 1, 1]), unet.reassemble(x, kernels)
    assert reassembled.shape == (2, 3, 8, 10)
    for row, column in ((0, 0), (3, 4), (7, 9), (6, 1)):
        i, j = row // 2, column // 2
        kernel = kernels[:, i, j, 2 * (row % 2) + column % 2].view(2, 1, 3, 3)
        torch.testing.assert_close(
            reassembled[:, :, row, column], (padded[:, :, i : i + 3, j : j + 3] * kernel).sum((2, 3))
        )


def test_residual_stage_without_its_convolutions_passes_the_input() -> None:
    stage = unet.Residual(4, 4, "group")
    torch.nn.init.zeros_(stage.convs[1][1].weight)
    x = torch.randn(2, 4, 7, 7)
    assert torch.equal(stage(x), F.relu(x))


def test_weights_start_even() -> None:
    torch.manual_seed(0)
    head = heads.build("unet", 32, 2, skip="attention", scse=True, up="carafe")
    gate, scse = head.get_submodule("gates.0"), head.get_submodule("down.0.1")
    assert isinstance(gate, unet.AttentionGate) and isinstance(scse, unet.SCSE)
    skip = torch.rand(2, 32, 7, 7)
    torch.testing.assert_close(gate(skip, skip), skip / 2, atol=0.01, rtol=0.05)
    x = torch.rand(2, 16, 7, 7)
    torch.testing.assert_close(scse(x), x, atol=0.01, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"block": "resdual"}, ["head.options.block", "'resdual'", "residual"]),
        ({"skip": "atention"}, ["head.options.skip", "'atention'", "attention"]),
        ({"up": "deconvolution"}, ["head.options.up", "'deconvolution'", "deconv"]),
        ({"scse": "yes"}, ["scse='yes'", "true or false"]),
        ({"block": "residual", "norm": "bacth"}, ["'bacth'", "batch"]),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        heads.build("unet", 16, 4, **options)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)

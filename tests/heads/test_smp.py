"""The decoders of segmentation_models_pytorch as mask heads."""

import subprocess
import sys
from typing import Any, cast

import pytest
import segmentation_models_pytorch
import torch
from segmentation_models_pytorch.decoders.unet import decoder as library_unet
from torch import Tensor, nn

import heads
from heads.smp import DECODERS
from instseg.detector.rois import RoIs
from instseg.errors import UserError

CHANNELS = 16
every_decoder = pytest.mark.parametrize("decoder", list(DECODERS))


def _build(decoder: str, **options: Any) -> heads.MaskHead:
    torch.manual_seed(0)
    return heads.build("smp", CHANNELS, 2, decoder=decoder, **options)


def _rois(count: int) -> RoIs:
    generator = torch.Generator().manual_seed(0)
    pyramid = {k: torch.rand(1, CHANNELS, 64 // 2**k, 64 // 2**k, generator=generator) for k in (2, 3, 4, 5)}
    return RoIs(pyramid, [torch.tensor([[4.0, 6.0, 50.0, 40.0]]).repeat(count, 1)])


@every_decoder
@pytest.mark.parametrize("roi_size", [14, 28])
@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_every_decoder_trains_on_one_roi(decoder: str, roi_size: int, norm: str) -> None:
    head = _build(decoder, roi_size=roi_size, output_size=2 * roi_size, norm=norm)
    assert type(head.decoder).__module__.startswith("segmentation_models_pytorch.decoders.")
    assert all(module.training for module in head.modules())
    logits = head(_rois(1))
    assert logits.shape == (1, 2, 2 * roi_size, 2 * roi_size)
    logits.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    assert all(torch.isfinite(value).all() for value in head.state_dict().values())


@every_decoder
def test_without_rois_every_parameter_gets_a_gradient_of_zero(decoder: str) -> None:
    head = _build(decoder, norm="batch")
    logits = head(_rois(0))
    assert logits.shape == (0, 2, 28, 28)
    logits.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


@every_decoder
@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_a_decoder_has_the_norm_of_the_option_alone(decoder: str, norm: str) -> None:
    head = _build(decoder, norm=norm)
    kinds = {"group": nn.GroupNorm, "batch": nn.BatchNorm2d}
    norms = {name for module in head.modules() for name, kind in kinds.items() if isinstance(module, kind)}
    assert norms == {norm} - {"none"}
    if norm == "none":
        # all but the depthwise halves of separable convolutions bear a bias
        assert all(m.bias is not None for m in head.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)


@every_decoder
def test_first_logits_are_neither_constant_nor_huge_without_normalisation(decoder: str) -> None:
    # the last layer's weights are 0.001
    logits = _build(decoder)(_rois(4))
    assert 0.00001 < logits.std() < 0.02


class _Numbered(nn.Module):
    """Gives twice the finest map, each cell its row and column."""

    shapes: list[tuple[int, ...]]

    def forward(self, features: list[Tensor]) -> Tensor:
        self.shapes = [tuple(f.shape[1:]) for f in features]
        side = torch.arange(2 * features[1].shape[-1], dtype=torch.float32)
        return torch.stack(torch.meshgrid(side, side, indexing="ij"))[None]


def test_rois_are_padded_below_and_right_and_cut_again() -> None:
    head = _build("unetplusplus")
    numbered, grid = _Numbered(), torch.arange(28.0)
    head.decoder, head.predictor = numbered, nn.Identity()
    padded: list[Tensor] = []
    cast(nn.ModuleList, head.encoder)[0].register_forward_pre_hook(lambda _, inputs: padded.append(inputs[0]))
    torch.testing.assert_close(head(_rois(1))[0], torch.stack(torch.meshgrid(grid, grid, indexing="ij")))
    torch.testing.assert_close(padded[0][..., :14, :14], _rois(1).align(14))
    assert padded[0].shape[-2:] == (16, 16)
    assert not padded[0][..., 14:, :].any() and not padded[0][..., 14:].any()
    assert numbered.shapes == [(0, 32, 32), (8, 16, 16), (8, 8, 8), (8, 4, 4)]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"decoder": "unett"}, ["'unett'", "unet"]),
        ({"decoder": "fpn", "depth": 2}, ["decoder=fpn", "depth=2", "takes depth=3 there"]),
        ({"decoder": "deeplabv3plus", "depth": 3}, ["decoder=deeplabv3plus", "depth=3", "depth=1 or 2"]),
        ({"decoder": "pan", "depth": 2}, ["decoder=pan", "depth=2", "roi_size=14", "takes depth=1 there"]),
        ({"decoder": "pan", "roi_size": 7}, ["decoder=pan", "roi_size=7", "roi_size=8 or more"]),
        ({"decoder": "unet", "depth": 0}, ["decoder=unet", "depth=0", "depth=1 or 2 or 3 or 4 there"]),
        ({"decoder": "unet", "output_size": 14}, ["output_size=14", "decoder=unet", "roi_size=14 times 2"]),
        ({"decoder": "fpn", "output_size": 30}, ["output_size=30"]),
        ({"width": 3}, ["width=3", "4 or more"]),
        ({"norm": "layer"}, ["'layer'", "group"]),
    ],
)
def test_options_that_a_decoder_cannot_take_are_an_error_of_one_line(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        heads.build("smp", CHANNELS, 2, **options)
    assert "\n" not in str(error.value)
    if "decoder=" in parts[0]:
        parts = [*parts, segmentation_models_pytorch.__version__]
    for part in parts:
        assert part in str(error.value)


class _Renamed(nn.Module):
    """A decoder of a version whose arguments have other names."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()


class _Halving(nn.Module):
    """A decoder of a version that gives another size."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, features: list[Tensor]) -> Tensor:
        return features[-1]


@pytest.mark.parametrize(
    ("decoder", "message"), [(_Renamed, "unexpected keyword"), (_Halving, "it gave 4 cells a side")]
)
def test_another_version_of_the_library_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, decoder: type[nn.Module], message: str
) -> None:
    monkeypatch.setattr(library_unet, "UnetDecoder", decoder)
    with pytest.raises(UserError, match=message) as error:
        _build("unet")
    assert "\n" not in str(error.value)
    for part in ("decoder=unet", segmentation_models_pytorch.__version__, "0.6"):
        assert part in str(error.value)


def test_other_heads_do_not_import_the_library() -> None:
    program = (
        "import sys, heads; heads.build('fcn', 16, 2); heads.options('smp'); "
        "sys.exit('segmentation_models_pytorch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

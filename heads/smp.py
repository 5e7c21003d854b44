"""The decoders of segmentation_models_pytorch on each RoI."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import NORMS, Pointwise, conv, doublings, initialise, predictor
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import UserError, unknown_name

LIBRARY = "segmentation_models_pytorch"


class _Plan(NamedTuple):
    """What a decoder is told: its encoder's channels and depth, the head's width, the side of the smallest map."""

    channels: list[int]
    depth: int
    width: int
    smallest: int

    def to_half(self) -> dict[str, Any]:
        return {"decoder_channels": [self.width] * self.depth, "n_blocks": self.depth}


class _Decoder(NamedTuple):
    path: str
    settings: Callable[[_Plan], dict[str, Any]]
    halvings: range
    """How often the RoI's grid may be halved."""
    skipped: int = 2
    """How many maps finer than the decoder's finest one it thinks its encoder to have (it does not read them)."""
    doubled: int = 0
    """How often the decoder doubles its finest map."""
    least: int = 1
    """Height and width that the smallest map needs."""


_ANY = range(1, 9)
DECODERS = {
    "unet": _Decoder("unet.decoder.UnetDecoder", _Plan.to_half, _ANY, 1, 1),
    "unetplusplus": _Decoder("unetplusplus.decoder.UnetPlusPlusDecoder", _Plan.to_half, _ANY, 1, 1),
    "manet": _Decoder(
        "manet.decoder.MAnetDecoder",
        # its squeeze keeps 8 channels or more: a few ReLUs may all be dead from the start
        lambda plan: {**plan.to_half(), "reduction": min(16, max(1, plan.width // 8))},
        _ANY,
        1,
        1,
    ),
    "linknet": _Decoder(
        "linknet.decoder.LinknetDecoder",
        lambda plan: {"prefinal_channels": plan.width, "n_blocks": plan.depth},
        _ANY,
        1,
        1,
    ),
    "fpn": _Decoder(
        "fpn.decoder.FPNDecoder",
        lambda plan: {
            "encoder_depth": plan.depth,
            "pyramid_channels": plan.width,
            # its own normalisation, before ours takes its place, wants groups of 32
            "segmentation_channels": -(-plan.width // 32) * 32,
            "dropout": 0.0,
        },
        range(3, 4),
    ),
    "pan": _Decoder(
        "pan.decoder.PANDecoder",
        lambda plan: {"encoder_depth": plan.depth, "decoder_channels": plan.width},
        range(1, 4),
        least=8,
    ),
    "deeplabv3plus": _Decoder(
        "deeplabv3.decoder.DeepLabV3PlusDecoder",
        lambda plan: {
            "encoder_depth": plan.depth,
            "out_channels": plan.width,
            # the paper's 6, 12 and 18 on maps of 33×33, brought to this map's size
            "atrous_rates": [max(1, round(plan.smallest * rate / 33)) for rate in (6, 12, 18)],
            "output_stride": 2**plan.depth,
            "aspp_separable": True,
            "aspp_dropout": 0.0,
        },
        range(1, 3),
    ),
    "upernet": _Decoder(
        "upernet.decoder.UPerNetDecoder",
        lambda plan: {"encoder_depth": plan.depth, "decoder_channels": plan.width},
        _ANY,
    ),
    "segformer": _Decoder(
        "segformer.decoder.SegformerDecoder",
        lambda plan: {"encoder_depth": plan.depth, "segmentation_channels": plan.width},
        _ANY,
    ),
}


class SMP(MaskHead):
    """A decoder of segmentation_models_pytorch (Iakubovskii, 2019) on a small encoder of the RoI's features.

    The encoder has a 3×3 convolution a stage, and max-pooling halves the grid between them; every map and every layer
    has ``width`` channels. The grid is the finest map that the decoder reads: the one at half the image's size for
    ``unet`` (Ronneberger et al., MICCAI 2015), ``unetplusplus`` (Zhou et al., DLMIA 2018), ``manet`` (Fan et al., IEEE
    Access 2020) and ``linknet`` (Chaurasia & Culurciello, VCIP 2017), which therefore give twice the grid; the one at
    a quarter for ``fpn`` (Kirillov et al., *Panoptic Feature Pyramid Networks*, CVPR 2019), ``pan`` (Li et al., BMVC
    2018), ``deeplabv3plus`` (Chen et al., ECCV 2018), ``upernet`` (Xiao et al., ECCV 2018) and ``segformer`` (Xie et
    al., NeurIPS 2021), which give the grid. The end is the FCN's: deconvolutions up to ``output_size`` and a 1×1
    convolution.

    Most of these decoders double maps without a look at the skip's size, so RoIs are padded with zeros, right and
    below, until the grid can be halved ``depth`` times (14 -> 16), and what comes out is cut to the RoI. ``pan`` needs
    8×8 cells in its smallest map, too. ``norm`` takes the place of every batch and group normalisation in the
    decoder, also where the library offers no choice, so that heads of one study differ in nothing else; UPerNet's
    layer normalisation of its inputs stays. Dropout is off, as no other head has any.

    Args:
        in_channels: channels of the pyramid's maps.
        num_classes: output channels.
        decoder: one of ``DECODERS``.
        depth: how often the grid is halved: 3 for ``fpn``, 1 to 3 for ``pan``, 1 or 2 for ``deeplabv3plus``, 1 to 8
            for the others; None: 2, or the nearest that the decoder and ``roi_size`` allow.
        width: channels of each stage and of the decoder, at least 4; None: half as many as the pyramid's.
        norm: ``none``, ``group`` or ``batch``.
        roi_size: height and width of the RoIs' grid, at least half the size that it is padded to.
        output_size: height and width of the masks: what the decoder gives times 1, 2, 4 or so on.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        decoder: str = "unet",
        depth: int | None = None,
        width: int | None = None,
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 28,
    ) -> None:
        super().__init__()
        if decoder not in DECODERS:
            raise unknown_name("head.options.decoder", decoder, DECODERS)
        if width is None:
            width = in_channels // 2
        if width < 4:
            raise UserError(f"head.options: width={width} must be 4 or more")
        kind = DECODERS[decoder]
        fitting = [d for d in kind.halvings if 2 * roi_size >= kind.least * 2**d]
        if depth is None and fitting:
            depth = min(fitting, key=lambda d: abs(d - 2))
        if depth is None or depth not in fitting:
            least = -(-kind.least * 2 ** kind.halvings[0] // 2)
            works = f"depth={' or '.join(map(str, fitting))} there" if fitting else f"roi_size={least} or more"
            raise UserError(
                f"head.options: decoder={decoder} of {LIBRARY} {_version()} can't take "
                f"depth={'null' if depth is None else depth} at roi_size={roi_size}; it takes {works}"
            )
        steps = doublings(roi_size, output_size) - kind.doubled
        if steps < 0:
            raise UserError(
                f"head.options: output_size={output_size} must be roi_size={roi_size} times 2, 4 or so on, as "
                f"decoder={decoder} doubles the grid"
            )
        self.roi_size = roi_size
        self.output_size = output_size
        self.skipped = kind.skipped
        self.decoded_size = roi_size * 2**kind.doubled
        step = kind.least * 2**depth
        self.padded_size = -(-roi_size // step) * step
        self.encoder = nn.ModuleList(conv(width if i else in_channels, width, norm) for i in range(depth + 1))
        plan = _Plan([0] * kind.skipped + [width] * (depth + 1), kind.skipped + depth, width, self.padded_size >> depth)
        self.decoder, channels = self._checked(decoder, plan, norm)
        self.predictor = predictor(channels, num_classes, steps, width)
        initialise(self)
        _initialise_rest(self.decoder)

    def _checked(self, name: str, plan: _Plan, norm: str) -> tuple[nn.Module, int]:
        """The decoder and the channels that it gives, once it has decoded a RoI of zeros."""
        kind = DECODERS[name]
        module, _, attribute = kind.path.rpartition(".")
        expected = self.padded_size * 2**kind.doubled
        # slow to import, so only this head's users wait for it
        version = _version()
        try:
            factory = getattr(importlib.import_module(f"{LIBRARY}.decoders.{module}"), attribute)
            decoder: nn.Module = factory(encoder_channels=plan.channels, **kind.settings(plan))
            _exchange_norms(decoder, norm)
            sides = [self.padded_size >> i for i in range(len(self.encoder))]
            with torch.no_grad():
                found = decoder.eval()(self._features([torch.zeros(1, plan.width, side, side) for side in sides]))
            if found.shape[-1] != expected:
                raise ValueError(f"it gave {found.shape[-1]} cells a side, not {expected}")
        except (AttributeError, ImportError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"head.options: decoder={name} of {LIBRARY} {version} can't take roi_size={self.roi_size}, "
                f"depth={len(self.encoder) - 1}, width={plan.width} ({' '.join(str(error).split())}); versions 0.5 and "
                "0.6 are known to work"
            ) from error
        return decoder.train(), found.shape[1]

    def _features(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps, finest first, behind stand-ins without channels for those that the decoder skips."""
        count, side = len(maps[0]), maps[0].shape[-1]
        sides = [side * 2**i for i in range(self.skipped, 0, -1)]
        return [maps[0].new_empty(count, 0, s, s) for s in sides] + maps

    def forward(self, rois: RoIs) -> Tensor:
        x = rois.align(self.roi_size)
        if len(x) == 0:
            return self._nothing(x)
        missing = self.padded_size - self.roi_size
        x = F.pad(x, (0, missing, 0, missing))
        maps = []
        for i, stage in enumerate(self.encoder):
            x = stage(F.max_pool2d(x, 2) if i else x)
            maps.append(x)
        return self.predictor(self.decoder(self._features(maps))[..., : self.decoded_size, : self.decoded_size])

    def _nothing(self, x: Tensor) -> Tensor:
        """No logits, and a gradient of zero for every parameter, as some decoders can't run without RoIs."""
        last = self.predictor[-1]
        assert isinstance(last, Pointwise)
        zero = torch.stack([p.sum() for p in self.parameters()]).sum() + x.sum()
        return zero.expand(0, last.out_channels, self.output_size, self.output_size)


def _version() -> str:
    return str(importlib.import_module(LIBRARY).__version__)


def _exchange_norms(decoder: nn.Module, norm: str) -> None:
    """Put ``norm`` in the place of each of the decoder's normalisations, in the order in which they were made."""
    make = NORMS[norm]
    last: nn.Module | None = None
    for name, layer in list(decoder.named_modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            last = layer
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            channels = layer.num_features if isinstance(layer, nn.BatchNorm2d) else layer.num_channels
            decoder.set_submodule(name, make(channels) if make else nn.Identity())
            if make is None and isinstance(last, nn.Conv2d | nn.ConvTranspose2d) and last.bias is None:
                # the normalisation's shift was its bias
                last.bias = nn.Parameter(torch.zeros(channels))


def _initialise_rest(decoder: nn.Module) -> None:
    """What :func:`initialise` does not reach: linear layers, and convolutions in groups, of which it counts all."""
    with torch.no_grad():
        for layer in decoder.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
                layer.weight *= layer.groups**0.5

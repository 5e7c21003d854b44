"""The decoders of segmentation_models_pytorch on each RoI."""

import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import NORMS, check_at_least, conv, doublings, initialise, predictor
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import UserError, unknown_name

LIBRARY = "segmentation_models_pytorch"


class _Decoder(NamedTuple):
    path: str
    """Module and class under ``segmentation_models_pytorch.decoders``."""
    arguments: Callable[[int, int, int], dict[str, Any]]
    """(encoder's depth as the decoder counts it, width of the head, side of the smallest map) -> the decoder's
    arguments, ``encoder_channels`` left out."""
    halvings: range = range(1, 9)
    """How often the RoI's grid may be halved."""
    doubled: int = 0
    """How often the decoder doubles the finest map that it reads. RoIs replace this map, and it ignores finer ones."""
    least: int = 1
    """Least height and width of the smallest map."""

    @property
    def ignored(self) -> int:
        """Maps that the decoder expects of its encoder and does not read."""
        return 2 - self.doubled


def _equal_widths(depth: int, width: int, _: int) -> dict[str, Any]:
    return {"decoder_channels": [width] * depth, "n_blocks": depth}


DECODERS = {
    "unet": _Decoder("unet.decoder.UnetDecoder", _equal_widths, doubled=1),
    "unetplusplus": _Decoder("unetplusplus.decoder.UnetPlusPlusDecoder", _equal_widths, doubled=1),
    "manet": _Decoder(
        "manet.decoder.MAnetDecoder",
        # at least 8 channels in its squeeze: the ReLUs of fewer may all be dead from the start
        lambda depth, width, side: {**_equal_widths(depth, width, side), "reduction": min(16, max(1, width // 8))},
        doubled=1,
    ),
    "linknet": _Decoder(
        "linknet.decoder.LinknetDecoder",
        lambda depth, width, _: {"prefinal_channels": width, "n_blocks": depth},
        doubled=1,
    ),
    "fpn": _Decoder(
        "fpn.decoder.FPNDecoder",
        lambda depth, width, _: {
            "encoder_depth": depth,
            "pyramid_channels": width,
            # the library's group normalisation, which ours replaces, needs a multiple of 32
            "segmentation_channels": -(-width // 32) * 32,
            "dropout": 0.0,
        },
        halvings=range(3, 4),
    ),
    "pan": _Decoder(
        "pan.decoder.PANDecoder",
        lambda depth, width, _: {"encoder_depth": depth, "decoder_channels": width},
        halvings=range(1, 4),
        least=8,
    ),
    "deeplabv3plus": _Decoder(
        "deeplabv3.decoder.DeepLabV3PlusDecoder",
        lambda depth, width, side: {
            "encoder_depth": depth,
            "out_channels": width,
            # the paper's rates of 6, 12 and 18 are for maps of 33×33
            "atrous_rates": [max(1, round(side * rate / 33)) for rate in (6, 12, 18)],
            "output_stride": 2**depth,
            "aspp_separable": True,
            "aspp_dropout": 0.0,
        },
        halvings=range(1, 3),
    ),
    "upernet": _Decoder(
        "upernet.decoder.UPerNetDecoder",
        lambda depth, width, _: {"encoder_depth": depth, "decoder_channels": width},
    ),
    "segformer": _Decoder(
        "segformer.decoder.SegformerDecoder",
        lambda depth, width, _: {"encoder_depth": depth, "segmentation_channels": width},
    ),
}


class SMP(MaskHead):
    """A decoder of segmentation_models_pytorch (Iakubovskii, 2019) on a small encoder of the RoI's features.

    The encoder has a 3×3 convolution in each stage and max-pooling between them, (R, C/2, 14, 14), (R, C/2, 7, 7) and
    so on; all its maps and layers have ``width`` channels. RoIs replace the finest map that the decoder reads.
    This is the one at half the image's size for ``unet`` (Ronneberger et al., MICCAI 2015), ``unetplusplus`` (Zhou et
    al., DLMIA 2018), ``manet`` (Fan et al., IEEE Access 2020) and ``linknet`` (Chaurasia & Culurciello, VCIP 2017),
    whose output is therefore twice as large as the RoIs' grid, and the one at a quarter for ``fpn`` (Kirillov et al.,
    *Panoptic Feature Pyramid Networks*, CVPR 2019), ``pan`` (Li et al., BMVC 2018), ``deeplabv3plus`` (Chen et al.,
    ECCV 2018), ``upernet`` (Xiao et al., ECCV 2018) and ``segformer`` (Xie et al., NeurIPS 2021), whose output has the
    size of the grid. The end is the FCN's: deconvolutions up to ``output_size`` and a 1×1 convolution.

    Most decoders double maps without regard to the skip's size, so RoIs are padded with zeros, right and below, until
    the grid can be halved ``depth`` times (14 -> 16), and the output is cut. ``pan`` needs 8×8 cells in its smallest
    map, too. ``norm`` replaces every batch and group normalisation of the decoder, even where the library offers no
    choice, so that the heads of a study differ in nothing else; UPerNet's layer normalisation of its inputs stays.
    Dropout is off, as no other head has any.

    Cost with ``unet``: 1.8 M parameters, 1.08 GFLOP.

    Args:
        depth: how often the grid is halved: 3 for ``fpn``, 1 to 3 for ``pan``, 1 or 2 for ``deeplabv3plus``, 1 to 8
            for the others; None: 2, or the nearest that the decoder and ``roi_size`` allow.
        width: channels of each stage and of the decoder, at least 4; None: C/2.
        roi_size: at least half the size that it is padded to.
        output_size: the size of the decoder's output times 1, 2, 4 or so on.
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
        kind = DECODERS[decoder]
        width = in_channels // 2 if width is None else width
        check_at_least(4, width=width)
        depth = _depth(decoder, depth, roi_size)
        steps = doublings(roi_size, output_size) - kind.doubled
        if steps < 0:
            raise UserError(
                f"head.options: output_size={output_size} must be roi_size={roi_size} times 2, 4 or so on, as "
                f"decoder={decoder} doubles the grid"
            )
        self.num_classes = num_classes
        self.roi_size = roi_size
        self.output_size = output_size
        self.ignored = kind.ignored
        self.decoded_size = roi_size * 2**kind.doubled
        multiple = kind.least * 2**depth
        self.padded_size = -(-roi_size // multiple) * multiple
        self.encoder = nn.ModuleList(conv(width if i else in_channels, width, norm) for i in range(depth + 1))
        self.decoder, channels = self._make_decoder(decoder, width, norm)
        self.predictor = predictor(channels, num_classes, steps, width)
        initialise(self, self.predictor[-1])
        _initialise_rest(self.decoder)

    def _make_decoder(self, name: str, width: int, norm: str) -> tuple[nn.Module, int]:
        """The decoder, once it has decoded a RoI of zeros, and the number of channels of its output."""
        kind, depth = DECODERS[name], len(self.encoder) - 1
        sides = [self.padded_size >> i for i in range(depth + 1)]
        channels = [0] * kind.ignored + [width] * len(sides)
        arguments = kind.arguments(kind.ignored + depth, width, sides[-1])
        module, _, attribute = kind.path.rpartition(".")
        expected = self.padded_size * 2**kind.doubled
        try:
            # imported here since it is slow and other heads don't need it
            decoder_class = getattr(importlib.import_module(f"{LIBRARY}.decoders.{module}"), attribute)
            decoder: nn.Module = decoder_class(encoder_channels=channels, **arguments)
            _replace_norms(decoder, norm)
            with torch.no_grad():
                decoded = decoder.eval()(self._features([torch.zeros(1, width, side, side) for side in sides]))
            if decoded.shape[-1] != expected:
                raise ValueError(f"it gave {decoded.shape[-1]} cells a side, not {expected}")
        except (AttributeError, ImportError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"head.options: decoder={name} of {LIBRARY} {version(LIBRARY)} can't take roi_size={self.roi_size}, "
                f"depth={depth}, width={width} ({' '.join(str(error).split())}); versions 0.5 and 0.6 are known to work"
            ) from error
        return decoder.train(), decoded.shape[1]

    def _features(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps, finest first, after maps without channels in place of those that the decoder ignores."""
        count, side = len(maps[0]), maps[0].shape[-1]
        return [maps[0].new_empty(count, 0, side * 2**i, side * 2**i) for i in range(self.ignored, 0, -1)] + maps

    def forward(self, rois: RoIs) -> Tensor:
        x = rois.align(self.roi_size)
        if len(x) == 0:
            # some decoders can't run without RoIs; every parameter gets a gradient of zero
            zero = torch.stack([p.sum() for p in self.parameters()]).sum() + x.sum()
            return zero.expand(0, self.num_classes, self.output_size, self.output_size)
        missing = self.padded_size - self.roi_size
        x = F.pad(x, (0, missing, 0, missing))
        maps = []
        for i, stage in enumerate(self.encoder):
            x = stage(F.max_pool2d(x, 2) if i else x)
            maps.append(x)
        return self.predictor(self.decoder(self._features(maps))[..., : self.decoded_size, : self.decoded_size])


def _depth(decoder: str, depth: int | None, roi_size: int) -> int:
    """How often the grid is halved: ``depth``, or where that is None the possible number that is nearest to 2.

    Raises:
        UserError: the decoder can't be used with that depth at that size.
    """
    kind = DECODERS[decoder]
    possible = [d for d in kind.halvings if 2 * roi_size >= kind.least * 2**d]
    if depth is None and possible:
        return min(possible, key=lambda d: abs(d - 2))
    if depth is not None and depth in possible:
        return depth
    least = -(-kind.least * 2 ** kind.halvings[0] // 2)
    remedy = f"depth={' or '.join(map(str, possible))} there" if possible else f"roi_size={least} or more"
    raise UserError(
        f"head.options: decoder={decoder} of {LIBRARY} {version(LIBRARY)} can't take "
        f"depth={'null' if depth is None else depth} at roi_size={roi_size}; it takes {remedy}"
    )


def _replace_norms(decoder: nn.Module, norm: str) -> None:
    """Replace each of the decoder's normalisations by ``norm``, in the order in which they were made."""
    make = NORMS[norm]
    last_conv: nn.Conv2d | nn.ConvTranspose2d | None = None
    for name, layer in list(decoder.named_modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            last_conv = layer
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            channels = len(layer.weight)
            decoder.set_submodule(name, make(channels) if make else nn.Identity())
            if make is None and last_conv is not None and last_conv.bias is None:
                # in place of the shift of the normalisation
                last_conv.bias = nn.Parameter(torch.zeros(channels))


def _initialise_rest(decoder: nn.Module) -> None:
    """Initialise what :func:`initialise` does not: linear layers, and grouped convolutions, whose fan it overstates by
    the number of groups."""
    with torch.no_grad():
        for layer in decoder.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
                layer.weight *= layer.groups**0.5

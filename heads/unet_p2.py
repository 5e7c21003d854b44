"""A U-Net on each RoI whose skips come from the pyramid's fine maps."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from heads._blocks import Doubling, FineFeatures, Pointwise, conv, doublings, initialise
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import UserError, unknown_name

LEVELS = {"p2": (2,), "p2_p3": (2, 3)}


class UNetP2(MaskHead):
    """The way up of Ronneberger et al., *U-Net*, MICCAI 2015; the trunk stands in for the way down.

    Two 3×3 convolutions read the RoI's grid on the level that fits its box, 14×14. Each stage doubles the grid by a
    2×2 deconvolution and halves the channels, 28×28 and 56×56; to these come as many channels of the skip, RoIAligned
    from P2 (and P3) at that size, and two 3×3 convolutions. A 1×1 convolution ends it.

    On a pyramid of 256 channels an RoI costs about as many FLOPs as the default ``unet``.

    Args:
        in_channels: channels of the pyramid's maps.
        num_classes: output channels.
        width: channels on the RoI's grid, halved at each stage; None: five eighths of the pyramid's.
        levels: where each skip comes from: ``p2``, or ``p2_p3``, half of its channels from either.
        norm: ``none``, ``group`` or ``batch``.
        roi_size: height and width of the RoIs' grid.
        output_size: height and width of the masks: ``roi_size`` times 2, 4 or so on, one stage each doubling.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int | None = None,
        levels: str = "p2",
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 56,
    ) -> None:
        super().__init__()
        if levels not in LEVELS:
            raise unknown_name("head.options.levels", levels, LEVELS)
        stages = doublings(roi_size, output_size)
        if stages == 0:
            raise UserError(f"head.options: output_size={output_size} must be twice roi_size={roi_size} or more")
        if width is None:
            width = max(in_channels * 5 // 8, 2 ** (stages + 1))
        if width < 2 ** (stages + 1):
            raise UserError(
                f"head.options: width={width} is halved {stages} times up to output_size={output_size}, and must be "
                f"{2 ** (stages + 1)} or more"
            )
        self.roi_size = roi_size
        widths = [width // 2**i for i in range(stages + 1)]
        self.coarse = _two(in_channels, width, norm)
        self.grow = nn.ModuleList(Doubling(v, w) for v, w in pairwise(widths))
        sources = LEVELS[levels]
        share = [w // len(sources) for w in widths[1:]]
        self.skip = nn.ModuleList(FineFeatures(in_channels, channels, sources) for channels in share)
        self.up = nn.ModuleList(
            _two(w + channels * len(sources), w, norm) for w, channels in zip(widths[1:], share, strict=True)
        )
        self.predictor = Pointwise(widths[-1], num_classes)
        initialise(self)

    def forward(self, rois: RoIs) -> Tensor:
        x = self.coarse(rois.align(self.roi_size))
        for grow, skip, stage in zip(self.grow, self.skip, self.up, strict=True):
            x = grow(x)
            x = stage(torch.cat([skip(rois, x.shape[-1]), x], dim=1))
        return self.predictor(x)


def _two(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, norm), conv(outputs, outputs, norm))

"""A U-Net on each RoI whose skips come from the pyramid's fine maps."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from heads._blocks import Doubling, FineFeatures, Pointwise, conv_stack, doublings, halved_widths, initialise
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import unknown_name

LEVELS = {"p2": (2,), "p2_p3": (2, 3)}


class UNetP2(MaskHead):
    """The way up of Ronneberger et al., *U-Net*, MICCAI 2015; the trunk takes the place of the way down.

    Two 3×3 convolutions read the level that fits each box, (R, C, 14, 14) -> (R, 5C/8, 14, 14). Each stage doubles the
    grid by a 2×2 deconvolution and halves the channels, (R, 5C/16, 28, 28) and (R, 5C/32, 56, 56), concatenates as many
    channels of the skip, RoIAligned from P2 (and P3) at that size, and has two 3×3 convolutions. A 1×1 convolution ends
    it: (R, K, 56, 56).

    Cost: 0.9 M parameters, 0.87 GFLOP, about the FLOPs of the default ``unet``.

    Args:
        width: channels on the RoI's grid, halved at each stage; None: 5C/8.
        levels: where the skips come from: ``p2``, or ``p2_p3``, half of the channels from each.
        output_size: ``roi_size`` times 2, 4 or so on, a stage for each doubling.
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
        stages = doublings(roi_size, output_size, least=1)
        if width is None:
            width = max(in_channels * 5 // 8, 2 ** (stages + 1))
        widths = halved_widths(width, stages, output_size)
        self.roi_size = roi_size
        self.coarse = conv_stack(in_channels, widths[0], norm)
        self.grow = nn.ModuleList(Doubling(before, after) for before, after in pairwise(widths))
        sources = LEVELS[levels]
        shares = [w // len(sources) for w in widths[1:]]
        self.skip = nn.ModuleList(FineFeatures(in_channels, share, sources) for share in shares)
        self.up = nn.ModuleList(
            conv_stack(w + share * len(sources), w, norm) for w, share in zip(widths[1:], shares, strict=True)
        )
        self.predictor = Pointwise(widths[-1], num_classes)
        initialise(self, self.predictor)

    def forward(self, rois: RoIs) -> Tensor:
        x = self.coarse(rois.align(self.roi_size))
        for grow, skip, stage in zip(self.grow, self.skip, self.up, strict=True):
            x = grow(x)
            x = stage(torch.cat([skip(rois, x.shape[-1]), x], dim=1))
        return self.predictor(x)

"""A U-Net on each RoI."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import check_at_least, check_depth, doublings, initialise, predictor
from heads._unet_blocks import BLOCKS, SCSE, UPS, AttentionGate, Weighing
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import unknown_name

SKIPS = ("concat", "add", "none", "attention")


class UNet(MaskHead):
    """Ronneberger et al., *U-Net*, MICCAI 2015, on the RoI's features in place of the FCN's plain convolutions.

    Each stage has two 3×3 convolutions. On the way down, max-pooling halves the grid (odd sizes round up) and the
    channels double: (R, C/2, 14, 14), (R, C, 7, 7), (R, 2C, 4, 4). On the way up, the grid is doubled, cut to the
    size of the stage's skip, so that each cell lies where it was pooled, and the channels are halved. The end is the
    FCN's: deconvolutions up to ``output_size`` and a 1×1 convolution, (R, K, 28, 28).

    Cost: 7.8 M parameters, 0.79 GFLOP.

    Args:
        depth: how often the grid is halved.
        width: channels of the first stage; None: C/2.
        block: the two convolutions of a stage: plain (``conv``) or with a shortcut around them (``residual``: He et
            al., *Deep Residual Learning*, CVPR 2016).
        skip: how the way down joins the way up: ``concat`` (U-Net), ``add``, ``none`` (a plain encoder and decoder) or
            ``attention``: concatenation behind an attention gate (Oktay et al., *Attention U-Net*, MIDL 2018).
        scse: whether every stage ends by weighing its channels and cells (Roy et al., MICCAI 2018).
        up: how the grid is doubled: ``deconv`` (2×2, U-Net), ``bilinear``, or ``carafe``, by kernels predicted from
            the features (Wang et al., ICCV 2019).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        depth: int = 2,
        width: int | None = None,
        block: str = "conv",
        skip: str = "concat",
        scse: bool = False,
        up: str = "deconv",
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 28,
    ) -> None:
        super().__init__()
        for option, value, known in (("block", block, BLOCKS), ("skip", skip, SKIPS), ("up", up, UPS)):
            if value not in known:
                raise unknown_name(f"head.options.{option}", value, known)
        width = max(1, in_channels // 2) if width is None else width
        check_at_least(1, width=width)
        check_depth(depth, roi_size)
        self.skip = skip
        self.roi_size = roi_size

        def stage(inputs: int, outputs: int) -> nn.Module:
            convs = BLOCKS[block](inputs, outputs, norm)
            return nn.Sequential(convs, SCSE(outputs)) if scse else convs

        widths = [width * 2**i for i in range(depth + 1)]
        upwards = widths[-2::-1]
        joined = 2 if skip in ("concat", "attention") else 1
        self.down = nn.ModuleList(
            stage(inputs, outputs) for inputs, outputs in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.grow = nn.ModuleList(UPS[up](2 * w, w) for w in upwards)
        self.up = nn.ModuleList(stage(joined * w, w) for w in upwards)
        self.gates = nn.ModuleList(AttentionGate(w) for w in upwards if skip == "attention")
        self.predictor = predictor(width, num_classes, doublings(roi_size, output_size))
        initialise(self)
        for module in self.modules():
            if isinstance(module, Weighing):
                module.start_even()

    def forward(self, rois: RoIs) -> Tensor:
        x = rois.align(self.roi_size)
        skips = []
        for i, stage in enumerate(self.down):
            x = stage(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            skips.append(x)
        for i, (grow, stage, skip) in enumerate(zip(self.grow, self.up, skips[-2::-1], strict=True)):
            x = grow(x)[..., : skip.shape[-2], : skip.shape[-1]]
            if self.skip == "attention":
                skip = self.gates[i](skip, x)
            if self.skip == "add":
                x = skip + x
            elif self.skip != "none":
                x = torch.cat([skip, x], dim=1)
            x = stage(x)
        return self.predictor(x)

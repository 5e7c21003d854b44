"""A U-Net on each RoI."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import doublings, initialise, predictor
from heads._unet_blocks import BLOCKS, SCSE, UPS, AttentionGate, Weighing
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import UserError, unknown_name

SKIPS = ("concat", "add", "none", "attention")


class UNet(MaskHead):
    """Ronneberger et al., *U-Net*, MICCAI 2015, on the RoI's features in place of the FCN's plain convolutions.

    Each stage has two 3×3 convolutions. Going down, max-pooling halves the grid (odd sizes round up, 14 -> 7 -> 4)
    and the channels double; coming up, the grid is doubled and the channels halved, cut to the size of the stage's
    skip, so that each cell lies where it was pooled. The end is the FCN's: deconvolutions up to ``output_size`` and
    a 1×1 convolution.

    Args:
        in_channels: channels of the pyramid's maps.
        num_classes: output channels.
        depth: how often the grid is halved.
        width: channels of the first stage; None: half as many as the pyramid's.
        block: a stage's two convolutions: one after the other (``conv``) or with a shortcut around them
            (``residual``: He et al., CVPR 2016).
        skip: what joins the way up with the way down: ``concat`` (U-Net), ``add``, ``none``, which leaves a
            plain encoder and decoder, or ``attention``: concatenation behind an attention gate (Oktay et al.,
            *Attention U-Net*, MIDL 2018).
        scse: whether every stage ends by weighing its channels and cells (Roy et al., MICCAI 2018).
        up: how the grid is doubled: ``deconv`` (2×2, U-Net), ``bilinear``, or ``carafe``, by kernels predicted from
            the features (Wang et al., ICCV 2019).
        norm: ``none``, ``group`` or ``batch``.
        roi_size: height and width of the RoIs' grid.
        output_size: height and width of the masks: ``roi_size`` times 1, 2, 4 or so on.

    Raises:
        UserError: an option has a value that it can't take.
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
        for option, chosen, known in (("block", block, BLOCKS), ("skip", skip, SKIPS), ("up", up, UPS)):
            if chosen not in known:
                raise unknown_name(f"head.options.{option}", chosen, known)
        width = max(1, in_channels // 2) if width is None else width
        if width < 1 or not 1 <= depth <= 8 or roi_size < 2**depth:
            raise UserError(
                f"head.options: width={width}, depth={depth}, roi_size={roi_size}: width must be 1 or more, depth "
                "1 to 8, and roi_size at least 2 to the power of depth"
            )
        self.skip = skip
        self.roi_size = roi_size

        def stage(inputs: int, outputs: int) -> nn.Module:
            made = BLOCKS[block](inputs, outputs, norm)
            return nn.Sequential(made, SCSE(outputs)) if scse else made

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
        for part in self.modules():
            if isinstance(part, Weighing):
                part.start_even()

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

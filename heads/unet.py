"""A U-Net on each RoI."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import Doubling, Pointwise, Predictor, conv, doublings, initialise
from instseg.detector.rois import MaskHead, RoIs
from instseg.errors import UserError, unknown_name

SKIPS = ("concat", "add", "none")


class UNet(MaskHead):
    """Ronneberger et al., *U-Net*, MICCAI 2015, on the RoI's features in place of the FCN's plain convolutions.

    Each stage has two 3×3 convolutions. Going down, max-pooling halves the grid (odd sizes round up, 14 -> 7 -> 4)
    and the channels double; coming up, a 2×2 deconvolution doubles it, cut to the size of the stage's skip. The
    end is the FCN's: deconvolutions up to ``output_size`` and a 1×1 convolution.

    Args:
        in_channels: channels of the pyramid's maps.
        num_classes: output channels.
        depth: how often the grid is halved.
        width: channels of the first stage; None: half as many as the pyramid's.
        skip: what joins the way up with the way down: ``concat`` (U-Net), ``add``, or ``none``, which leaves a
            plain encoder and decoder.
        norm: ``none``, ``group`` or ``batch``.
        roi_size: height and width of the RoIs' grid.
        output_size: height and width of the masks: ``roi_size`` times 1, 2, 4 or so on.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        depth: int = 2,
        width: int | None = None,
        skip: str = "concat",
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 28,
    ) -> None:
        super().__init__()
        if skip not in SKIPS:
            raise unknown_name("head.options.skip", skip, SKIPS)
        width = width or in_channels // 2
        if width < 1 or not 1 <= depth <= 8 or roi_size < 2**depth:
            raise UserError(
                f"head.options: width={width}, depth={depth}, roi_size={roi_size}: width must be 1 or more, depth "
                "1 to 8, and roi_size at least 2 to the power of depth"
            )
        self.skip = skip
        self.roi_size = roi_size
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(
            _stage(inputs, outputs, norm) for inputs, outputs in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.grow = nn.ModuleList(Doubling(2 * w, w) for w in widths[-2::-1])
        self.up = nn.ModuleList(_stage(2 * w if skip == "concat" else w, w, norm) for w in widths[-2::-1])
        end: list[nn.Module] = []
        for _ in range(doublings(roi_size, output_size)):
            end += [Doubling(width, width), nn.ReLU()]
        self.predictor = Predictor(*end, Pointwise(width, num_classes))
        initialise(self)

    def forward(self, rois: RoIs) -> Tensor:
        x = rois.align(self.roi_size)
        skips = []
        for i, stage in enumerate(self.down):
            x = stage(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            skips.append(x)
        for grow, stage, skip in zip(self.grow, self.up, skips[-2::-1], strict=True):
            x = grow(x)[..., : skip.shape[-2], : skip.shape[-1]]
            if self.skip == "concat":
                x = torch.cat([skip, x], dim=1)
            elif self.skip == "add":
                x = skip + x
            x = stage(x)
        return self.predictor(x)


def _stage(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, norm), conv(outputs, outputs, norm))

"""Residual blocks on each RoI."""

from torch import Tensor, nn

from heads._blocks import Residual, conv, doublings, initialise, predictor
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import UserError


class ResNetHead(MaskHead):
    """Birodkar et al., *The surprising impact of mask-head architecture on novel class segmentation*, ICCV 2021.

    A 3×3 convolution to ``width`` channels, residual blocks of two 3×3 convolutions that never leave the RoI's
    grid, and the FCN's end. It is the hourglass's rival: two blocks a stack cost what a stack of depth 2 costs
    (the mask head of the same FLOPs; the hourglass has more parameters, as most of its blocks see small grids).

    Args:
        in_channels: channels of the pyramid's maps.
        num_classes: output channels.
        blocks: number of residual blocks.
        width: channels of each layer; None: as many as the pyramid's.
        norm: ``none``, ``group`` or ``batch``.
        roi_size: height and width of the RoIs' grid.
        output_size: height and width of the masks: ``roi_size`` times 1, 2, 4 or so on.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        blocks: int = 2,
        width: int | None = None,
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 28,
    ) -> None:
        super().__init__()
        if width is None:
            width = in_channels
        if blocks < 1 or width < 1:
            raise UserError(f"head.options: blocks={blocks} and width={width} must be 1 or more")
        self.roi_size = roi_size
        self.blocks = nn.Sequential(
            conv(in_channels, width, norm), *(Residual(width, width, norm) for _ in range(blocks))
        )
        self.predictor = predictor(width, num_classes, doublings(roi_size, output_size))
        initialise(self)

    def forward(self, rois: RoIs) -> Tensor:
        return self.predictor(self.blocks(rois.align(self.roi_size)))

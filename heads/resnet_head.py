"""Residual blocks on each RoI."""

from torch import Tensor, nn

from heads._blocks import Residual, check_at_least, conv, doublings, initialise, predictor
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs


class ResNetHead(MaskHead):
    """Birodkar et al., *The surprising impact of mask-head architecture on novel class segmentation*, ICCV 2021.

    A 3×3 convolution to ``width`` channels, residual blocks of two 3×3 convolutions at (R, width, 14, 14), and the
    FCN's end to (R, K, 28, 28). It is the control of the hourglass: two blocks have the FLOPs of a stack of depth 2
    (which has more parameters, as most of its blocks run on small grids).

    Cost: 3.2 M parameters, 1.29 GFLOP.
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
        width = in_channels if width is None else width
        check_at_least(1, blocks=blocks, width=width)
        self.roi_size = roi_size
        self.blocks = nn.Sequential(
            conv(in_channels, width, norm), *(Residual(width, width, norm) for _ in range(blocks))
        )
        self.predictor = predictor(width, num_classes, doublings(roi_size, output_size))
        initialise(self, self.predictor[-1])

    def forward(self, rois: RoIs) -> Tensor:
        return self.predictor(self.blocks(rois.align(self.roi_size)))

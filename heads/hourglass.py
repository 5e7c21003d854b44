"""Stacked hourglasses on each RoI."""

import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import Pointwise, Residual, check_at_least, check_depth, conv, doublings, initialise, predictor
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs


class Hourglass(MaskHead):
    """Newell et al., *Stacked Hourglass Networks for Human Pose Estimation*, ECCV 2016, as a mask head.

    Birodkar et al., *The surprising impact of mask-head architecture on novel class segmentation*, ICCV 2021, found
    that such heads generalise to classes that have no masks in training. A 3×3 convolution to ``width`` channels comes
    first. In a stack, max-pooling halves the grid ``depth`` times (odd sizes round up, 14 -> 7 -> 4); on the way up
    each cell is repeated 2×2 times, the grid is cut to the size of the skip and the two are added. Each size has one
    residual block before, one behind and one on the skip; the smallest has one. A stack's output goes through a 1×1
    convolution and is added to its input for the next stack. The end is the FCN's, to (R, K, 28, 28).

    Only the last stack predicts masks. Newell et al.'s intermediate supervision is left out, so that the loss is that
    of the other heads.

    Cost: 9.1 M parameters, 1.29 GFLOP.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        stacks: int = 1,
        depth: int = 2,
        width: int | None = None,
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 28,
    ) -> None:
        super().__init__()
        width = in_channels if width is None else width
        check_at_least(1, stacks=stacks, width=width)
        check_depth(depth, roi_size)
        self.roi_size = roi_size
        self.enter = conv(in_channels, width, norm)
        self.stacks = nn.ModuleList(Stack(depth, width, norm) for _ in range(stacks))
        self.between = nn.ModuleList(Pointwise(width, width) for _ in range(stacks - 1))
        self.predictor = predictor(width, num_classes, doublings(roi_size, output_size))
        initialise(self, self.predictor[-1])

    def forward(self, rois: RoIs) -> Tensor:
        x = self.enter(rois.align(self.roi_size))
        out = self.stacks[0](x)
        for join, stack in zip(self.between, self.stacks[1:], strict=True):
            x = x + join(out)
            out = stack(x)
        return self.predictor(out)


class Stack(nn.Module):
    """A single hourglass: (R, width, H, W) -> (R, width, H, W)."""

    def __init__(self, depth: int, width: int, norm: str) -> None:
        super().__init__()
        self.skip = Residual(width, width, norm)
        self.before = Residual(width, width, norm)
        self.inner = Stack(depth - 1, width, norm) if depth > 1 else Residual(width, width, norm)
        self.behind = Residual(width, width, norm)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(x)
        small = self.behind(self.inner(self.before(F.max_pool2d(x, 2, ceil_mode=True))))
        return skip + F.interpolate(small, scale_factor=2.0)[..., : skip.shape[-2], : skip.shape[-1]]

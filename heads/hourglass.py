"""Stacked hourglasses on each RoI."""

import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import Pointwise, Residual, conv, doublings, initialise, predictor
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import UserError


class Hourglass(MaskHead):
    """Newell et al., *Stacked Hourglass Networks for Human Pose Estimation*, ECCV 2016, as a mask head.

    Birodkar et al., *The surprising impact of mask-head architecture on novel class segmentation*, ICCV 2021, found
    that such heads carry over to classes that were learnt without masks. A 3×3 convolution goes to ``width`` channels.
    In a stack, max-pooling halves the grid ``depth`` times (odd sizes round up, 14 -> 7 -> 4); on the way back each
    cell is repeated 2×2 times, the grid is cut to the skip's size and the two are added. Each size has one residual
    block before, one behind and one on the skip; the smallest one has one. What a stack gives is added to what it
    was given, through a 1×1 convolution, for the next stack. The end is the FCN's.

    Only the last stack predicts masks: there is no loss on the others (Newell et al.'s intermediate supervision), so
    that the head's loss is every other head's.

    Args:
        in_channels: channels of the pyramid's maps.
        num_classes: output channels.
        stacks: number of hourglasses, one after another.
        depth: how often each of them halves the grid.
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
        stacks: int = 1,
        depth: int = 2,
        width: int | None = None,
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 28,
    ) -> None:
        super().__init__()
        if width is None:
            width = in_channels
        if stacks < 1 or width < 1:
            raise UserError(f"head.options: stacks={stacks} and width={width} must be 1 or more")
        if not 1 <= depth <= 8 or roi_size < 2**depth:
            raise UserError(
                f"head.options: depth={depth}, roi_size={roi_size}: depth must be 1 to 8, and roi_size at least 2 to "
                "the power of depth"
            )
        self.roi_size = roi_size
        self.enter = conv(in_channels, width, norm)
        self.stacks = nn.ModuleList(_Stack(depth, width, norm) for _ in range(stacks))
        self.between = nn.ModuleList(Pointwise(width, width) for _ in range(stacks - 1))
        self.predictor = predictor(width, num_classes, doublings(roi_size, output_size))
        initialise(self)

    def forward(self, rois: RoIs) -> Tensor:
        x = self.enter(rois.align(self.roi_size))
        out = self.stacks[0](x)
        for join, stack in zip(self.between, self.stacks[1:], strict=True):
            x = x + join(out)
            out = stack(x)
        return self.predictor(out)


class _Stack(nn.Module):
    """One hourglass: (R, C, H, W) -> (R, C, H, W)."""

    def __init__(self, depth: int, width: int, norm: str) -> None:
        super().__init__()
        self.skip = Residual(width, width, norm)
        self.before = Residual(width, width, norm)
        self.inner = _Stack(depth - 1, width, norm) if depth > 1 else Residual(width, width, norm)
        self.behind = Residual(width, width, norm)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(x)
        small = self.behind(self.inner(self.before(F.max_pool2d(x, 2, ceil_mode=True))))
        return skip + F.interpolate(small, scale_factor=2.0)[..., : skip.shape[-2], : skip.shape[-1]]

"""Parts of the U-Net's variants: residual stages, attention gates, scSE and content-aware up-sampling."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import Doubling, Pointwise, Residual, conv_stack


class Weighing(nn.Module):
    """A module that multiplies features by weights that it predicts from them."""

    predictors: ClassVar[tuple[str, ...]]
    """Names of the layers whose output goes through a sigmoid or softmax to become the weights."""

    def start_even(self) -> None:
        """Give the predictors small random parameters, so that all features begin with nearly the same weight: from
        large ones a sigmoid or softmax hardly learns. The deviation is that of CARAFE's kernels in the paper."""
        for name in self.predictors:
            nn.init.normal_(self.get_parameter(f"{name}.weight"), std=0.001)


class AttentionGate(Weighing):
    """Additive attention: the up-sampled features decide which cells of the skip pass.

    Oktay et al., *Attention U-Net*, MIDL 2018, eq. 1. In the paper the gating signal is one stage coarser than the skip
    and the weights are up-sampled; here it already has the size of the skip.
    """

    predictors = ("psi",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        # W_x and W_g of the paper in one layer
        self.inner = Pointwise(2 * channels, inner)
        self.psi = Pointwise(inner, 1)

    def weights(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Skip and gating signal, (R, C, H, W) each -> (R, 1, H, W) in [0, 1]."""
        return self.psi(F.relu(self.inner(torch.cat([skip, gating], dim=1)))).sigmoid()

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """(R, C, H, W): the skip, each cell times its weight."""
        return skip * self.weights(skip, gating)


class SCSE(Weighing):
    """Features weighed by channel and by cell: (R, C, H, W) -> (R, C, H, W).

    Roy et al., *Concurrent Spatial and Channel Squeeze & Excitation*, MICCAI 2018: the sum of both excitations; that of
    the channels goes through half as many.
    """

    predictors = ("channel", "spatial")

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = Pointwise(channels, max(channels // 2, 1))
        self.channel = Pointwise(self.squeeze.out_channels, channels)
        self.spatial = Pointwise(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * (self.channel(F.relu(self.squeeze(pooled))).sigmoid() + self.spatial(x).sigmoid())


class CARAFE(Weighing):
    """Doubles a grid by kernels that are predicted for every new cell: (R, C, H, W) -> (R, C', 2H, 2W).

    Wang et al., *CARAFE: Content-Aware ReAssembly of FEatures*, ICCV 2019, with its 5×5 kernels, predicted by a
    3×3 convolution from 64 channels (or all, where there are fewer). All channels share the kernels, so the 1×1
    convolution to C' channels gives the same before up-sampling as after it, and is cheaper there.
    """

    predictors = ("kernels",)

    def __init__(self, inputs: int, outputs: int, compressed: int = 64, size: int = 5) -> None:
        super().__init__()
        self.compress = Pointwise(inputs, min(compressed, inputs))
        self.kernels = nn.Conv2d(self.compress.out_channels, 4 * size**2, 3, padding=1)
        self.halve = Pointwise(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        predicted = self.kernels(self.compress(x)).permute(0, 2, 3, 1)
        kernels = predicted.unflatten(-1, (4, predicted.shape[-1] // 4)).softmax(dim=-1)
        return reassemble(self.halve(x), kernels)


def reassemble(x: Tensor, kernels: Tensor) -> Tensor:
    """Each cell of a doubled grid as a weighted sum over the neighbourhood of the cell that it lies in.

    Args:
        x: (R, C, H, W), padded with zeros.
        kernels: (R, H, W, 4, k²): weights for the four new cells of each cell, both row by row; k is odd.

    Returns:
        (R, C, 2H, 2W).
    """
    area = kernels.shape[-1]
    size = math.isqrt(area)
    padded = F.pad(x, [size // 2] * 4)
    around = padded.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 4, 5, 1).flatten(3, 4)
    # the four new cells share a neighbourhood: one small matrix product gives (R, H, W, 4, C)
    cells = (kernels @ around).unflatten(3, (2, 2))
    return cells.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def bilinear(inputs: int, outputs: int) -> nn.Sequential:
    """Doubles a grid by bilinear interpolation: (R, C, H, W) -> (R, C', 2H, 2W).

    The 1×1 convolution to C' channels comes first: the result is the same as in the other order, and cheaper.
    """
    return nn.Sequential(Pointwise(inputs, outputs), nn.Upsample(scale_factor=2, mode="bilinear"))


BLOCKS: dict[str, Callable[[int, int, str], nn.Module]] = {"conv": conv_stack, "residual": Residual}
UPS = {"deconv": Doubling, "bilinear": bilinear, "carafe": CARAFE}

"""Parts of the U-Net's variants: residual stages, attention gates, scSE and content-aware up-sampling."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import Doubling, Pointwise, Residual, conv


def double_conv(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """The U-Net's stage: two 3×3 convolutions, each with its ReLU."""
    return nn.Sequential(conv(inputs, outputs, norm), conv(outputs, outputs, norm))


class Weighing(nn.Module):
    """A part that weighs features by what some of its layers predict from them."""

    predictors: ClassVar[tuple[str, ...]]
    """Names of the layers whose output is the weights before their sigmoid or softmax."""

    def start_even(self) -> None:
        """Weights start near the same for all features: from large random ones a sigmoid or softmax hardly learns.

        The deviation is the one of CARAFE's authors for their kernels.
        """
        for name in self.predictors:
            nn.init.normal_(self.get_parameter(f"{name}.weight"), std=0.001)


class AttentionGate(Weighing):
    """Additive attention: what comes up decides where the skip is let through.

    Oktay et al., *Attention U-Net*, MIDL 2018, eq. 1. There the gating signal is one stage coarser than the skip,
    and the weights are up-sampled; here it is already of the skip's size, so nothing is resampled.
    """

    predictors = ("psi",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        # the paper's W_x and W_g side by side
        self.inner = Pointwise(2 * channels, inner)
        self.psi = Pointwise(inner, 1)

    def weights(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Two times (R, C, H, W) -> (R, 1, H, W) in [0, 1]."""
        return self.psi(F.relu(self.inner(torch.cat([skip, gating], dim=1)))).sigmoid()

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """The skip, each cell times its weight: (R, C, H, W)."""
        return skip * self.weights(skip, gating)


class SCSE(Weighing):
    """Features weighed by channel and by cell at once: (R, C, H, W) -> (R, C, H, W).

    Roy et al., *Concurrent Spatial and Channel Squeeze & Excitation*, MICCAI 2018: the sum of both excitations,
    the channels' one squeezed to half as many.
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
    3×3 convolution from 64 channels (or all, where there are fewer). Every channel is reassembled alike, so the 1×1
    convolution to C' channels goes first, where there are fewer cells.
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
        x: (R, C, H, W); beyond its border lie zeros.
        kernels: (R, H, W, 4, k²): weights of the four new cells of each cell, both row by row; k is odd.

    Returns:
        (R, C, 2H, 2W).
    """
    area = kernels.shape[-1]
    size = math.isqrt(area)
    padded = F.pad(x, [size // 2] * 4)
    around = padded.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 4, 5, 1).flatten(3, 4)
    # the four share the neighbourhood: one small matrix product a cell gives (R, H, W, 4, C)
    cells = (kernels @ around).unflatten(3, (2, 2))
    return cells.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def bilinear(inputs: int, outputs: int) -> nn.Sequential:
    """Doubles a grid by bilinear interpolation: (R, C, H, W) -> (R, C', 2H, 2W).

    The 1×1 convolution to C' channels goes first: the order makes no difference, and there are fewer cells.
    """
    return nn.Sequential(Pointwise(inputs, outputs), nn.Upsample(scale_factor=2, mode="bilinear"))


BLOCKS = {"conv": double_conv, "residual": Residual}
UPS = {"deconv": Doubling, "bilinear": bilinear, "carafe": CARAFE}

"""A U-Net on each RoI."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import (
    Doubling,
    Pointwise,
    Residual,
    check_at_least,
    check_depth,
    conv_stack,
    doublings,
    initialise,
    predictor,
)
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import unknown_name

SKIPS = ("concat", "add", "none", "attention")
WEIGHTS_FROM = tuple(f"{layer}.weight" for layer in ("psi", "channel", "spatial", "kernels"))
"""Parameters of the layers whose output goes through a sigmoid or softmax to become weights of features."""


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
        initialise(self, self.predictor[-1])
        for name, parameter in self.named_parameters():
            if name.endswith(WEIGHTS_FROM):
                # nearly even weights, as CARAFE's paper starts them: from large ones a sigmoid or softmax hardly learns
                nn.init.normal_(parameter, std=0.001)

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


class AttentionGate(nn.Module):
    """Additive attention: the up-sampled features decide which cells of the skip pass.

    Oktay et al., *Attention U-Net*, MIDL 2018, eq. 1. In the paper the gating signal is one stage coarser than the skip
    and the weights are up-sampled; here it already has the size of the skip.
    """

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


class SCSE(nn.Module):
    """Features weighed by channel and by cell: (R, C, H, W) -> (R, C, H, W).

    Roy et al., *Concurrent Spatial and Channel Squeeze & Excitation*, MICCAI 2018: the sum of both excitations; that of
    the channels goes through half as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = Pointwise(channels, max(channels // 2, 1))
        self.channel = Pointwise(self.squeeze.out_channels, channels)
        self.spatial = Pointwise(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * (self.channel(F.relu(self.squeeze(pooled))).sigmoid() + self.spatial(x).sigmoid())


class CARAFE(nn.Module):
    """Doubles a grid by kernels that are predicted for every new cell: (R, C, H, W) -> (R, C', 2H, 2W).

    Wang et al., *CARAFE: Content-Aware ReAssembly of FEatures*, ICCV 2019, with its 5×5 kernels, predicted by a
    3×3 convolution from 64 channels (or all, where there are fewer). All channels share the kernels, so the 1×1
    convolution to C' channels gives the same before up-sampling as after it, and is cheaper there.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.compress = Pointwise(inputs, min(64, inputs))
        self.kernels = nn.Conv2d(self.compress.out_channels, 4 * 5**2, 3, padding=1)
        self.halve = Pointwise(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernels(self.compress(x)).permute(0, 2, 3, 1).unflatten(-1, (4, 5**2)).softmax(dim=-1)
        return reassemble(self.halve(x), kernels)


def reassemble(x: Tensor, kernels: Tensor) -> Tensor:
    """(R, C, H, W) -> (R, C, 2H, 2W): each new cell is a weighted sum over the k×k neighbourhood, padded with zeros, of
    the cell that it lies in. ``kernels`` (R, H, W, 4, k²) has the weights for its four new cells, both row by row."""
    size = math.isqrt(kernels.shape[-1])
    around = F.pad(x, [size // 2] * 4).unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 4, 5, 1).flatten(3, 4)
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

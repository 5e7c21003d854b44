"""Parts that several heads share."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instseg.detector.rois import RoIs
from instseg.errors import UserError, unknown_name


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that a lone value, as of one RoI pooled to one cell, passes by the running statistics.

    torch raises an error there, for a value is its own mean.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[2:].numel() * len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that leaves groups of one value alone: they would all come out zero."""

    def forward(self, x: Tensor) -> Tensor:
        if self.num_channels == self.num_groups and x.shape[2:].numel() == 1:
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        return super().forward(x)


NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "group": lambda channels: GroupNorm(math.gcd(32, channels), channels),
    "batch": BatchNorm,
}


def conv(
    inputs: int, outputs: int, norm: str = "none", size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution, 3×3 unless told, normalisation (``none``, ``group``: Wu & He, ECCV 2018, or ``batch``), ReLU."""
    if norm not in NORMS:
        raise unknown_name("norm of the mask head", norm, NORMS)
    layer = NORMS[norm]
    padding = dilation * (size - 1) // 2
    parts: list[nn.Module] = [nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=layer is None)]
    if layer is not None:
        parts.append(layer(outputs))
    return nn.Sequential(*parts, nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two 3×3 convolutions around which a shortcut leads: (R, C, H, W) -> (R, C', H, W).

    He et al., *Deep Residual Learning*, CVPR 2016, figure 2; where the channels change, the shortcut is a 1×1
    convolution.
    """

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        # the second ReLU comes after the sum
        self.convs = nn.Sequential(conv(inputs, outputs, norm), conv(outputs, outputs, norm)[:-1])
        layer = NORMS[norm]
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, bias=layer is None))
            if layer is not None:
                self.shortcut.append(layer(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.convs(x))


class Pointwise(nn.Conv2d):
    """1×1 convolution as one matrix product over the channels of memory that lies channels last, as RoIs' does.

    On a CPU the way back through torch's convolution is several times slower where few channels come out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def cells(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C'), whatever the cells' order."""
        return F.linear(x, self.weight.flatten(1), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def joined(self, maps: Sequence[Tensor]) -> Tensor:
        """What :meth:`forward` gives of maps (R, C_i, H, W) joined along their channels, without joining them."""
        count, _, height, width = maps[0].shape
        out = self.bias
        assert out is not None
        for x, weight in zip(maps, self.weight.flatten(1).split([x.shape[1] for x in maps], dim=1), strict=True):
            out = torch.addmm(out, x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), weight.t())
        return out.view(count, height, width, self.out_channels).permute(0, 3, 1, 2)


class FineFeatures(nn.Module):
    """A few channels made of each level, in the boxes: (R, levels·C, size, size).

    A 1×1 convolution and RoIAlign may change places, and few channels are aligned several times faster.
    """

    def __init__(self, in_channels: int, channels: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.laterals = nn.ModuleDict({str(level): Pointwise(in_channels, channels) for level in levels})

    @torch.compiler.disable
    def forward(self, rois: RoIs, size: int) -> Tensor:
        maps = {int(level): lateral(rois.pyramid[int(level)]) for level, lateral in self.laterals.items()}
        few = rois.over(maps)
        return torch.cat([few.align(size, level) for level in maps], dim=1)


class Doubling(nn.ConvTranspose2d):
    """2×2 deconvolution of stride 2: as its patches don't overlap, one matrix product and a change of places.

    What it gives is a view: a ReLU behind it must not work in place, or the way back copies it twice.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 2, 2)

    def cells(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 2, 2, C'): each cell's patch."""
        weight = self.weight.permute(2, 3, 1, 0).reshape(-1, self.in_channels)
        assert self.bias is not None
        return F.linear(x, weight, self.bias.repeat(4)).unflatten(-1, (2, 2, self.out_channels))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return _in_place(self.cells(x.permute(0, 2, 3, 1)))


class Predictor(nn.Sequential):
    """Doublings, ReLUs and a pointwise convolution one after another: (R, C, H, W) -> (R, K, 2^d·H, 2^d·W).

    Nothing in it looks at a neighbour, so the cells are brought to their places once, at the end, when they have
    few channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        cells = x.permute(0, 2, 3, 1)
        for layer in self:
            cells = layer.cells(cells) if isinstance(layer, Pointwise | Doubling) else layer(cells)
        return _in_place(cells)


def _in_place(cells: Tensor) -> Tensor:
    """(R, H, W, 2, 2, ..., C), d times 2, 2 for row and column in the patch -> (R, C, 2^d·H, 2^d·W)."""
    count, height, width, channels = *cells.shape[:3], cells.shape[-1]
    last = cells.dim() - 1
    times = 2 ** ((last - 3) // 2)
    rows_and_columns = cells.permute(0, 1, *range(3, last, 2), 2, *range(4, last, 2), last)
    return rows_and_columns.reshape(count, times * height, times * width, channels).permute(0, 3, 1, 2)


def predictor(inputs: int, num_classes: int, steps: int, width: int | None = None) -> Predictor:
    """The FCN's end: ``steps`` doublings to ``width`` (None: as many as ``inputs``) channels, each with its ReLU, and
    the logits."""
    layers: list[nn.Module] = []
    for _ in range(steps):
        layers += [Doubling(inputs, width or inputs), nn.ReLU()]
        inputs = width or inputs
    return Predictor(*layers, Pointwise(inputs, num_classes))


def doublings(roi_size: int, output_size: int) -> int:
    """How often a RoI grid must be doubled to reach the output's size.

    Raises:
        UserError: the output is not the RoI's size times a power of two.
    """
    steps = round(math.log2(output_size / roi_size)) if output_size > 0 < roi_size else -1
    if steps < 0 or roi_size * 2**steps != output_size:
        raise UserError(f"head.options: output_size={output_size} must be roi_size={roi_size} times 1, 2, 4 or so on")
    return steps


def initialise(head: nn.Module) -> None:
    """He et al.'s normal initialisation of every convolution, biases zero, as Mask R-CNN's heads have it."""
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

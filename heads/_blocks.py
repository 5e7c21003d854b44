"""Parts that several heads share."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instseg.detector.rois import RoIs
from instseg.errors import UserError, unknown_name


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that uses the running statistics where a channel has a single value, such as one RoI pooled
    to one cell. torch raises an error there, since a single value has no deviation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[2:].numel() * len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that only scales and shifts groups of a single value, which would all become zero."""

    def forward(self, x: Tensor) -> Tensor:
        if self.num_channels == self.num_groups and x.shape[2:].numel() == 1:
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        return super().forward(x)


NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "group": lambda channels: GroupNorm(math.gcd(32, channels), channels),
    "batch": BatchNorm,
}
"""``group``: Wu & He, *Group Normalization*, ECCV 2018; 32 groups, or as many as divide both 32 and the channels."""


def conv(
    inputs: int, outputs: int, norm: str = "none", size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution, normalisation, ReLU: (R, C, H, W) -> (R, C', H / stride, W / stride).

    Raises:
        UserError: there is no such norm.
    """
    if norm not in NORMS:
        raise unknown_name("norm of the mask head", norm, NORMS)
    make_norm = NORMS[norm]
    padding = dilation * (size - 1) // 2
    layers = nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=make_norm is None))
    if make_norm is not None:
        layers.append(make_norm(outputs))
    return layers.append(nn.ReLU(inplace=True))


def conv_stack(inputs: int, outputs: int, norm: str, count: int = 2) -> nn.Sequential:
    """3×3 convolutions one after another, each with its normalisation and ReLU: (R, C, H, W) -> (R, C', H, W)."""
    return nn.Sequential(*(conv(outputs if i else inputs, outputs, norm) for i in range(count)))


class Residual(nn.Module):
    """Two 3×3 convolutions with a shortcut around them: (R, C, H, W) -> (R, C', H, W).

    He et al., *Deep Residual Learning*, CVPR 2016, figure 2; where the channels change, the shortcut is a 1×1
    convolution.
    """

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        # the second ReLU comes after the sum
        self.convs = nn.Sequential(conv(inputs, outputs, norm), conv(outputs, outputs, norm)[:-1])
        # without its ReLU
        self.shortcut = conv(inputs, outputs, norm, size=1)[:-1] if inputs != outputs else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.convs(x))


class Pointwise(nn.Conv2d):
    """1×1 convolution as one matrix product, for maps in memory format channels_last, as RoIAlign gives them.

    On a CPU the backward pass of torch's convolution is several times slower where the output has few channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def cells(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C')."""
        return F.linear(x, self.weight.flatten(1), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def joined(self, maps: Sequence[Tensor]) -> Tensor:
        """:meth:`forward` of the concatenation of maps (R, C_i, H, W) along their channels, without making it."""
        count, _, height, width = maps[0].shape
        out = self.bias
        assert out is not None
        for x, weight in zip(maps, self.weight.flatten(1).split([x.shape[1] for x in maps], dim=1), strict=True):
            out = torch.addmm(out, x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), weight.t())
        return out.view(count, height, width, self.out_channels).permute(0, 3, 1, 2)


class FineFeatures(nn.Module):
    """Features of fine pyramid levels inside the boxes: (R, levels·channels, size, size).

    A 1×1 convolution of each whole map comes before its RoIAlign. The result is the same as in the other order, and
    aligning few channels is several times faster.
    """

    def __init__(self, in_channels: int, channels: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.laterals = nn.ModuleDict({str(level): Pointwise(in_channels, channels) for level in levels})

    @torch.compiler.disable
    def forward(self, rois: RoIs, size: int) -> Tensor:
        maps = {int(level): lateral(rois.pyramid[int(level)]) for level, lateral in self.laterals.items()}
        narrow = rois.over(maps)
        return torch.cat([narrow.align(size, level) for level in maps], dim=1)


class Doubling(nn.ConvTranspose2d):
    """2×2 deconvolution of stride 2, (R, C, H, W) -> (R, C', 2H, 2W), as one matrix product and a permutation, since
    its patches don't overlap.

    The result is a view: a ReLU behind it must not work in place, or the backward pass copies it twice.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 2, 2)

    def cells(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 2, 2, C'): the patch of each cell."""
        weight = self.weight.permute(2, 3, 1, 0).reshape(-1, self.in_channels)
        assert self.bias is not None
        return F.linear(x, weight, self.bias.repeat(4)).unflatten(-1, (2, 2, self.out_channels))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return _join_patches(self.cells(x.permute(0, 2, 3, 1)))


class Predictor(nn.Sequential):
    """d doublings, ReLUs and a pointwise convolution one after another: (R, C, H, W) -> (R, K, 2^d·H, 2^d·W).

    No layer reads neighbouring cells, so they are permuted once, at the end, where they have few channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        cells = x.permute(0, 2, 3, 1)
        for layer in self:
            cells = layer.cells(cells) if isinstance(layer, Pointwise | Doubling) else layer(cells)
        return _join_patches(cells)


def _join_patches(cells: Tensor) -> Tensor:
    """(R, H, W, 2, 2, ..., C), with (2, 2) for row and column in a patch d times -> (R, C, 2^d·H, 2^d·W)."""
    count, height, width, channels = *cells.shape[:3], cells.shape[-1]
    last = cells.dim() - 1
    scale = 2 ** ((last - 3) // 2)
    rows_and_columns = cells.permute(0, 1, *range(3, last, 2), 2, *range(4, last, 2), last)
    return rows_and_columns.reshape(count, scale * height, scale * width, channels).permute(0, 3, 1, 2)


def predictor(inputs: int, num_classes: int, steps: int, width: int | None = None) -> Predictor:
    """The end of the FCN: ``steps`` doublings to ``width`` channels (None: as many as ``inputs``), each with its ReLU,
    and a 1×1 convolution: (R, inputs, H, W) -> (R, num_classes, 2^steps·H, 2^steps·W)."""
    layers: list[nn.Module] = []
    for _ in range(steps):
        layers += [Doubling(inputs, width or inputs), nn.ReLU()]
        inputs = width or inputs
    return Predictor(*layers, Pointwise(inputs, num_classes))


def doublings(roi_size: int, output_size: int, least: int = 0) -> int:
    """How often a RoI's grid must be doubled to reach the size of the output.

    Raises:
        UserError: ``output_size`` is not ``roi_size`` doubled ``least`` times or more.
    """
    steps = round(math.log2(output_size / roi_size)) if output_size > 0 < roi_size else -1
    if steps < least or roi_size * 2**steps != output_size:
        factors = f"{2**least}, {2 * 2**least}, {4 * 2**least}"
        raise UserError(f"head.options: output_size={output_size} must be roi_size={roi_size} times {factors} or so on")
    return steps


def halved_widths(width: int, stages: int, output_size: int) -> list[int]:
    """``width`` and its halves after each of the stages up to ``output_size``.

    Raises:
        UserError: fewer than two channels would be left.
    """
    if width < 2 ** (stages + 1):
        raise UserError(
            f"head.options: width={width} is halved {stages} times up to output_size={output_size}, and must be "
            f"{2 ** (stages + 1)} or more"
        )
    return [width // 2**i for i in range(stages + 1)]


def check_at_least(least: int, **options: float) -> None:
    """Raise a UserError for the first of a head's options that is too small."""
    for option, value in options.items():
        if value < least:
            raise UserError(f"head.options: {option}={value} must be {least} or more")


def check_depth(depth: int, roi_size: int) -> None:
    """Raise a UserError where a RoI's grid can't be halved ``depth`` times."""
    if not 1 <= depth <= 8 or roi_size < 2**depth:
        raise UserError(
            f"head.options: depth={depth}, roi_size={roi_size}: depth must be 1 to 8, and roi_size at least 2 to the "
            "power of depth"
        )


FIRST_DEVIATION = 0.001
"""Of the weights of layers that make mask logits, as of detectron2's mask predictor."""


def initialise(head: nn.Module, *mask_logits: nn.Module) -> None:
    """He et al.'s normal initialisation (ICCV 2015) of every convolution, biases zero, as in Mask R-CNN's heads.

    Args:
        mask_logits: the layers that make mask logits, convolutions or linear. They begin so small
            (:data:`FIRST_DEVIATION`) that every head begins with logits near 0, however large its features are.
    """
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in mask_logits:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        nn.init.normal_(layer.weight, std=FIRST_DEVIATION)

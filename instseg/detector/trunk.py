"""Trunks: a backbone and a feature pyramid over it (P2..P6), by name."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision.models as tvm
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FrozenBatchNorm2d

from instseg.errors import UserError, unknown_name

NORMS: dict[str, Callable[..., nn.Module]] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
BOTTLENECKS = ("resnet50", "resnet101")
"""Those whose blocks have 1×1 convolutions."""
CLASSIFIERS = ("fc.", "classifier.")
"""Prefixes of the classifiers' parameters."""
MOBILENET_STAGES = (3, 6, 13, 18)
"""Last feature of MobileNetV2 at strides 4, 8, 16 and 32."""


def names() -> list[str]:
    """Every trunk that :func:`build` knows."""
    return ["small", "mobilenet_v2", *RESNETS]


def build(
    name: str,
    *,
    weights: str | Path | None = None,
    norm: str = "frozen",
    trainable_layers: int | None = None,
    out_channels: int = 256,
    stride_in_1x1: bool = False,
) -> BackboneWithFPN:
    """A trunk that maps (B, 3, H, W) to maps ``"0".."3", "pool"``: P2..P6, strides 4 to 64.

    Args:
        name: one of :func:`names`. ``small`` is a narrow ResNet for small images, without weights.
        weights: None; the name of torchvision weights such as ``IMAGENET1K_V1``; or a file of a state dict
            (of the classifier, as torchvision saves it).
        norm: ``frozen`` keeps the batch statistics and scales that came with the weights, ``batch`` trains them.
        trainable_layers: how many of the last stages are trained (ResNet: 0..5, MobileNetV2: 0..7); None: all.
        out_channels: channels of each pyramid map.
        stride_in_1x1: whether a ResNet's stages go down in the first 1×1 convolution of their first block, as He et
            al.'s own weights and detectron2's want it; False: in the 3×3 one, as torchvision's want it.

    Raises:
        UserError: an unknown name, weights that can't be had, or weights of another network.
    """
    if norm not in NORMS:
        raise unknown_name("trunk.norm", norm, NORMS)
    if trainable_layers is not None and (norm != "frozen" or name == "small"):
        raise UserError(
            f"trunk.trainable_layers={trainable_layers}: stages are kept as they are only with trunk.norm=frozen and "
            "a trunk that has weights; use null"
        )
    if stride_in_1x1 and name not in BOTTLENECKS:
        raise UserError(f"trunk.stride_in_1x1=true: only {' and '.join(BOTTLENECKS)} have the 1×1 convolutions for it")
    if name not in names():
        raise unknown_name("trunk", name, names())
    groups: list[tuple[str, ...]] = []
    if name == "small":
        if weights is not None:
            find_weights(name, weights)
        body: nn.Module = _SmallNet(NORMS[norm])
        stages, channels = ["stage2", "stage3", "stage4", "stage5"], list(_SmallNet.widths)
    else:
        body = network = tvm.get_model(name, weights=None, norm_layer=NORMS[norm])
        if weights is not None:
            _load_weights(network, name, weights)
    if name == "mobilenet_v2":
        body = network.features
        stages, channels = [str(i) for i in MOBILENET_STAGES], [24, 32, 96, 1280]
        # trained from the last group on: the cuts are where the stride grows, the stem is the first
        groups = [tuple(f"{i}." for i in range(*cut)) for cut in pairwise((0, 2, 4, 7, 11, 14, 18, 19))][::-1]
    elif name in RESNETS:
        if stride_in_1x1:
            for block in (network.layer2[0], network.layer3[0], network.layer4[0]):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        width = network.layer4[-1].conv1.in_channels
        stages, channels = [f"layer{i}" for i in (1, 2, 3, 4)], [width // 8, width // 4, width // 2, width]
        groups = [("layer4.",), ("layer3.",), ("layer2.",), ("layer1.",), ("conv1.", "bn1.")]
    if trainable_layers is not None:
        if not 0 <= trainable_layers <= len(groups):
            raise UserError(f"trunk.trainable_layers={trainable_layers}: must be 0 to {len(groups)}, or null for all")
        trained = tuple(prefix for group in groups[:trainable_layers] for prefix in group)
        for key, parameter in body.named_parameters():
            parameter.requires_grad_(key.startswith(trained))
    return BackboneWithFPN(body, dict(zip(stages, "0123", strict=True)), channels, out_channels)


def find_weights(name: str, weights: str | Path) -> WeightsEnum | Path:
    """Where weights come from: torchvision's entry of that name, or a file.

    Raises:
        UserError: there is neither.
    """
    if name == "small":
        raise UserError(f"trunk.weights={weights}: the small trunk has no weights; use trunk.weights=null")
    known = tvm.get_model_weights(name)
    if str(weights) in known.__members__:
        return known[str(weights)]
    if Path(weights).is_file():
        return Path(weights)
    raise UserError(
        f"trunk.weights={weights}: no such file, and no weights of {name} by that name; "
        f"known: {', '.join(known.__members__)}, or null"
    )


def _load_weights(network: nn.Module, name: str, weights: str | Path) -> None:
    entry = find_weights(name, weights)
    if isinstance(entry, WeightsEnum):
        try:
            state = entry.get_state_dict(progress=True, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"trunk.weights={weights}: cannot fetch {entry.url} ({error}); put that file into "
                f"{Path(torch.hub.get_dir()) / 'checkpoints'} or give its path as trunk.weights=FILE"
            ) from error
    else:
        try:
            state = torch.load(entry, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"trunk.weights={entry}: not a file of weights ({type(error).__name__})") from error
    try:
        # the classifier, whose classes may be others, keeps its first weights: a trunk has none
        weights_of_trunk = {key: value for key, value in state.items() if not key.startswith(CLASSIFIERS)}
        classifier = {key: value for key, value in network.state_dict().items() if key.startswith(CLASSIFIERS)}
        network.load_state_dict(classifier | weights_of_trunk)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"trunk.weights={weights}: not the weights of {name}: {reason}") from error


class _SmallNet(nn.Module):
    """A ResNet of four narrow one-block stages, strides 4 to 32, for images of 100 to 200 pixels."""

    widths = (32, 64, 96, 128)

    def __init__(self, norm: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            norm(16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            norm(32),
            nn.ReLU(inplace=True),
        )
        block = partial(_block, norm=norm)
        a, b, c, d = self.widths
        self.stage2 = block(32, a, 1)
        self.stage3 = block(a, b, 2)
        self.stage4 = block(b, c, 2)
        self.stage5 = block(c, d, 2)


def _block(inputs: int, outputs: int, stride: int, norm: Callable[..., nn.Module]) -> nn.Module:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut, norm_layer=norm)

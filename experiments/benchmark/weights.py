"""Random weights scaled so that an untrained detector does a trained one's work.

Freshly drawn, a frozen trunk's activations explode and no score passes a threshold; then most of inference is
skipped and its time says nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from instseg.detector import MaskRCNN

Spread = tuple[float, float]
"""Mean and standard deviation that a layer's output shall have."""

OBJECTNESS: Spread = (0.0, 2.0)
PROPOSAL_DELTAS: Spread = (0.0, 0.3)
CLASS_LOGITS: Spread = (0.0, 4.0)
BOX_DELTAS: Spread = (0.0, 1.0)
MASK_LOGITS: Spread = (2.0, 1.0)
"""Masks that mostly fill their boxes: as objects do, and unlike noise, whose RLE would be long."""


def scale(model: MaskRCNN, reference: nn.Module, images: list[Tensor]) -> None:
    """Scale a model's weights in place.

    Args:
        model: ours.
        reference: torchvision's Faster R-CNN of the same weights. The core is measured there, since its layers can be
            watched whatever ours makes of them.
        images: (3, H, W) in [0, 1], on the models' device.
    """
    core = {
        "rpn.head.cls_logits": OBJECTNESS,
        "rpn.head.bbox_pred": PROPOSAL_DELTAS,
        "roi_heads.box_predictor.cls_score": CLASS_LOGITS,
        "roi_heads.box_predictor.bbox_pred": BOX_DELTAS,
    }
    fit(reference, core, lambda: reference(images))
    unknown = model.load_state_dict(reference.state_dict(), strict=False).unexpected_keys
    assert not unknown, unknown
    convolutions = [name for name, layer in model.mask_head.named_modules() if isinstance(layer, nn.Conv2d)]
    fit(model, {f"mask_head.{convolutions[-1]}": MASK_LOGITS}, lambda: model.detect(images), within=model.mask_head)


def fit(
    model: nn.Module, spreads: Mapping[str, Spread], call: Callable[[], Any], within: nn.Module | None = None
) -> None:
    """Give batch normalisation the statistics it meets, and layers outputs of a wanted spread, in one forward pass.

    Args:
        model: put into evaluation mode.
        spreads: name of a linear or convolutional layer with a bias -> what its first output shall be spread like;
            each channel gets this mean.
        call: the forward pass.
        within: the module whose normalisation is fitted; None: all of the model's.
    """
    handles = [
        module.register_forward_pre_hook(_take_statistics)
        for module in (within or model).modules()
        if hasattr(module, "running_var")
    ]
    for name, spread in spreads.items():
        handles.append(model.get_submodule(name).register_forward_hook(partial(_take_spread, [spread])))
    with torch.no_grad():
        model.eval()
        call()
    for handle in handles:
        handle.remove()


def _take_statistics(norm: Any, inputs: tuple[Tensor]) -> None:
    variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance.clamp(min=1e-6))


def _take_spread(wanted: list[Spread], layer: Any, _: Any, output: Tensor) -> Tensor | None:
    # a head that serves all levels is called once a level; the first, the finest map, decides
    if not wanted:
        return None
    mean, std = wanted.pop()
    channels = [i for i in range(output.ndim) if i != 1]
    found = output.mean(dim=channels)
    factor = std / (output - found.reshape(1, -1, *[1] * (output.ndim - 2))).std()
    layer.weight.mul_(factor)
    layer.bias.copy_((layer.bias - found) * factor + mean)
    return (output - found.reshape(1, -1, *[1] * (output.ndim - 2))) * factor + mean

"""Random weights scaled so that an untrained detector does the work of a trained one.

With unscaled random weights the activations of a trunk with frozen normalisation explode and no score passes a
threshold, so that most of inference is skipped and its time says nothing.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from instseg.detector import MaskRCNN

Spread = tuple[float, float]
"""Mean and standard deviation that the output of a layer is to have."""

OBJECTNESS: Spread = (0.0, 2.0)
PROPOSAL_DELTAS: Spread = (0.0, 0.3)
CLASS_LOGITS: Spread = (0.0, 4.0)
BOX_DELTAS: Spread = (0.0, 1.0)
MASK_LOGITS: Spread = (2.0, 1.0)
"""Masks that mostly fill their boxes, as objects do; the RLE of noise would be long."""


def scale(model: MaskRCNN, reference: nn.Module, images: list[Tensor]) -> None:
    """Scale a model's weights in place by what its layers give on images (3, H, W) in [0, 1].

    ``reference`` is torchvision's Faster R-CNN with the same weights. The core is measured there, since hooks on its
    layers always run, whereas our model may compute a layer without calling its module.
    """
    core = {
        "rpn.head.cls_logits": OBJECTNESS,
        "rpn.head.bbox_pred": PROPOSAL_DELTAS,
        "roi_heads.box_predictor.cls_score": CLASS_LOGITS,
        "roi_heads.box_predictor.bbox_pred": BOX_DELTAS,
    }
    fit(reference, core, lambda: reference(images))
    # all but the mask head
    model.load_state_dict(model.state_dict() | reference.state_dict())
    convolutions = [name for name, layer in model.mask_head.named_modules() if isinstance(layer, nn.Conv2d)]
    model.eval()
    fit(model.mask_head, {convolutions[-1]: MASK_LOGITS}, lambda: model.detect(images))


def fit(model: nn.Module, spreads: Mapping[str, Spread], call: Callable[[], Any]) -> None:
    """Set the statistics of batch normalisation and scale the output of layers, in a single forward pass.

    Args:
        model: the whole, or a part; put into evaluation mode.
        spreads: name of a linear or convolutional layer with a bias -> the spread of its first output; each channel
            gets this mean.
        call: the forward pass of the whole.
    """
    with ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_var"):
                hooks.enter_context(module.register_forward_pre_hook(_set_statistics))
        for name, spread in spreads.items():
            hook = partial(_scale_output, [spread])
            hooks.enter_context(model.get_submodule(name).register_forward_hook(hook))
        model.eval()
        call()


def _set_statistics(norm: Any, inputs: tuple[Tensor]) -> None:
    variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance.clamp(min=1e-6))


def _scale_output(spreads: list[Spread], layer: Any, _: Any, output: Tensor) -> Tensor | None:
    # a layer shared by all levels is called once per level; the first call, for the finest map, decides
    if not spreads:
        return None
    mean, std = spreads.pop()
    channel_mean = output.mean(dim=[i for i in range(output.ndim) if i != 1])
    centred = output - channel_mean.reshape(1, -1, *[1] * (output.ndim - 2))
    factor = std / centred.std()
    layer.weight.mul_(factor)
    layer.bias.copy_((layer.bias - channel_mean) * factor + mean)
    return centred * factor + mean

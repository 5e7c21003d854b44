"""Weights of detectron2's Mask R-CNN (ResNet-FPN) and of Caffe2's ImageNet ResNets, as torchvision would have them.

What differs: the names; images are BGR in 0..255 with another mean and deviation; the background is the last class of
the box branch's scores, and boxes and masks have no background. All of this is folded into the weights, exactly. What
can't be folded in is listed in :data:`TRAINED_AS`. One difference stays: detectron2's RoIAlign takes more samples in
large boxes, where this suite always takes two a bin and axis.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from instseg.detector.mask_rcnn import IMAGENET_MEAN, IMAGENET_STD
from instseg.errors import UserError

TRAINED_AS: dict[str, Any] = {
    "trunk.stride_in_1x1": True,
    "detector.roi_aligned": True,
    "detector.exact_anchors": True,
    "detector.anchor_sizes": [[32], [64], [128], [256], [512]],
    "detector.anchor_ratios": [0.5, 1.0, 2.0],
}
"""Settings that the model zoo's R50-FPN and R101-FPN were trained with; their files don't hold them."""

EPSILON = 1e-5
"""What the batch norms add to the variance."""

_BLOCK = re.compile(r"backbone\.bottom_up\.res([2-5])\.(\d+)\.(conv[123]|shortcut)\.(norm\.)?(\w+)")
_STEM = re.compile(r"backbone\.bottom_up\.stem\.conv1\.(norm\.)?(\w+)")
_PYRAMID = re.compile(r"backbone\.fpn_(lateral|output)([2-5])\.(weight|bias)")
_REST = {
    "proposal_generator.rpn_head.conv": "rpn.head.conv.0.0",
    "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
    "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
    "roi_heads.box_head.fc1": "roi_heads.box_head.fc6",
    "roi_heads.box_head.fc2": "roi_heads.box_head.fc7",
    "roi_heads.box_predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
    **{f"roi_heads.mask_head.mask_fcn{i + 1}": f"roi_heads.mask_head.{i}.0" for i in range(16)},
    "roi_heads.mask_head.deconv": "roi_heads.mask_predictor.conv5_mask",
    "roi_heads.mask_head.predictor": "roi_heads.mask_predictor.mask_fcn_logits",
}
FIRST = "backbone.body.conv1.weight"
_WITHOUT_BACKGROUND = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_predictor.mask_fcn_logits": 1}
"""Layers that have outputs for objects' classes alone, and how many for each."""


def is_detectron2(names: Mapping[str, Any]) -> bool:
    """Whether parameters bear detectron2's names."""
    return any(name.startswith("backbone.bottom_up.") for name in names)


def is_caffe2(names: Mapping[str, Any]) -> bool:
    """Whether a ResNet's parameters bear Caffe2's names."""
    return "conv1_w" in names and any(name.startswith("res2_0_branch2a_") for name in names)


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of detectron2's Mask R-CNN by torchvision's names, for its images and order of classes.

    Parameters that are not known here keep their names.

    Raises:
        UserError: the images' mean is not ImageNet's; it can't be folded into the weights, as images are padded with
            zeros after it is taken off.
    """
    state = {name: value for name, value in state.items() if not name.startswith("proposal_generator.anchor_gen")}
    mean, deviation = (state.pop(f"pixel_{kind}", None) for kind in ("mean", "std"))
    usual = 255 * torch.tensor(IMAGENET_MEAN).flip(0)
    if mean is not None and not torch.allclose(mean.flatten().float(), usual, atol=0.01):
        raise UserError(
            f"its images' mean is {[round(v, 3) for v in mean.flatten().tolist()]}, and only detectron2's usual one, "
            f"{[round(v, 3) for v in usual.tolist()]} in BGR, can be taken over"
        )
    renamed = {_name(name): value for name, value in state.items()}
    for name, value in renamed.items():
        layer = name.rpartition(".")[0]
        if name == FIRST:
            divisor = torch.ones(3) if deviation is None else deviation.flatten().float()
            scale = 255 * torch.tensor(IMAGENET_STD) / divisor.flip(0)
            renamed[name] = value.flip(1) * scale[:, None, None]
        elif layer == "roi_heads.box_predictor.cls_score":
            renamed[name] = torch.cat([value[-1:], value[:-1]])
        elif outputs := _WITHOUT_BACKGROUND.get(layer):
            # the background's box and mask are never read
            renamed[name] = torch.cat([torch.zeros_like(value[:outputs]), value])
    return renamed


def from_caffe2(blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet of Caffe2 by torchvision's names.

    Batch norms that are a scale and a shift alone get statistics that change nothing; the momenta of its training are
    dropped.
    """
    state = {_caffe2_name(blob): value for blob, value in blobs.items() if not blob.endswith("_momentum")}
    for name in [name for name in state if name.endswith(".norm.weight")]:
        ones = torch.ones_like(state[name])
        state.setdefault(name.replace(".weight", ".running_mean"), ones * 0)
        state.setdefault(name.replace(".weight", ".running_var"), ones - EPSILON)
    return converted(state)


def _name(name: str) -> str:
    """torchvision's name of one of detectron2's parameters."""
    if match := _STEM.fullmatch(name):
        norm, kind = match.groups()
        return f"backbone.body.{'bn1' if norm else 'conv1'}.{kind}"
    if match := _BLOCK.fullmatch(name):
        stage, block, layer, norm, kind = match.groups()
        if layer == "shortcut":
            layer = f"downsample.{1 if norm else 0}"
        elif norm:
            layer = layer.replace("conv", "bn")
        return f"backbone.body.layer{int(stage) - 1}.{block}.{layer}.{kind}"
    if match := _PYRAMID.fullmatch(name):
        direction, level, kind = match.groups()
        blocks = "inner_blocks" if direction == "lateral" else "layer_blocks"
        return f"backbone.fpn.{blocks}.{int(level) - 2}.0.{kind}"
    layer, _, kind = name.rpartition(".")
    return f"{_REST[layer]}.{kind}" if layer in _REST else name


_BLOB = re.compile(r"(res\d_\d+)_branch(1|2a|2b|2c)(_bn)?_([a-z_]+)|(?:conv1|res_conv1)(_bn)?_([a-z_]+)")
_LAYERS = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_KINDS = {"w": "weight", "b": "bias", "s": "weight", "gamma": "weight", "beta": "bias"}
_KINDS |= {"rm": "running_mean", "riv": "running_var"}


def _caffe2_name(blob: str) -> str:
    """detectron2's name of one of Caffe2's parameters."""
    match = _BLOB.fullmatch(blob)
    if match is None:
        return blob
    block, branch, norm, kind, stem_norm, stem_kind = match.groups()
    layer = f"{block.replace('_', '.')}.{_LAYERS[branch]}" if block else "stem.conv1"
    kind = kind or stem_kind
    return f"backbone.bottom_up.{layer}{'.norm' if norm or stem_norm else ''}.{_KINDS.get(kind, kind)}"

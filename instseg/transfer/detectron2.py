"""Weights of detectron2's Mask R-CNN (ResNet-FPN) and of Caffe2's ImageNet ResNets, as torchvision would have them.

What differs: names; images are BGR in 0..255 with a mean and a deviation of their own; the background is the last
class of the box branch and none of the boxes' and masks'. All of this is folded into the weights, exactly. What can't
be is listed in :data:`TRAINED_AS`, and one thing can't be had at all: detectron2's RoIAlign takes more samples in large
boxes, where this suite always takes two a bin and axis.
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
"""What the model zoo's R50-FPN and R101-FPN were trained with; the files don't say."""

EPSILON = 1e-5
"""Of the batch norms."""

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
        UserError: the images' mean is another than ImageNet's, which padding with zeros would not forgive.
    """
    state = {name: value for name, value in state.items() if not name.startswith("proposal_generator.anchor_gen")}
    mean, deviation = (state.pop(f"pixel_{kind}", None) for kind in ("mean", "std"))
    usual = 255 * torch.tensor(IMAGENET_MEAN)
    if mean is not None and not torch.allclose(mean.flatten().float(), usual.flip(0), atol=0.01):
        raise UserError(
            f"its images' mean is {[round(v, 3) for v in mean.flatten().tolist()]}, and only detectron2's usual one, "
            f"{[round(v, 3) for v in usual.flip(0).tolist()]} in BGR, can be taken over"
        )
    found = {_name(name): value for name, value in state.items()}
    if FIRST in found:
        spread = torch.ones(3) if deviation is None else deviation.flatten().float()
        scale = 255 * torch.tensor(IMAGENET_STD) / spread.flip(0)
        found[FIRST] = found[FIRST].flip(1) * scale[:, None, None]
    for name, value in found.items():
        if name.startswith("roi_heads.box_predictor.cls_score."):
            found[name] = torch.cat([value[-1:], value[:-1]])
        # what is said of the background's box and mask is never read
        elif name.startswith("roi_heads.box_predictor.bbox_pred."):
            found[name] = torch.cat([torch.zeros_like(value[:4]), value])
        elif name.startswith("roi_heads.mask_predictor.mask_fcn_logits."):
            found[name] = torch.cat([torch.zeros_like(value[:1]), value])
    return found


def from_caffe2(blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet of Caffe2 by torchvision's names. Batch norms that are a scale and a shift alone get statistics that
    change nothing, and what is left of its training is dropped."""
    state = {_caffe2_name(blob): value for blob, value in blobs.items() if not blob.endswith("_momentum")}
    for name in [name for name in state if name.endswith(".norm.weight")]:
        one = torch.ones_like(state[name])
        state.setdefault(name.replace(".weight", ".running_mean"), one * 0)
        state.setdefault(name.replace(".weight", ".running_var"), one - EPSILON)
    return converted(state)


def _name(name: str) -> str:
    if found := _STEM.fullmatch(name):
        norm, kind = found.groups()
        return f"backbone.body.{'bn1' if norm else 'conv1'}.{kind}"
    if found := _BLOCK.fullmatch(name):
        stage, block, layer, norm, kind = found.groups()
        if layer == "shortcut":
            layer = f"downsample.{1 if norm else 0}"
        elif norm:
            layer = layer.replace("conv", "bn")
        return f"backbone.body.layer{int(stage) - 1}.{block}.{layer}.{kind}"
    if found := _PYRAMID.fullmatch(name):
        way, level, kind = found.groups()
        blocks = "inner_blocks" if way == "lateral" else "layer_blocks"
        return f"backbone.fpn.{blocks}.{int(level) - 2}.0.{kind}"
    layer, _, kind = name.rpartition(".")
    return f"{_REST[layer]}.{kind}" if layer in _REST else name


_BLOB = re.compile(r"(res\d_\d+)_branch(1|2a|2b|2c)(_bn)?_([a-z_]+)|(?:conv1|res_conv1)(_bn)?_([a-z_]+)")
_LAYERS = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_KINDS = {"w": "weight", "b": "bias", "s": "weight", "gamma": "weight", "beta": "bias"}
_KINDS |= {"rm": "running_mean", "riv": "running_var"}


def _caffe2_name(blob: str) -> str:
    found = _BLOB.fullmatch(blob)
    if found is None:
        return blob
    block, branch, norm, kind, stem_norm, stem_kind = found.groups()
    layer = f"{block.replace('_', '.')}.{_LAYERS[branch]}" if block else "stem.conv1"
    kind = kind or stem_kind
    return f"backbone.bottom_up.{layer}{'.norm' if norm or stem_norm else ''}.{_KINDS.get(kind, kind)}"

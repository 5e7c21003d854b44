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

_BLOCK = re.compile(r"backbone\.bottom_up\.res([2-5])\.(\d+)\.(conv[123]|shortcut)(\.norm)?")
_IN_BLOCK = {"shortcut": "downsample.0", "shortcut.norm": "downsample.1"}
_IN_BLOCK |= {f"conv{i}.norm": f"bn{i}" for i in (1, 2, 3)}
_LAYERS = {
    "backbone.bottom_up.stem.conv1": "backbone.body.conv1",
    "backbone.bottom_up.stem.conv1.norm": "backbone.body.bn1",
    **{f"backbone.fpn_lateral{i + 2}": f"backbone.fpn.inner_blocks.{i}.0" for i in range(4)},
    **{f"backbone.fpn_output{i + 2}": f"backbone.fpn.layer_blocks.{i}.0" for i in range(4)},
    "proposal_generator.rpn_head.conv": "rpn.head.conv.0.0",
    "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
    "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
    "roi_heads.box_head.fc1": "roi_heads.box_head.fc6",
    "roi_heads.box_head.fc2": "roi_heads.box_head.fc7",
    **{f"roi_heads.mask_head.mask_fcn{i + 1}": f"roi_heads.mask_head.{i}.0" for i in range(16)},
    "roi_heads.mask_head.deconv": "roi_heads.mask_predictor.conv5_mask",
    "roi_heads.mask_head.predictor": "roi_heads.mask_predictor.mask_fcn_logits",
}
PER_CLASS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}
"""torchvision's layers whose outputs are classes, and how many each class has."""


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
        if name == "backbone.body.conv1.weight":
            divisor = torch.ones(3) if deviation is None else deviation.flatten().float()
            scale = 255 * torch.tensor(IMAGENET_STD) / divisor.flip(0)
            renamed[name] = value.flip(1) * scale[:, None, None]
        elif layer == "roi_heads.box_predictor.cls_score":
            renamed[name] = torch.cat([value[-1:], value[:-1]])
        elif outputs := PER_CLASS.get(layer):
            # detectron2's boxes and masks have no background, and the background's are never read
            renamed[name] = torch.cat([torch.zeros_like(value[:outputs]), value])
    return renamed


def from_caffe2(blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet of Caffe2 by detectron2's names.

    Batch norms that are a scale and a shift alone get statistics that change nothing; the momenta of its training are
    dropped.
    """
    state = {_caffe2_name(blob): value for blob, value in blobs.items() if not blob.endswith("_momentum")}
    for name in [name for name in state if name.endswith(".norm.weight")]:
        state.setdefault(name.replace(".weight", ".running_mean"), torch.zeros_like(state[name]))
        state.setdefault(name.replace(".weight", ".running_var"), torch.full_like(state[name], 1 - EPSILON))
    return state


def _name(name: str) -> str:
    """torchvision's name of one of detectron2's parameters."""
    layer, _, kind = name.rpartition(".")
    if match := _BLOCK.fullmatch(layer):
        stage, block, part, norm = match.groups(default="")
        return f"backbone.body.layer{int(stage) - 1}.{block}.{_IN_BLOCK.get(part + norm, part)}.{kind}"
    return f"{_LAYERS[layer]}.{kind}" if layer in _LAYERS else name


_BLOB = re.compile(r"(?:(res\d_\d+)_branch(1|2a|2b|2c)|conv1|res_conv1)(_bn)?_([a-z_]+)")
_BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_KINDS = dict.fromkeys(("w", "s", "gamma"), "weight") | dict.fromkeys(("b", "beta"), "bias")
_KINDS |= {"rm": "running_mean", "riv": "running_var"}


def _caffe2_name(blob: str) -> str:
    """detectron2's name of one of Caffe2's parameters."""
    match = _BLOB.fullmatch(blob)
    if match is None:
        return blob
    block, branch, norm, kind = match.groups()
    layer = f"{block.replace('_', '.')}.{_BRANCHES[branch]}" if block else "stem.conv1"
    return f"backbone.bottom_up.{layer}{'.norm' if norm else ''}.{_KINDS.get(kind, kind)}"

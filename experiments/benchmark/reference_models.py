"""The Mask R-CNN of other suites with our sizes, to be timed beside ours on the same tensors."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch.profiler import record_function
from torchvision.models.detection import FasterRCNN, roi_heads
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from experiments.benchmark import weights
from experiments.config.run import Config
from instseg.detector import MaskRCNN
from instseg.timing import STAGE


class NotRun(Exception):
    """A peer that can't be run here; says why."""


@dataclass
class Peer:
    """A model with the inputs and outputs of ours."""

    model: nn.Module
    """``model(images, targets)`` returns a dict of losses in training mode; ``model(images)`` in evaluation mode a dict
    for each image with ``boxes`` and pasted ``masks``, (N, 1, H, W) probabilities or booleans."""
    stages: Callable[[], AbstractContextManager[Any]]
    """A context that names its stages for the profiler."""


def faster_rcnn(ours: MaskRCNN, config: Config, classes: int) -> FasterRCNN:
    """torchvision's Faster R-CNN with a copy of our trunk and our weights."""
    model = FasterRCNN(**_arguments(ours, config, classes))
    state = ours.state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model


def torchvision(ours: MaskRCNN, config: Config, classes: int, images: list[Tensor]) -> Peer:
    """torchvision's Mask R-CNN with a copy of our trunk and our weights.

    Raises:
        NotRun: torchvision has no such mask head.
    """
    options = config.head.options
    if not _is_classic(config):
        raise NotRun("torchvision has the fcn head alone, one mask a class, twice the RoI's size")
    channels = config.trunk.out_channels
    width = options["width"] or channels
    norms: dict[str, Callable[[int], nn.Module] | None] = {"none": None, "batch": nn.BatchNorm2d}
    if options["norm"] not in norms:
        raise NotRun(f"no torchvision mask head with norm={options['norm']} is set up here")
    model = TorchvisionMaskRCNN(
        **_arguments(ours, config, classes),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], options["roi_size"], sampling_ratio=2),
        mask_head=MaskRCNNHeads(channels, (width,) * options["convs"], 1, norm_layer=norms[options["norm"]]),
        mask_predictor=MaskRCNNPredictor(width, width, classes),
    )
    model.load_state_dict(ours.state_dict())
    heads: Any = model.roi_heads
    stages = [
        (model.transform, "forward", "transform"),
        (model.transform, "postprocess", "paste"),
        (model.backbone, "forward", "trunk"),
        (model.rpn, "forward", "rpn"),
        (heads, "forward", "box"),
        *((part, "forward", "mask") for part in (heads.mask_roi_pool, heads.mask_head, heads.mask_predictor)),
        *((roi_heads, function, "mask") for function in ("maskrcnn_loss", "maskrcnn_inference")),
    ]
    return Peer(model, lambda: _name_stages(stages))


def anchors(config: Config) -> AnchorGenerator:
    """torchvision's generator of the study's anchors."""
    sizes = tuple(map(tuple, config.detector.anchor_sizes))
    return AnchorGenerator(sizes, (tuple(config.detector.anchor_ratios),) * len(sizes))


def _is_classic(config: Config) -> bool:
    """Whether the mask head is that of the paper, in any size."""
    head = config.head
    if head.name != "fcn" or head.class_agnostic:
        return False
    return bool(head.options["output_size"] == 2 * head.options["roi_size"])


def _arguments(ours: MaskRCNN, config: Config, classes: int) -> dict[str, Any]:
    """Arguments of torchvision's constructors from our configuration."""
    own = ("anchor_sizes", "anchor_ratios", "box_features")
    options = {key: value for key, value in vars(config.detector).items() if key not in own}
    features = config.detector.box_features
    backbone = copy.deepcopy(ours.backbone).to(memory_format=torch.contiguous_format)
    return {
        "backbone": backbone,
        "rpn_anchor_generator": anchors(config),
        "box_head": TwoMLPHead(backbone.out_channels * 7**2, features),
        "box_predictor": FastRCNNPredictor(features, classes),
        "min_size": config.dataset.min_size,
        "max_size": config.dataset.max_size,
        # images have their size already; torchvision has no public way to leave resizing out
        "_skip_resize": True,
        **options,
    }


def detectron2(ours: MaskRCNN, config: Config, classes: int, images: list[Tensor]) -> Peer:
    """detectron2's Mask R-CNN from its own configuration, with our sizes and numbers.

    Written after detectron2's documentation and never run. Its random weights are its own, scaled like ours; RoIAlign
    has our two samples per bin instead of detectron2's adaptive number.

    Raises:
        NotRun: detectron2 can't be imported, or does not have the trunk or the head.
    """
    try:
        # by name, since mypy has no types for it
        zoo = import_module("detectron2.model_zoo")
        build_model = import_module("detectron2.modeling").build_model
    except ImportError as error:
        raise NotRun("not installed") from error
    depths, options, d = {"resnet50": 50, "resnet101": 101}, config.head.options, config.detector
    if config.trunk.name not in depths or config.trunk.norm != "frozen":
        raise NotRun(f"set up here for {' and '.join(depths)} with frozen norm alone")
    if not _is_classic(config) or options["norm"] != "none":
        raise NotRun("set up here for the fcn head without norm alone, one mask a class, twice the RoI's size")
    cfg = zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    model = cfg.MODEL
    model.DEVICE = str(images[0].device)
    model.RESNETS.DEPTH, model.RESNETS.STRIDE_IN_1X1 = depths[config.trunk.name], False
    stages = 5 if config.trunk.trainable_layers is None else config.trunk.trainable_layers
    model.BACKBONE.FREEZE_AT, model.FPN.OUT_CHANNELS = 5 - stages, config.trunk.out_channels
    model.PIXEL_STD = [57.375, 57.12, 58.395]
    model.ANCHOR_GENERATOR.SIZES = [list(sizes) for sizes in d.anchor_sizes]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(d.anchor_ratios)]
    rpn, heads, box, mask = model.RPN, model.ROI_HEADS, model.ROI_BOX_HEAD, model.ROI_MASK_HEAD
    rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST = d.rpn_pre_nms_top_n_train, d.rpn_pre_nms_top_n_test
    rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST = d.rpn_post_nms_top_n_train, d.rpn_post_nms_top_n_test
    rpn.NMS_THRESH, rpn.IOU_THRESHOLDS = d.rpn_nms_thresh, [d.rpn_bg_iou_thresh, d.rpn_fg_iou_thresh]
    rpn.BATCH_SIZE_PER_IMAGE, rpn.POSITIVE_FRACTION = d.rpn_batch_size_per_image, d.rpn_positive_fraction
    heads.NUM_CLASSES, heads.IOU_THRESHOLDS = classes - 1, [d.box_fg_iou_thresh]
    heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION = d.box_batch_size_per_image, d.box_positive_fraction
    heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST = d.box_score_thresh, d.box_nms_thresh
    cfg.TEST.DETECTIONS_PER_IMAGE = d.box_detections_per_img
    box.FC_DIM, box.POOLER_SAMPLING_RATIO = d.box_features, 2
    mask.NUM_CONV, mask.CONV_DIM = options["convs"], options["width"] or config.trunk.out_channels
    mask.POOLER_RESOLUTION, mask.POOLER_SAMPLING_RATIO = options["roi_size"], 2
    cfg.INPUT.MASK_FORMAT = "bitmask"
    wrapped = _Detectron2(build_model(cfg))
    layers = {
        "suite.proposal_generator.rpn_head.objectness_logits": weights.OBJECTNESS,
        "suite.proposal_generator.rpn_head.anchor_deltas": weights.PROPOSAL_DELTAS,
        "suite.roi_heads.box_predictor.cls_score": weights.CLASS_LOGITS,
        "suite.roi_heads.box_predictor.bbox_pred": weights.BOX_DELTAS,
        "suite.roi_heads.mask_head.predictor": weights.MASK_LOGITS,
    }
    weights.fit(wrapped, layers, lambda: wrapped(images))
    suite: Any = wrapped.suite
    named_stages = [
        (suite, "preprocess_image", "transform"),
        (suite.backbone, "forward", "trunk"),
        (suite.proposal_generator, "forward", "rpn"),
        (suite.roi_heads, "forward", "box"),
        (suite.roi_heads, "_forward_mask", "mask"),
    ]
    return Peer(wrapped, lambda: _name_stages(named_stages))


class _Detectron2(nn.Module):
    """A detectron2 model with the inputs and outputs of torchvision's."""

    def __init__(self, suite: nn.Module) -> None:
        super().__init__()
        self.suite = suite

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]] | None = None) -> Any:
        structures = import_module("detectron2.structures")
        inputs: list[dict[str, Any]] = [{"image": 255 * image} for image in images]
        if targets is None:
            detections = [output["instances"] for output in self.suite(inputs)]
            return [{"boxes": d.pred_boxes.tensor, "masks": d.pred_masks[:, None]} for d in detections]
        for entry, target in zip(inputs, targets, strict=True):
            entry["instances"] = structures.Instances(
                tuple(entry["image"].shape[-2:]),
                gt_boxes=structures.Boxes(target["boxes"]),
                gt_classes=target["labels"] - 1,
                gt_masks=structures.BitMasks(target["masks"].bool()),
            )
        with import_module("detectron2.utils.events").EventStorage():
            return self.suite(inputs)


PEERS: dict[str, Callable[..., Peer]] = {"torchvision": torchvision, "detectron2": detectron2}


@contextmanager
def _name_stages(stages: list[tuple[Any, str, str]]) -> Iterator[None]:
    """Name functions for the profiler, each given by its object or module, its name and its stage. They are patched
    meanwhile, since hooks are for modules' ``forward`` alone. The time of a range inside another counts only for the
    inner one: "box" is the RoI heads without the mask branch."""
    with ExitStack() as stack:
        for owner, name, stage in stages:
            stack.enter_context(patch.object(owner, name, record_function(STAGE + stage)(getattr(owner, name))))
        yield


def add_rle(detections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the RLE of pasted masks to each image in the usual way: threshold, copy to the CPU, column-major order,
    pycocotools."""
    for image in detections:
        masks = (image["masks"][:, 0] > 0.5).cpu().numpy().astype(np.uint8)
        image["segmentations"] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    return detections

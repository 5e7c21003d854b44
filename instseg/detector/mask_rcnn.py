"""Mask R-CNN (He et al., ICCV 2017) with a mask head that can be swapped."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from instseg.detector import matching
from instseg.detector.box_branch import BoxBranch, SampledProposals, positives
from instseg.detector.boxes import on_device
from instseg.detector.matching import Targets
from instseg.detector.roi_align import Pyramid
from instseg.detector.rois import MaskHead, MaskPrediction, MaskTargets, RoIs
from instseg.detector.rpn import RPN
from instseg.masks import paste as mask_ops

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MaskRCNN(nn.Module):
    """Trunk, RPN and box branch as in torchvision's Mask R-CNN, and a mask head over RoIs.

    Parameters bear torchvision's names in the state dict, and numbers and thresholds its names as arguments.

    Args:
        backbone: maps a batch to pyramid maps ``"0".."3", "pool"`` (P2..P6).
        mask_head: the head that is compared; whatever it wants, it asks the RoIs for.
        num_classes: the background included; 2 or more.
        resize_in_training: whether training images are resized to ``min_size``; False where the data pipeline
            has brought them to their size.
        min_size, max_size: of the sides that images are resized to, in pixels.
        image_mean, image_std: of the colours, each in [0, 1].
        size_divisible: batches are padded to a multiple of this.
        anchor_sizes: one or several anchor sizes, in pixels, for each of the five levels.
        anchor_ratios: height / width of the anchors.
        exact_anchors: see :class:`~instseg.detector.rpn.RPN`.
        roi_aligned: see :class:`~instseg.detector.roi_align.Pyramid`.
        box_features: width of the box branch's two fully connected layers.
        rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test, rpn_post_nms_top_n_train, rpn_post_nms_top_n_test,
        rpn_nms_thresh, rpn_fg_iou_thresh, rpn_bg_iou_thresh, rpn_batch_size_per_image, rpn_positive_fraction,
        rpn_score_thresh: see :class:`~instseg.detector.rpn.RPN`.
        box_score_thresh, box_nms_thresh, box_detections_per_img, box_fg_iou_thresh, box_bg_iou_thresh,
        box_batch_size_per_image, box_positive_fraction: see :class:`~instseg.detector.box_branch.BoxBranch`.
    """

    def __init__(
        self,
        backbone: BackboneWithFPN,
        mask_head: MaskHead,
        num_classes: int,
        *,
        resize_in_training: bool = True,
        min_size: int = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        size_divisible: int = 32,
        anchor_sizes: Sequence[Sequence[int]] = ((32,), (64,), (128,), (256,), (512,)),
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        exact_anchors: bool = False,
        roi_aligned: bool = False,
        box_features: int = 1024,
        rpn_pre_nms_top_n_train: int = 2000,
        rpn_pre_nms_top_n_test: int = 1000,
        rpn_post_nms_top_n_train: int = 2000,
        rpn_post_nms_top_n_test: int = 1000,
        rpn_nms_thresh: float = 0.7,
        rpn_fg_iou_thresh: float = 0.7,
        rpn_bg_iou_thresh: float = 0.3,
        rpn_batch_size_per_image: int = 256,
        rpn_positive_fraction: float = 0.5,
        rpn_score_thresh: float = 0.0,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.5,
        box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5,
        box_bg_iou_thresh: float = 0.5,
        box_batch_size_per_image: int = 512,
        box_positive_fraction: float = 0.25,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: the background and one class at least")
        self.transform = _Transform(
            min_size,
            max_size,
            list(image_mean),
            list(image_std),
            size_divisible=size_divisible,
            _skip_resize=not resize_in_training,
        )
        self.backbone = backbone
        self.roi_aligned = roi_aligned
        self.rpn = RPN(
            backbone.out_channels,
            anchor_sizes=anchor_sizes,
            anchor_ratios=anchor_ratios,
            exact_anchors=exact_anchors,
            pre_nms_top_n=(rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test),
            post_nms_top_n=(rpn_post_nms_top_n_train, rpn_post_nms_top_n_test),
            nms_thresh=rpn_nms_thresh,
            fg_iou_thresh=rpn_fg_iou_thresh,
            bg_iou_thresh=rpn_bg_iou_thresh,
            batch_size_per_image=rpn_batch_size_per_image,
            positive_fraction=rpn_positive_fraction,
            score_thresh=rpn_score_thresh,
        )
        # torchvision's name, for the sake of its state dicts
        self.roi_heads = BoxBranch(
            backbone.out_channels,
            num_classes,
            features=box_features,
            score_thresh=box_score_thresh,
            nms_thresh=box_nms_thresh,
            detections_per_img=box_detections_per_img,
            fg_iou_thresh=box_fg_iou_thresh,
            bg_iou_thresh=box_bg_iou_thresh,
            batch_size_per_image=box_batch_size_per_image,
            positive_fraction=box_positive_fraction,
        )
        self.mask_head = mask_head
        self.register_state_dict_post_hook(_to_torchvision_names)
        self.register_load_state_dict_pre_hook(_from_torchvision_names)

    def forward(self, images: list[Tensor], targets: Targets | None = None) -> Any:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: (3, H_i, W_i) float in [0, 1], each of its own size.
            targets: in training, one dict an image with ``boxes`` (N, 4), ``labels`` (N,), ``masks`` (N, H, W).

        Returns:
            In training a dict of scalar losses; else one dict an image: ``boxes`` (n, 4) in its pixels,
            ``labels`` (n,), ``scores`` (n,), ``masks`` (n, 1, H, W) probabilities.
        """
        if self.training:
            if targets is None:
                raise ValueError("training needs targets")
            return self.losses(images, targets)
        results = []
        for image, found in zip(images, self.detect(images), strict=True):
            pasted = mask_ops.paste(found.pop("mask_probabilities"), found["boxes"], _size(image))
            results.append({**found, "masks": pasted[:, None]})
        return results

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of an image in the network's input; one that has it already is not resized any more."""
        scale = min(self.transform.min_size[-1] / min(height, width), self.transform.max_size / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def compile_layers(self, backend: str = "inductor") -> None:
        """Compile the layers by ``torch.compile``: trunk, RPN head, box branch and mask head.

        The second size of images or number of RoIs that comes along makes torch compile a graph for all sizes,
        so that compilation ends after some batches. The state dict stays as it is.
        """
        self.backbone.compile(backend=backend)
        self.mask_head.compile(backend=backend)
        for part, name in ((self.rpn, "predict"), (self.roi_heads, "layers")):
            setattr(part, name, torch.compile(getattr(part, name), backend=backend))

    def losses(self, images: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses of the RPN, the box branch and the mask head, each a scalar; see :meth:`forward`."""
        pyramid, padded, sizes, scaled = self._features(images, targets)
        truth = matching.pad(scaled)
        with record_function("stage/rpn"):
            proposals, losses = self.rpn([pyramid[k] for k in sorted(pyramid)], padded, sizes, truth)
        with record_function("stage/box"):
            training = self.roi_heads.choose(proposals, truth)
            logits, deltas = self.roi_heads(pyramid, training.boxes)
            losses |= self.roi_heads.losses(logits, deltas, training, truth)
        with record_function("stage/mask"):
            rois, mask_targets = mask_training_inputs(pyramid, training, scaled)
            return losses | self.mask_head.losses(self.mask_head(rois), rois, mask_targets)

    @torch.no_grad()
    def rois(self, images: list[Tensor], targets: Targets) -> tuple[RoIs, MaskTargets]:
        """The RoIs of a batch and the masks to learn in them, as :meth:`losses` gives them to the mask head, but with
        no gradient to the features."""
        pyramid, padded, sizes, scaled = self._features(images, targets)
        with record_function("stage/rpn"):
            proposals, _ = self.rpn([pyramid[k] for k in sorted(pyramid)], padded, sizes)
        with record_function("stage/box"):
            training = self.roi_heads.choose(proposals, matching.pad(scaled))
        return mask_training_inputs(pyramid, training, scaled)

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections with their masks left in their boxes.

        Returns:
            One dict an image: ``boxes`` (n, 4) xyxy in the image's own pixels, ``labels`` (n,), ``scores`` (n,),
            ``mask_probabilities`` (n, M, M), and ``mask_scores`` (n,) where the head rates its masks.
        """
        if not images:
            return []
        found = self.detect_boxes(images)
        with record_function("stage/mask"):
            return found.with_masks(self.mask_head.predict(found.rois, found.labels))

    def detect_boxes(self, images: list[Tensor]) -> "Detections":
        """The detections of one image or more, still without masks."""
        pyramid, padded, sizes, _ = self._features(images)
        with record_function("stage/rpn"):
            proposals, _ = self.rpn([pyramid[k] for k in sorted(pyramid)], padded, sizes)
        with record_function("stage/box"):
            logits, deltas = self.roi_heads(pyramid, proposals.boxes)
            found = self.roi_heads.detections(logits, deltas, proposals, sizes)
        scale = on_device([_size(image) for image in images], sizes.device) / sizes
        original = found.boxes * scale.flip(1).repeat(1, 2)[:, None]
        each = [
            {"boxes": original[i, :n], "labels": found.labels[i, :n], "scores": found.scores[i, :n]}
            for i, n in enumerate(found.counts)
        ]
        return Detections(RoIs(pyramid, [boxes[:n] for boxes, n in zip(found.boxes, found.counts, strict=True)]), each)

    def detect_rle(self, images: list[Tensor], threshold: float = 0.5) -> list[dict[str, Any]]:
        """Detections as for COCO: the masks as RLE, made in the boxes, never as images of floats.

        Returns:
            One dict an image: ``boxes, labels, scores`` (and ``mask_scores``) on the CPU, ``segmentations`` a
            list of n RLEs.
        """
        return in_rle(self.detect(images), images, threshold)

    def masks_in(self, images: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> list[list[mask_ops.RLE]]:
        """The masks of objects whose boxes and classes are known, as RLE.

        Args:
            images: as :meth:`forward` takes them, in evaluation mode.
            boxes: one (n_i, 4) xyxy tensor an image, in its own pixels.
            labels: one (n_i,) tensor an image: the objects' classes, from 1.

        Returns:
            One list of n_i RLEs an image.
        """
        return self.masks_for_rois(self.rois_for_boxes(images, boxes), images, boxes, labels)

    def rois_for_boxes(self, images: list[Tensor], boxes: list[Tensor]) -> RoIs:
        """The RoIs of :meth:`masks_in`."""
        pyramid, _, sizes, _ = self._features(images)
        scale = (sizes / on_device([_size(image) for image in images], sizes.device)).flip(1).repeat(1, 2)
        return RoIs(pyramid, [one * by for one, by in zip(boxes, scale, strict=True)])

    def masks_for_rois(
        self, rois: RoIs, images: list[Tensor], boxes: list[Tensor], labels: list[Tensor]
    ) -> list[list[mask_ops.RLE]]:
        """What :meth:`masks_in` gives, of RoIs that several heads may share."""
        masks = self.mask_head.predict(rois, torch.cat(labels)).probabilities
        counts = [len(one) for one in boxes]
        return mask_ops.to_rles(list(masks.split(counts)), boxes, [_size(image) for image in images])

    def _features(
        self, images: list[Tensor], targets: Targets | None = None
    ) -> tuple[Pyramid, tuple[int, int], Tensor, Targets]:
        """The pyramid of a batch, (H, W) of the network's input, (B, 2) sizes of the images in it, and targets
        scaled to them."""
        with record_function("stage/transform"):
            batch, scaled = self.transform(images, targets)
            sizes = on_device(batch.image_sizes, batch.tensors.device)
        with record_function("stage/trunk"):
            maps = self.backbone(batch.tensors)
        # torchvision's names of the maps
        levels = {level: maps[name] for level, name in enumerate(("0", "1", "2", "3", "pool"), start=2)}
        pyramid = Pyramid(levels, self.roi_aligned)
        return pyramid, _size(batch.tensors), sizes, scaled or []


class Detections(NamedTuple):
    """Detections of a batch that mask heads can be asked about."""

    rois: RoIs
    """All of them, R."""
    each: list[dict[str, Tensor]]
    """One dict an image: ``boxes`` (n, 4) xyxy in the image's own pixels, ``labels`` (n,), ``scores`` (n,)."""

    @property
    def labels(self) -> Tensor:
        """(R,) int64."""
        return torch.cat([one["labels"] for one in self.each])

    def with_masks(self, masks: MaskPrediction) -> list[dict[str, Tensor]]:
        """The detections and what a head says of them; see :meth:`MaskRCNN.detect`."""
        counts = [len(one["labels"]) for one in self.each]
        added = {"mask_probabilities": masks.probabilities, "mask_scores": masks.scores}
        split = {key: values.split(counts) for key, values in added.items() if values is not None}
        return [{**one, **{key: parts[i] for key, parts in split.items()}} for i, one in enumerate(self.each)]


def in_rle(detected: list[dict[str, Tensor]], images: list[Tensor], threshold: float = 0.5) -> list[dict[str, Any]]:
    """What :meth:`MaskRCNN.detect` gives of images, as :meth:`MaskRCNN.detect_rle` gives it."""
    rles = mask_ops.to_rles(
        [found["mask_probabilities"] for found in detected],
        [found["boxes"] for found in detected],
        [_size(image) for image in images],
        threshold,
    )
    return [
        {**{k: v.cpu() for k, v in found.items() if k != "mask_probabilities"}, "segmentations": rle}
        for found, rle in zip(detected, rles, strict=True)
    ]


def mask_training_inputs(pyramid: Pyramid, training: SampledProposals, targets: Targets) -> tuple[RoIs, MaskTargets]:
    """The positives of a batch."""
    boxes, matched, labels = positives(training)
    return RoIs(pyramid, boxes), MaskTargets(labels, [target["masks"] for target in targets], matched, boxes)


class _Transform(GeneralizedRCNNTransform):
    """Resizing, colours and padding; images that have their size already are not interpolated to it once more, and
    the colours' mean and deviation are brought to a device once."""

    def normalize(self, image: Tensor) -> Tensor:
        mean, deviation = _colours(tuple(self.image_mean), tuple(self.image_std), image.device)
        return (image - mean) / deviation

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        short, long = sorted(_size(image))
        if not self.training and min(self.min_size[-1] / short, self.max_size / long) == 1:
            return image, target
        return super().resize(image, target)


@lru_cache(maxsize=8)
def _colours(mean: tuple[float, ...], deviation: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # plain tensors, also where inference asks for them first
    with torch.inference_mode(False):
        both = on_device((mean, deviation), device, torch.float32)[:, :, None, None]
        return both[0], both[1]


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _rename(state: dict[str, Any], prefixes: dict[str, str]) -> None:
    for key in list(state):
        for old, new in prefixes.items():
            if key.startswith(old):
                state[new + key.removeprefix(old)] = state.pop(key)
                break


def _to_torchvision_names(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, MaskRCNN)
    names = module.mask_head.torchvision_names
    _rename(state, {f"{prefix}mask_head.{a}": f"{prefix}roi_heads.{b}" for a, b in names.items()})


def _from_torchvision_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, MaskRCNN)
    names = module.mask_head.torchvision_names
    _rename(state, {f"{prefix}roi_heads.{b}": f"{prefix}mask_head.{a}" for a, b in names.items()})

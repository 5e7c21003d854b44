"""Mask R-CNN (He et al., ICCV 2017) with a mask head that can be swapped."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from instseg.detector.box_branch import BoxBranch, SampledProposals
from instseg.detector.mask_head import MaskHead, MaskPrediction, MaskTargets
from instseg.detector.matching import Targets, pad
from instseg.detector.measured_pyramid import PULLS, MeasuredPyramid
from instseg.detector.options import DetectorOptions
from instseg.detector.roi_align import Pyramid
from instseg.detector.rois import RoIs
from instseg.detector.rpn import RPN
from instseg.device import on_device
from instseg.masks import paste

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MaskRCNN(nn.Module):
    """Trunk, RPN and box branch as in torchvision's Mask R-CNN, and a mask head over RoIs.

    Parameters bear torchvision's names in the state dict, and numbers and thresholds its names as arguments.

    Args:
        backbone: maps a batch to pyramid maps ``"0".."3", "pool"`` (P2..P6).
        mask_head: the head that is compared; it asks the RoIs for the features that it wants.
        num_classes: the background included; 2 or more.
        resize_in_training: whether training images are resized to ``min_size``; False where the data pipeline has
            resized them already.
        min_size, max_size: sides that images are resized to, in pixels.
        image_mean, image_std: of the colours, each in [0, 1].
        size_divisible: batches are padded to a multiple of this.
        options: see :class:`~instseg.detector.options.DetectorOptions`.

    Raises:
        TypeError: an option of another name.
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
        **options: Any,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: the background and one class at least")
        self.options = DetectorOptions(**options)
        self.transform = ImageTransform(min_size, max_size, list(image_mean), list(image_std), size_divisible)
        self.transform.resize_in_training = resize_in_training
        self.backbone = backbone
        self.rpn = RPN(backbone.out_channels, self.options)
        # torchvision's name, for the sake of its state dicts
        self.roi_heads = BoxBranch(backbone.out_channels, num_classes, self.options)
        self.mask_head = mask_head
        self.register_state_dict_post_hook(partial(_rename_mask_head, to_torchvision=True))
        self.register_load_state_dict_pre_hook(partial(_rename_mask_head, to_torchvision=False))

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
        detections = self.detect(images)
        for image, detected in zip(images, detections, strict=True):
            masks = paste.paste(detected.pop("mask_probabilities"), detected["boxes"], _size(image))
            detected["masks"] = masks[:, None]
        return detections

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of an image in the network's input; one that has it already is not resized any more."""
        scale = min(self.transform.min_size[-1] / min(height, width), self.transform.max_size / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def compile_layers(self, backend: str = "inductor") -> None:
        """Compile the layers by ``torch.compile``: trunk, RPN head, box branch and mask head.

        At the second size of images or number of RoIs torch compiles a graph for all sizes, so compilation ends after
        some batches. The state dict keeps its names.
        """
        for layers in (self.backbone, self.rpn.head, self.roi_heads.box_head, self.mask_head):
            layers.compile(backend=backend)

    def losses(self, images: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses of the RPN, the box branch and the mask head, each a scalar; see :meth:`forward`."""
        return self.measured_losses(images, targets)[0]

    def measured_losses(
        self, images: list[Tensor], targets: Targets
    ) -> tuple[dict[str, Tensor], dict[str, MeasuredPyramid]]:
        """The losses, and the pyramids that the mask head and the branches of boxes read, by the names
        :data:`~instseg.detector.measured_pyramid.PULLS`: these know the pull once the backward pass is done."""
        pyramid, padded, sizes, scaled = self.features(images, targets)
        for_boxes = MeasuredPyramid(pyramid)
        sampled, losses = self.box_losses(for_boxes, padded, sizes, scaled)
        with record_function("stage/mask"):
            for_masks = MeasuredPyramid(pyramid)
            rois, mask_targets = mask_training_inputs(for_masks, sampled, scaled)
            losses |= self.mask_losses(rois, mask_targets)
        return losses, dict(zip(PULLS, (for_masks, for_boxes), strict=True))

    def box_losses(
        self, pyramid: Pyramid, padded: tuple[int, int], sizes: Tensor, targets: Targets
    ) -> tuple[SampledProposals, dict[str, Tensor]]:
        """The losses of the RPN and the box branch, and the proposals that these are of.

        Args:
            pyramid, padded, sizes, targets: what :meth:`features` gives.
        """
        truth = pad(targets)
        with record_function("stage/rpn"):
            proposals, losses = self.rpn(pyramid.maps(), padded, sizes, truth)
        with record_function("stage/box"):
            sampled = self.roi_heads.choose(proposals, truth)
            logits, deltas = self.roi_heads(pyramid, sampled.boxes)
            return sampled, losses | self.roi_heads.losses(logits, deltas, sampled, truth)

    def mask_losses(self, rois: RoIs, targets: MaskTargets) -> dict[str, Tensor]:
        """The losses of the mask head, times their weight among the detector's."""
        losses = self.mask_head.losses(self.mask_head(rois), rois, targets)
        return {name: self.options.mask_loss_weight * loss for name, loss in losses.items()}

    @torch.no_grad()
    def rois(self, images: list[Tensor], targets: Targets) -> tuple[RoIs, MaskTargets]:
        """The RoIs of a batch and the masks to learn in them, as :meth:`losses` gives them to the mask head, but with
        no gradient to the features."""
        return self.rois_of(*self.features(images, targets))

    @torch.no_grad()
    def rois_of(
        self, pyramid: Pyramid, padded: tuple[int, int], sizes: Tensor, targets: Targets
    ) -> tuple[RoIs, MaskTargets]:
        """:meth:`rois` of what :meth:`features` gives."""
        with record_function("stage/rpn"):
            proposals, _ = self.rpn(pyramid.maps(), padded, sizes)
        with record_function("stage/box"):
            sampled = self.roi_heads.choose(proposals, pad(targets))
        return mask_training_inputs(pyramid, sampled, targets)

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections with their masks left in their boxes.

        Returns:
            One dict an image: ``boxes`` (n, 4) xyxy in the image's own pixels, ``labels`` (n,), ``scores`` (n,),
            ``mask_probabilities`` (n, M, M), and ``mask_scores`` (n,) where the head rates its masks.
        """
        if not images:
            return []
        detections = self.detect_boxes(images)
        with record_function("stage/mask"):
            return detections.with_masks(self.mask_head.predict(detections.rois, detections.labels))

    def detect_boxes(self, images: list[Tensor]) -> "Detections":
        """The detections of one image or more, still without masks."""
        pyramid, padded, sizes, _ = self.features(images)
        with record_function("stage/rpn"):
            proposals, _ = self.rpn(pyramid.maps(), padded, sizes)
        with record_function("stage/box"):
            logits, deltas = self.roi_heads(pyramid, proposals.boxes)
            boxes, scores, labels, counts = self.roi_heads.detections(logits, deltas, proposals, sizes)
        scale = on_device([_size(image) for image in images], sizes.device) / sizes
        original = boxes * scale.flip(1).repeat(1, 2)[:, None]
        by_image = [
            {"boxes": original[i, :n], "labels": labels[i, :n], "scores": scores[i, :n]} for i, n in enumerate(counts)
        ]
        return Detections(RoIs(pyramid, [boxes[i, :n] for i, n in enumerate(counts)]), by_image)

    def rois_for_boxes(self, images: list[Tensor], boxes: list[Tensor]) -> RoIs:
        """RoIs of given boxes: one (n_i, 4) xyxy tensor an image, in its own pixels."""
        pyramid, _, sizes, _ = self.features(images)
        scale = (sizes / on_device([_size(image) for image in images], sizes.device)).flip(1).repeat(1, 2)
        return RoIs(pyramid, [box * factor for box, factor in zip(boxes, scale, strict=True)])

    def detect_rle(self, images: list[Tensor], threshold: float = 0.5) -> list[dict[str, Any]]:
        """Detections as for COCO: the masks as RLE, made in the boxes, never as images of floats.

        Returns:
            One dict an image: ``boxes, labels, scores`` (and ``mask_scores``) on the CPU, ``segmentations`` a
            list of n RLEs.
        """
        return in_rle(self.detect(images), images, threshold)

    def features(
        self, images: list[Tensor], targets: Targets | None = None
    ) -> tuple[Pyramid, tuple[int, int], Tensor, Targets]:
        """The pyramid of a batch, (H, W) of the network's input, (B, 2) sizes of the images in it, and targets
        scaled to them."""
        with record_function("stage/transform"):
            batch, scaled = self.transform(images, targets)
            sizes = on_device(batch.image_sizes, batch.tensors.device)
        with record_function("stage/trunk"):
            maps = self.backbone(batch.tensors)
        pyramid = Pyramid(dict(enumerate(maps.values(), start=2)), self.options.roi_aligned)
        return pyramid, _size(batch.tensors), sizes, scaled or []


class Detections(NamedTuple):
    """Detections of a batch that mask heads can be asked about."""

    rois: RoIs
    """All of them, R."""
    by_image: list[dict[str, Tensor]]
    """One dict an image: ``boxes`` (n, 4) xyxy in the image's own pixels, ``labels`` (n,), ``scores`` (n,)."""

    @property
    def labels(self) -> Tensor:
        """(R,) int64."""
        return torch.cat([detected["labels"] for detected in self.by_image])

    def with_masks(self, masks: MaskPrediction) -> list[dict[str, Tensor]]:
        """The detections and a head's masks of them; see :meth:`MaskRCNN.detect`."""
        counts = [len(detected["labels"]) for detected in self.by_image]
        added = {"mask_probabilities": masks.probabilities, "mask_scores": masks.scores}
        parts = {key: values.split(counts) for key, values in added.items() if values is not None}
        return [
            {**detected, **{key: split[i] for key, split in parts.items()}} for i, detected in enumerate(self.by_image)
        ]


def in_rle(detections: list[dict[str, Tensor]], images: list[Tensor], threshold: float = 0.5) -> list[dict[str, Any]]:
    """What :meth:`MaskRCNN.detect` gives of images, as :meth:`MaskRCNN.detect_rle` gives it."""
    rles = paste.to_rles(
        [detected["mask_probabilities"] for detected in detections],
        [detected["boxes"] for detected in detections],
        [_size(image) for image in images],
        threshold,
    )
    return [
        {**{k: v.cpu() for k, v in detected.items() if k != "mask_probabilities"}, "segmentations": segmentations}
        for detected, segmentations in zip(detections, rles, strict=True)
    ]


def mask_training_inputs(pyramid: Pyramid, sampled: SampledProposals, targets: Targets) -> tuple[RoIs, MaskTargets]:
    """The RoIs of the positives, and their true masks. A GPU must have counted the positives by then."""
    counts = sampled.chosen.positive.sum(1).tolist()
    boxes, matched, labels = (
        [rows[:count] for rows, count in zip(values, counts, strict=True)]
        for values in (sampled.boxes, sampled.matched, sampled.labels)
    )
    return RoIs(pyramid, boxes), MaskTargets(torch.cat(labels), [t["masks"] for t in targets], matched, boxes)


class ImageTransform(GeneralizedRCNNTransform):
    """torchvision's resizing, colours and padding, without work that changes nothing: an image that has its size is
    not interpolated to it, and the colours' mean and deviation are brought to a device once."""

    resize_in_training = True

    def __init__(self, min_size: int, max_size: int, mean: list[float], std: list[float], size_divisible: int) -> None:
        super().__init__(min_size, max_size, mean, std, size_divisible)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        short, long = sorted(_size(image))
        fits = min(self.min_size[-1] / short, self.max_size / long) == 1
        if not self.resize_in_training if self.training else fits:
            return image, target
        return super().resize(image, target)


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _rename_mask_head(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any, to_torchvision: bool) -> None:
    assert isinstance(model, MaskRCNN)
    for ours, theirs in model.mask_head.torchvision_names.items():
        old, new = f"{prefix}mask_head.{ours}", f"{prefix}roi_heads.{theirs}"
        if not to_torchvision:
            old, new = new, old
        for key in [key for key in state if key.startswith(old)]:
            state[new + key.removeprefix(old)] = state.pop(key)

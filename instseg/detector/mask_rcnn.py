"""Mask R-CNN (He et al., ICCV 2017) with a mask head that can be swapped."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.transform import resize_boxes

from instseg import masks as mask_ops
from instseg.detector.rois import MaskHead, MaskTargets, RoIs

Targets = list[dict[str, Any]]


class MaskRCNN(FasterRCNN):
    """torchvision's Faster R-CNN (trunk, RPN, box branch) with RoIs and a mask branch of our own.

    Args:
        backbone: maps a batch to pyramid maps ``"0".."3", "pool"`` (P2..P6).
        mask_head: the head that is compared; whatever it wants, it asks the RoIs for.
        num_classes: the background included.
        resize_in_training: whether training pictures are resized to ``min_size``; False where the data pipeline
            has brought them to their size.
        anchor_sizes: one or several anchor sizes, in pixels, for each of the five levels.
        anchor_ratios: height / width of the anchors.
        box_features: width of the box branch's two fully connected layers.
        options: torchvision's own names: ``min_size``, ``rpn_nms_thresh``, ``box_score_thresh`` and so on.
    """

    def __init__(
        self,
        backbone: BackboneWithFPN,
        mask_head: MaskHead,
        num_classes: int,
        *,
        resize_in_training: bool = True,
        anchor_sizes: Sequence[Sequence[int]] = ((32,), (64,), (128,), (256,), (512,)),
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        box_features: int = 1024,
        **options: Any,
    ) -> None:
        super().__init__(
            backbone,
            rpn_anchor_generator=AnchorGenerator(
                tuple(tuple(sizes) for sizes in anchor_sizes), (tuple(anchor_ratios),) * len(anchor_sizes)
            ),
            box_head=TwoMLPHead(backbone.out_channels * 7**2, box_features),
            box_predictor=FastRCNNPredictor(box_features, num_classes),
            _skip_resize=not resize_in_training,
            **options,
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

    def losses(self, images: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses of the RPN, the box branch and the mask head, each a scalar; see :meth:`forward`."""
        batch, scaled = self.transform(images, targets)
        features = self.backbone(batch.tensors)
        with _exact(batch.tensors):
            proposals, losses = self.rpn(batch, _float(features), scaled)
            proposals, matched, labels, regression = self.roi_heads.select_training_samples(proposals, scaled)
        class_logits, box_regression = self._box_branch(features, proposals, batch.image_sizes)
        classifier, box_reg = fastrcnn_loss(class_logits, box_regression, labels, regression)

        positive = [torch.where(label > 0)[0] for label in labels]
        boxes = [box[keep] for box, keep in zip(proposals, positive, strict=True)]
        rois = RoIs(_pyramid(features), boxes)
        truth = MaskTargets(
            labels=torch.cat([label[keep] for label, keep in zip(labels, positive, strict=True)]),
            masks=[target["masks"] for target in scaled],
            matched=[index[keep] for index, keep in zip(matched, positive, strict=True)],
            boxes=boxes,
        )
        mask_losses = self.mask_head.loss(self.mask_head(rois), rois, truth)
        return {**losses, "loss_classifier": classifier, "loss_box_reg": box_reg, **mask_losses}

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections with their masks left in their boxes.

        Returns:
            One dict an image: ``boxes`` (n, 4) xyxy in the image's own pixels, ``labels`` (n,), ``scores`` (n,),
            ``mask_probabilities`` (n, M, M), and ``mask_scores`` (n,) where the head rates its masks.
        """
        batch, _ = self.transform(images)
        features = self.backbone(batch.tensors)
        with _exact(batch.tensors):
            proposals, _ = self.rpn(batch, _float(features))
        class_logits, box_regression = self._box_branch(features, proposals, batch.image_sizes)
        with _exact(batch.tensors):
            boxes, scores, labels = self.roi_heads.postprocess_detections(
                class_logits, box_regression, proposals, batch.image_sizes
            )
        masks = self.mask_head.predict(RoIs(_pyramid(features), boxes), torch.cat(labels))

        counts = [len(box) for box in boxes]
        results = []
        for i, probabilities in enumerate(masks.probabilities.split(counts)):
            original = resize_boxes(boxes[i], batch.image_sizes[i], _size(images[i]))
            found = {"boxes": original, "labels": labels[i], "scores": scores[i]}
            results.append({**found, "mask_probabilities": probabilities})
        if masks.scores is not None:
            for found, mask_scores in zip(results, masks.scores.split(counts), strict=True):
                found["mask_scores"] = mask_scores
        return results

    def detect_rle(self, images: list[Tensor], threshold: float = 0.5) -> list[dict[str, Any]]:
        """Detections as for COCO: the masks as RLE, made in the boxes, never as pictures of floats.

        Returns:
            One dict an image: ``boxes, labels, scores`` (and ``mask_scores``) on the CPU, ``segmentations`` a
            list of n RLEs.
        """
        results = []
        for image, found in zip(images, self.detect(images), strict=True):
            rles = mask_ops.to_rle(found.pop("mask_probabilities"), found["boxes"], _size(image), threshold)
            results.append({**{k: v.cpu() for k, v in found.items()}, "segmentations": rles})
        return results

    def _box_branch(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        pooled = self.roi_heads.box_roi_pool(features, proposals, sizes)
        class_logits, box_regression = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return class_logits.float(), box_regression.float()


def _exact(like: Tensor) -> torch.autocast:
    """No autocast: a bfloat16 has eight bits, too few for the coordinates of a box and the order of scores."""
    return torch.autocast(like.device.type, enabled=False)


def _float(features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: feature.float() for name, feature in features.items()}


def _pyramid(features: dict[str, Tensor]) -> dict[int, Tensor]:
    """torchvision's names of the maps -> their levels."""
    return {level: features[name] for level, name in enumerate(("0", "1", "2", "3", "pool"), start=2)}


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

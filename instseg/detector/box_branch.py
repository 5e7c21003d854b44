"""Box branch of Faster R-CNN: classifies proposals and corrects their boxes, for a whole batch at once."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from instseg.detector import nms
from instseg.detector.boxes import clip, decode, encode, is_larger
from instseg.detector.matching import IGNORED, PaddedTargets, Sampled, gather_rows, match, sample
from instseg.detector.options import DetectorOptions
from instseg.detector.roi_align import Pyramid
from instseg.detector.rois import RoIs
from instseg.detector.rpn import Proposals

WEIGHTS = (10.0, 5.0)
SMALLEST_SIDE = 1e-2
GRID = 7
CANDIDATES = 1000
"""Boxes an image that NMS is first tried on. Boxes of lower scores can't suppress these."""


class SampledProposals(NamedTuple):
    """The proposals to learn from, S an image, the positives first."""

    boxes: Tensor
    """(B, S, 4) xyxy in pixels of the network's input."""
    labels: Tensor
    """(B, S) int64: 0 for the background."""
    matched: Tensor
    """(B, S) int64: the instance of its image that each is matched with."""
    chosen: Sampled


class PaddedDetections(NamedTuple):
    """Detections, D an image at most, the highest score first."""

    boxes: Tensor
    """(B, D, 4) xyxy in pixels of the network's input."""
    scores: Tensor
    """(B, D) probabilities of the class."""
    labels: Tensor
    """(B, D) int64, from 1."""
    counts: list[int]
    """The number of each image's detections; what follows is padding."""


class BoxHead(TwoMLPHead):
    """torchvision's two fully connected layers: (R, C, 7, 7) -> (R, features)."""

    def forward(self, aligned: Tensor) -> Tensor:
        # the weights, not the many RoIs, are put into the order of the RoIs' memory
        weight = self.fc6.weight.view(-1, aligned.shape[1], GRID, GRID).permute(0, 2, 3, 1).flatten(1)
        x = F.relu(F.linear(aligned.permute(0, 2, 3, 1).flatten(1), weight, self.fc6.bias))
        return F.relu(self.fc7(x))


class BoxBranch(nn.Module):
    """Two fully connected layers on 7×7 RoIs; a class and, for each class, a box.

    Args:
        channels: of the pyramid's maps.
        num_classes: the background included.
        options: those whose names begin with ``box_`` are used.
    """

    def __init__(self, channels: int, num_classes: int, options: DetectorOptions) -> None:
        super().__init__()
        self.box_head = BoxHead(channels * GRID**2, options.box_features)
        self.box_predictor = FastRCNNPredictor(options.box_features, num_classes)
        self.options = options

    def forward(self, pyramid: Pyramid, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, 4) boxes -> (B, S, K) logits of the classes and (B, S, K, 4) corrections for each of them."""
        aligned = RoIs(pyramid, list(boxes)).align(GRID)
        logits, deltas = self.box_predictor(self.box_head(aligned))
        shape = boxes.shape[:2]
        return logits.float().view(*shape, -1), deltas.float().view(*shape, -1, 4)

    @torch.no_grad()
    def choose(self, proposals: Proposals, truth: PaddedTargets) -> SampledProposals:
        """Draw the proposals to learn from; the instances' own boxes are among them."""
        options = self.options
        boxes = torch.cat([proposals.boxes, truth.boxes], dim=1)
        valid = torch.cat([proposals.valid, truth.valid], dim=1)
        kinds, matched = match(boxes, truth, high=options.box_fg_iou_thresh, low=options.box_bg_iou_thresh)
        kinds.masked_fill_(~valid, IGNORED)
        chosen = sample(kinds, options.box_batch_size_per_image, options.box_positive_fraction)
        matched = gather_rows(matched, chosen.indices)
        labels = torch.where(chosen.positive, gather_rows(truth.labels, matched), 0)
        return SampledProposals(gather_rows(boxes, chosen.indices), labels, matched, chosen)

    def losses(
        self, logits: Tensor, deltas: Tensor, sampled: SampledProposals, truth: PaddedTargets
    ) -> dict[str, Tensor]:
        """Cross-entropy of the class and smooth L1 of the box, both over all proposals that were drawn."""
        chosen = sampled.chosen
        total = chosen.valid.sum().clamp(min=1)
        labels = torch.where(chosen.valid, sampled.labels, -100)
        classifier = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")

        positive = chosen.positive[:, : chosen.most, None]
        with torch.no_grad():
            instances = gather_rows(truth.boxes, sampled.matched[:, : chosen.most])
            target = torch.where(positive, encode(instances, sampled.boxes[:, : chosen.most], WEIGHTS), 0.0)
        true_class = sampled.labels[:, : chosen.most, None, None].expand(-1, -1, 1, 4)
        predicted = deltas[:, : chosen.most].gather(2, true_class)[:, :, 0]
        regression = F.smooth_l1_loss(torch.where(positive, predicted, 0.0), target, beta=1 / 9, reduction="sum")
        return {"loss_classifier": classifier / total, "loss_box_reg": regression / total}

    @torch.no_grad()
    def detections(self, logits: Tensor, deltas: Tensor, proposals: Proposals, sizes: Tensor) -> PaddedDetections:
        """The best boxes of all classes, after NMS in each class.

        Args:
            logits, deltas: what :meth:`forward` gives of the proposals.
            proposals: B images' proposals.
            sizes: (B, 2) as (H, W), of the images.
        """
        options, limit, classes = self.options, self.options.box_detections_per_img, logits.shape[2] - 1
        scores = torch.where(proposals.valid[..., None], logits.softmax(2)[..., 1:], -1.0).flatten(1)
        total, width = scores.shape[1], CANDIDATES
        while True:
            width = min(width, total)
            best = scores.topk(width, dim=1)
            place, labels = best.indices // classes, best.indices % classes + 1
            own = gather_rows(deltas.flatten(1, 2), place * (classes + 1) + labels)
            boxes = clip(decode(own, gather_rows(proposals.boxes, place), WEIGHTS), sizes)
            valid = (best.values > options.box_score_thresh) & is_larger(boxes, SMALLEST_SIDE)
            kept = nms.keep(boxes, valid, options.box_nms_thresh, labels)
            number = kept.sum(1)
            # what is left out matters only where it passes the threshold and there is still room for it
            open_ = (number < limit) & (best.values[:, -1] > options.box_score_thresh)
            counts = number.clamp(max=limit).tolist()
            if width == total or not open_.any():
                break
            width *= 4
        most = min(limit, width)
        order = torch.where(kept, best.values, -1.0).topk(most, dim=1)
        return PaddedDetections(
            gather_rows(boxes, order.indices), order.values, gather_rows(labels, order.indices), counts
        )

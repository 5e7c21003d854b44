"""Box branch of Faster R-CNN: classifies proposals and corrects their boxes, for a whole batch at once."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from instseg.detector import nms
from instseg.detector.boxes import clip, decode, encode, is_larger
from instseg.detector.matching import IGNORED, PaddedTargets, Sampled, gather_rows, match, sample
from instseg.detector.roi_align import Pyramid
from instseg.detector.rois import RoIs
from instseg.detector.rpn import Proposals

WEIGHTS = (10.0, 5.0)
SMALLEST_SIDE = 1e-2
GRID = 7
CANDIDATES = 1000
"""Boxes an image that NMS is first tried on. Those of lower scores can't change what becomes of these."""


class SampledProposals(NamedTuple):
    """The proposals that are learnt from, S an image, the positives first."""

    boxes: Tensor
    """(B, S, 4) xyxy in pixels of the network's input."""
    labels: Tensor
    """(B, S) int64: 0 for the background."""
    matched: Tensor
    """(B, S) int64: the instance of its image that each stands for."""
    chosen: Sampled


class PaddedDetections(NamedTuple):
    """What was found, D an image at most, the highest score first."""

    boxes: Tensor
    """(B, D, 4) xyxy in pixels of the network's input."""
    scores: Tensor
    """(B, D) probabilities of the class."""
    labels: Tensor
    """(B, D) int64, from 1."""
    counts: list[int]
    """How many of them each image has."""


class BoxBranch(nn.Module):
    """Two fully connected layers on 7×7 RoIs; a class and, for each class, a box.

    Args:
        channels: of the pyramid's maps.
        num_classes: the background included.
        features: width of the fully connected layers.
        score_thresh: detections are of a higher score.
        nms_thresh: largest IoU of two detections of one class.
        detections_per_img: at most so many.
        fg_iou_thresh, bg_iou_thresh: a proposal is positive from the one on, background below the other.
        batch_size_per_image, positive_fraction: proposals to learn from, and how many may be positive.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        features: int,
        score_thresh: float,
        nms_thresh: float,
        detections_per_img: int,
        fg_iou_thresh: float,
        bg_iou_thresh: float,
        batch_size_per_image: int,
        positive_fraction: float,
    ) -> None:
        super().__init__()
        self.box_head = TwoMLPHead(channels * GRID**2, features)
        self.box_predictor = FastRCNNPredictor(features, num_classes)
        self.score_thresh, self.nms_thresh, self.detections_per_img = score_thresh, nms_thresh, detections_per_img
        self.fg_iou_thresh, self.bg_iou_thresh = fg_iou_thresh, bg_iou_thresh
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction

    def forward(self, pyramid: Pyramid, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, 4) boxes -> (B, S, K) logits of the classes and (B, S, K, 4) corrections for each of them."""
        aligned = RoIs(pyramid, list(boxes)).align(GRID)
        logits, deltas = self.box_predictor(self.layers(aligned))
        shape = boxes.shape[:2]
        return logits.float().view(*shape, -1), deltas.float().view(*shape, -1, 4)

    def layers(self, aligned: Tensor) -> Tensor:
        """(R, C, 7, 7) -> (R, features): the two fully connected layers."""
        # the weights, not the many RoIs, are put into the order of the RoIs' memory
        channels = aligned.shape[1]
        first, second = self.box_head.fc6, self.box_head.fc7
        weight = first.weight.view(-1, channels, GRID, GRID).permute(0, 2, 3, 1).flatten(1)
        x = F.relu(F.linear(aligned.permute(0, 2, 3, 1).flatten(1), weight, first.bias))
        return F.relu(second(x))

    @torch.no_grad()
    def choose(self, proposals: Proposals, truth: PaddedTargets) -> SampledProposals:
        """Draw the proposals to learn from; the instances' own boxes are among them."""
        boxes = torch.cat([proposals.boxes, truth.boxes], dim=1)
        valid = torch.cat([proposals.valid, truth.valid], dim=1)
        kinds, matched = match(boxes, truth, high=self.fg_iou_thresh, low=self.bg_iou_thresh)
        kinds.masked_fill_(~valid, IGNORED)
        chosen = sample(kinds, self.batch_size_per_image, self.positive_fraction)
        matched = gather_rows(matched, chosen.indices)
        labels = torch.where(chosen.positive, gather_rows(truth.labels, matched), 0)
        return SampledProposals(gather_rows(boxes, chosen.indices), labels, matched, chosen)

    def losses(
        self, logits: Tensor, deltas: Tensor, training: SampledProposals, truth: PaddedTargets
    ) -> dict[str, Tensor]:
        """Cross-entropy of the class and smooth L1 of the box, both over all proposals that were drawn."""
        chosen = training.chosen
        total = chosen.valid.sum().clamp(min=1)
        wanted = torch.where(chosen.valid, training.labels, -100)
        classifier = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum")

        positive = chosen.positive[:, : chosen.most, None]
        own = training.boxes[:, : chosen.most]
        with torch.no_grad():
            instance = gather_rows(truth.boxes, training.matched[:, : chosen.most])
            aim = torch.where(positive, encode(instance, own, WEIGHTS), 0.0)
        labels = training.labels[:, : chosen.most, None, None].expand(-1, -1, 1, 4)
        found = deltas[:, : chosen.most].gather(2, labels)[:, :, 0]
        regression = F.smooth_l1_loss(torch.where(positive, found, 0.0), aim, beta=1 / 9, reduction="sum")
        return {"loss_classifier": classifier / total, "loss_box_reg": regression / total}

    @torch.no_grad()
    def detections(self, logits: Tensor, deltas: Tensor, proposals: Proposals, sizes: Tensor) -> PaddedDetections:
        """The best boxes of all classes, after NMS in each class.

        Args:
            logits, deltas: what :meth:`forward` says of the proposals.
            proposals: B images' proposals.
            sizes: (B, 2) as (H, W), of the images.
        """
        classes = logits.shape[2] - 1
        scores = torch.where(proposals.valid[..., None], logits.softmax(2)[..., 1:], -1.0).flatten(1)
        total, width = scores.shape[1], CANDIDATES
        while True:
            width = min(width, total)
            best = scores.topk(width, dim=1)
            place, labels = best.indices // classes, best.indices % classes + 1
            own = gather_rows(deltas.flatten(1, 2), place * (classes + 1) + labels)
            boxes = clip(decode(own, gather_rows(proposals.boxes, place), WEIGHTS), sizes)
            valid = (best.values > self.score_thresh) & is_larger(boxes, SMALLEST_SIDE)
            kept = nms.keep(boxes, valid, self.nms_thresh, labels)
            number = kept.sum(1)
            # what is left out matters only where it passes the threshold and there is still room for it
            open_ = (number < self.detections_per_img) & (best.values[:, -1] > self.score_thresh)
            counts, again = number.clamp(max=self.detections_per_img).tolist(), width < total and bool(open_.any())
            if not again:
                break
            width *= 4
        most = min(self.detections_per_img, width)
        order = torch.where(kept, best.values, -1.0).topk(most, dim=1)
        return PaddedDetections(
            gather_rows(boxes, order.indices), order.values, gather_rows(labels, order.indices), counts
        )


def positives(training: SampledProposals) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The positives alone, whose number must be known from here on.

    Returns:
        One (n_i, 4) tensor of boxes an image, one (n_i,) of the instances that they stand for, and (R,) labels.
    """
    counts = training.chosen.positive.sum(1).tolist()
    boxes = [b[:n] for b, n in zip(training.boxes, counts, strict=True)]
    matched = [m[:n] for m, n in zip(training.matched, counts, strict=True)]
    labels = torch.cat([label[:n] for label, n in zip(training.labels, counts, strict=True)])
    return boxes, matched, labels

"""Region proposal network (Ren et al., *Faster R-CNN*, NeurIPS 2015) over a pyramid, for a whole batch at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead

from instseg.detector import nms
from instseg.detector.boxes import clip, decode, encode, is_larger
from instseg.detector.matching import PaddedTargets, gather_rows, match, sample

WEIGHTS = (1.0, 1.0)
SMALLEST_SIDE = 1e-3
SHAPES_KEPT = 32


class Proposals(NamedTuple):
    """Boxes that may hold an instance, P an image, the likeliest first."""

    boxes: Tensor
    """(B, P, 4) xyxy in pixels of the network's input; 0 where not valid."""
    valid: Tensor
    """(B, P) bool: False behind the last one of an image that has fewer than P."""


class _Unrounded(AnchorGenerator):
    """Anchors whose sides are exact."""

    def generate_anchors(
        self,
        scales: Sequence[int],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        sizes = torch.tensor(scales, dtype=dtype, device=device)
        roots = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        # torchvision's order: all sizes of a ratio behind each other
        half = torch.stack([(sizes / roots[:, None]).flatten(), (sizes * roots[:, None]).flatten()], dim=1) / 2
        return torch.cat([-half, half], dim=1)


class RPN(nn.Module):
    """Proposes boxes and, in training, gives the losses of doing so.

    Args:
        channels: of the pyramid's maps.
        anchor_sizes: one or several anchor sizes, in pixels, for each level.
        anchor_ratios: height / width of the anchors.
        exact_anchors: whether anchors are as detectron2's: of exact sides, and on each level one stride apart. False:
            as torchvision's: corners rounded to pixels and, where P6 doesn't divide the image, put closer together.
        pre_nms_top_n: candidates a level and image before NMS, in training and in evaluation.
        post_nms_top_n: proposals an image after NMS, in training and in evaluation.
        nms_thresh: largest IoU of two proposals of one level.
        fg_iou_thresh, bg_iou_thresh: an anchor is positive from the one on, negative below the other.
        batch_size_per_image, positive_fraction: anchors that the loss is taken over, and how many may be positive.
        score_thresh: least objectness of a proposal.
    """

    def __init__(
        self,
        channels: int,
        *,
        anchor_sizes: Sequence[Sequence[int]],
        anchor_ratios: Sequence[float],
        exact_anchors: bool = False,
        pre_nms_top_n: tuple[int, int],
        post_nms_top_n: tuple[int, int],
        nms_thresh: float,
        fg_iou_thresh: float,
        bg_iou_thresh: float,
        batch_size_per_image: int,
        positive_fraction: float,
        score_thresh: float,
    ) -> None:
        super().__init__()
        sizes = tuple(tuple(level) for level in anchor_sizes)
        self.exact_anchors = exact_anchors
        make = _Unrounded if exact_anchors else AnchorGenerator
        self.anchor_generator = make(sizes, (tuple(anchor_ratios),) * len(sizes))
        per_place = {len(level) * len(anchor_ratios) for level in sizes}
        if len(per_place) != 1:
            raise ValueError(f"each level needs as many anchor sizes as the others, not {anchor_sizes}")
        self.head = RPNHead(channels, per_place.pop())
        self.pre_nms_top_n, self.post_nms_top_n = pre_nms_top_n, post_nms_top_n
        self.nms_thresh, self.score_thresh = nms_thresh, score_thresh
        self.fg_iou_thresh, self.bg_iou_thresh = fg_iou_thresh, bg_iou_thresh
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self._anchors: dict[tuple[object, ...], Tensor] = {}

    def forward(
        self, maps: list[Tensor], padded: tuple[int, int], sizes: Tensor, truth: PaddedTargets | None = None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals, and losses where the truth is given.

        Args:
            maps: (B, C, H_k, W_k), the finest first.
            padded: (H, W) of the network's input.
            sizes: (B, 2) as (H, W), of the images in it.
            truth: the instances to learn from.
        """
        logits, deltas, counts = self.predict(maps)
        with torch.autocast(sizes.device.type, enabled=False):
            # eight bits are too few for the order of scores and the coordinates of boxes
            logits, deltas = logits.float(), deltas.float()
            anchors = self.anchors([(int(m.shape[2]), int(m.shape[3])) for m in maps], padded, sizes.device)
            proposals = self._propose(logits.detach(), deltas.detach(), anchors, counts, sizes)
            losses = {} if truth is None else self._losses(logits, deltas, anchors, truth)
        return proposals, losses

    def predict(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
        """(B, A) logits of objectness, (B, A, 4) corrections of the A anchors, and how many each level has."""
        outputs = (self.head.cls_logits, self.head.bbox_pred)
        # both 1×1 convolutions are one matrix product, which leaves the anchors in their order
        weight = torch.cat([layer.weight.flatten(1) for layer in outputs])
        bias = torch.cat([layer.bias for layer in outputs])
        shapes = (outputs[0].out_channels, outputs[1].out_channels)
        logits, deltas = [], []
        for level in maps:
            cells = F.linear(self.head.conv(level).permute(0, 2, 3, 1), weight, bias)
            scores, boxes = cells.split(shapes, dim=3)
            logits.append(scores.flatten(1))
            deltas.append(boxes.reshape(len(boxes), -1, 4))
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1), [level.shape[1] for level in logits]

    def anchors(self, grids: list[tuple[int, int]], padded: tuple[int, int], device: torch.device) -> Tensor:
        """(A, 4) anchors of all levels, in the order of the maps' places; remembered for some shapes."""
        key = (*grids, padded, device)
        if key not in self._anchors:
            if len(self._anchors) == SHAPES_KEPT:
                del self._anchors[next(iter(self._anchors))]
            strides = [[padded[0] // h, padded[1] // w] for h, w in grids]
            if self.exact_anchors:
                strides = [[2**level] * 2 for level in range(2, 2 + len(grids))]
            # a plain tensor, also where inference asks for it first
            with torch.inference_mode(False):
                self.anchor_generator.set_cell_anchors(torch.float32, device)
                self._anchors[key] = torch.cat(self.anchor_generator.grid_anchors([list(g) for g in grids], strides))
        return self._anchors[key]

    @torch.no_grad()
    def _propose(self, logits: Tensor, deltas: Tensor, anchors: Tensor, counts: list[int], sizes: Tensor) -> Proposals:
        before, after = (n[0 if self.training else 1] for n in (self.pre_nms_top_n, self.post_nms_top_n))
        widest = min(before, max(counts))
        scores, index, first = [], [], 0
        for level in logits.split(counts, dim=1):
            best = level.topk(min(before, level.shape[1]), dim=1)
            fill = (0, widest - best.values.shape[1])
            scores.append(F.pad(best.values, fill, value=-torch.inf))
            index.append(F.pad(best.indices + first, fill))
            first += level.shape[1]
        score, chosen = torch.cat(scores, dim=1), torch.cat(index, dim=1)
        boxes = clip(decode(gather_rows(deltas, chosen), anchors[chosen], WEIGHTS), sizes)
        # a logit of -inf is the padding's, and objectness is compared as a probability
        fit = is_larger(boxes, SMALLEST_SIDE) & (score.sigmoid() >= self.score_thresh) & (score > -torch.inf)

        levels = len(counts)
        rows = (len(sizes) * levels, widest)
        kept = nms.keep(boxes.view(*rows, 4), fit.view(rows), self.nms_thresh).view(len(sizes), -1)
        best = torch.where(kept, score, -torch.inf).topk(min(after, score.shape[1]), dim=1)
        valid = best.values > -torch.inf
        return Proposals(torch.where(valid[..., None], gather_rows(boxes, best.indices), 0.0), valid)

    def _losses(self, logits: Tensor, deltas: Tensor, anchors: Tensor, truth: PaddedTargets) -> dict[str, Tensor]:
        with torch.no_grad():
            kinds, matched = match(anchors, truth, high=self.fg_iou_thresh, low=self.bg_iou_thresh, best_too=True)
            chosen = sample(kinds, self.batch_size_per_image, self.positive_fraction)
            index, positive = chosen.indices[:, : chosen.most], chosen.positive[:, : chosen.most, None]
            own = anchors[index]
            instance = gather_rows(truth.boxes, gather_rows(matched, index))
            wanted = torch.where(positive, encode(instance, own, WEIGHTS), 0.0)
            total = chosen.valid.sum().clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(
            gather_rows(logits, chosen.indices), chosen.positive.float(), weight=chosen.valid.float(), reduction="sum"
        )
        found = torch.where(positive, gather_rows(deltas, index), 0.0)
        regression = F.smooth_l1_loss(found, wanted, beta=1 / 9, reduction="sum")
        return {"loss_objectness": objectness / total, "loss_rpn_box_reg": regression / total}

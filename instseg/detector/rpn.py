"""Region proposal network (Ren et al., *Faster R-CNN*, NeurIPS 2015) over a pyramid, for a whole batch at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead as TorchvisionRPNHead

from instseg.detector import nms
from instseg.detector.boxes import clip, decode, encode, is_larger
from instseg.detector.matching import PaddedTargets, gather_rows, match, sample
from instseg.detector.options import DetectorOptions
from instseg.device import no_autocast

WEIGHTS = (1.0, 1.0)
SMALLEST_SIDE = 1e-3
SHAPES_KEPT = 32


class Proposals(NamedTuple):
    """Boxes that may hold an instance, P an image, the likeliest first."""

    boxes: Tensor
    """(B, P, 4) xyxy in pixels of the network's input; 0 where not valid."""
    valid: Tensor
    """(B, P) bool: False behind the last one of an image that has fewer than P."""


class RPNHead(TorchvisionRPNHead):
    """torchvision's convolutions, its parameters and names, on all levels."""

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
        """(B, A) logits of objectness, (B, A, 4) corrections of the A anchors, and how many each level has."""
        outputs = (self.cls_logits, self.bbox_pred)
        # both 1×1 convolutions are one matrix product, which leaves the anchors in their order
        weight = torch.cat([layer.weight.flatten(1) for layer in outputs])
        bias = torch.cat([layer.bias for layer in outputs])
        shapes = (outputs[0].out_channels, outputs[1].out_channels)
        logits, deltas = [], []
        for level in maps:
            cells = F.linear(self.conv(level).permute(0, 2, 3, 1), weight, bias)
            scores, boxes = cells.split(shapes, dim=3)
            logits.append(scores.flatten(1))
            deltas.append(boxes.reshape(len(boxes), -1, 4))
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1), [level.shape[1] for level in logits]


def exact_cell_anchors(sizes: Sequence[int], ratios: Sequence[float]) -> Tensor:
    """(A, 4) anchors around (0, 0) of exact sides; torchvision rounds their corners to pixels."""
    side, root = torch.tensor(sizes, dtype=torch.float32), torch.tensor(ratios, dtype=torch.float32).sqrt()
    # torchvision's order: all sizes of a ratio behind each other
    half = torch.stack([(side / root[:, None]).flatten(), (side * root[:, None]).flatten()], dim=1) / 2
    return torch.cat([-half, half], dim=1)


class RPN(nn.Module):
    """Proposes boxes and, in training, gives the losses of doing so.

    Args:
        channels: of the pyramid's maps.
        options: the anchors' and those whose names begin with ``rpn_`` are used.
    """

    def __init__(self, channels: int, options: DetectorOptions) -> None:
        super().__init__()
        sizes = tuple(tuple(level) for level in options.anchor_sizes)
        self.anchor_generator = AnchorGenerator(sizes, (tuple(options.anchor_ratios),) * len(sizes))
        if options.exact_anchors:
            self.anchor_generator.cell_anchors = [exact_cell_anchors(level, options.anchor_ratios) for level in sizes]
        per_place = set(self.anchor_generator.num_anchors_per_location())
        if len(per_place) != 1:
            raise ValueError(f"each level needs as many anchor sizes as the others, not {options.anchor_sizes}")
        self.head = RPNHead(channels, per_place.pop())
        self.options = options
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
        logits, deltas, counts = self.head(maps)
        with no_autocast(sizes.device):
            # eight bits are too few for the order of scores and the coordinates of boxes
            logits, deltas = logits.float(), deltas.float()
            anchors = self.anchors([(int(m.shape[2]), int(m.shape[3])) for m in maps], padded, sizes.device)
            proposals = self._propose(logits.detach(), deltas.detach(), anchors, counts, sizes)
            losses = {} if truth is None else self._losses(logits, deltas, anchors, truth)
        return proposals, losses

    def anchors(self, grids: list[tuple[int, int]], padded: tuple[int, int], device: torch.device) -> Tensor:
        """(A, 4) anchors of all levels, in the order of the maps' places; remembered for some shapes."""
        key = (*grids, padded, device)
        if key not in self._anchors:
            if len(self._anchors) == SHAPES_KEPT:
                del self._anchors[next(iter(self._anchors))]
            strides = [[padded[0] // h, padded[1] // w] for h, w in grids]
            if self.options.exact_anchors:
                strides = [[2**level] * 2 for level in range(2, 2 + len(grids))]
            # a plain tensor, also where inference asks for it first
            with torch.inference_mode(False):
                self.anchor_generator.set_cell_anchors(torch.float32, device)
                self._anchors[key] = torch.cat(self.anchor_generator.grid_anchors([list(g) for g in grids], strides))
        return self._anchors[key]

    @torch.no_grad()
    def _propose(self, logits: Tensor, deltas: Tensor, anchors: Tensor, counts: list[int], sizes: Tensor) -> Proposals:
        options = self.options
        before, after = options.rpn_pre_nms_top_n_test, options.rpn_post_nms_top_n_test
        if self.training:
            before, after = options.rpn_pre_nms_top_n_train, options.rpn_post_nms_top_n_train
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
        fit = is_larger(boxes, SMALLEST_SIDE) & (score.sigmoid() >= options.rpn_score_thresh) & (score > -torch.inf)

        levels = len(counts)
        rows = (len(sizes) * levels, widest)
        kept = nms.keep(boxes.view(*rows, 4), fit.view(rows), options.rpn_nms_thresh).view(len(sizes), -1)
        best = torch.where(kept, score, -torch.inf).topk(min(after, score.shape[1]), dim=1)
        valid = best.values > -torch.inf
        return Proposals(torch.where(valid[..., None], gather_rows(boxes, best.indices), 0.0), valid)

    def _losses(self, logits: Tensor, deltas: Tensor, anchors: Tensor, truth: PaddedTargets) -> dict[str, Tensor]:
        options = self.options
        with torch.no_grad():
            high, low = options.rpn_fg_iou_thresh, options.rpn_bg_iou_thresh
            kinds, matched = match(anchors, truth, high=high, low=low, best_too=True)
            chosen = sample(kinds, options.rpn_batch_size_per_image, options.rpn_positive_fraction)
            index, positive = chosen.indices[:, : chosen.most], chosen.positive[:, : chosen.most, None]
            instances = gather_rows(truth.boxes, gather_rows(matched, index))
            target = torch.where(positive, encode(instances, anchors[index], WEIGHTS), 0.0)
            total = chosen.valid.sum().clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(
            gather_rows(logits, chosen.indices), chosen.positive.float(), weight=chosen.valid.float(), reduction="sum"
        )
        predicted = torch.where(positive, gather_rows(deltas, index), 0.0)
        regression = F.smooth_l1_loss(predicted, target, beta=1 / 9, reduction="sum")
        return {"loss_objectness": objectness / total, "loss_rpn_box_reg": regression / total}

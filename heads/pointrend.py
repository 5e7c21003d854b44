"""PointRend: a coarse mask, then single points where it is uncertain."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads._blocks import check_at_least, conv, doublings, initialise
from instseg.detector.mask_head import MaskHead, MaskTargets, class_channel
from instseg.detector.rois import RoIs
from instseg.errors import UserError

LEVEL = 2
POINTS_AT_ONCE = 2**16
"""Points of all RoIs in one call of the point head at prediction: with 256 channels about 0.1 GB for each layer."""


class PointRend(MaskHead):
    """Kirillov et al., *PointRend: Image Segmentation as Rendering*, CVPR 2020. The defaults are the paper's.

    The coarse head reads P2, (R, C, 14, 14): a 2×2 convolution of stride 2 to (R, C, 7, 7) and fully connected layers
    to coarse logits (R, K, 7, 7). The point head, three fully connected layers and a last one, reads P2 at single
    points, (R, P, C) -> (R, P, K); each of its layers also gets the coarse logits there. It learns on random points,
    most of them where the coarse mask is uncertain. At prediction the coarse mask is doubled until ``output_size``;
    after each doubling the point head decides the most uncertain cells, those whose logits are nearest to 0.

    :meth:`forward` gives the coarse logits; :meth:`predict` masks of ``output_size``.

    Cost: 18.5 M parameters, 1.86 GFLOP.

    Args:
        fc_width: channels of the coarse head's fully connected layers; None: four times ``width``.
        points: points per RoI in training.
        oversampling: how many times as many points are drawn, to choose uncertain ones among them.
        importance: share of the points that are chosen for being uncertain; the others are uniform.
        subdivision_points: cells of each RoI that the point head decides after each doubling.
        roi_size: as for every head, and even: the coarse masks have half of it.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int | None = None,
        fc_width: int | None = None,
        points: int = 14**2,
        oversampling: float = 3.0,
        importance: float = 0.75,
        subdivision_points: int = 28**2,
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 224,
    ) -> None:
        super().__init__()
        width = in_channels if width is None else width
        fc_width = 4 * width if fc_width is None else fc_width
        check_at_least(1, width=width, fc_width=fc_width, points=points, subdivision_points=subdivision_points)
        check_at_least(1, oversampling=oversampling)
        if not 0 <= importance <= 1:
            raise UserError(f"head.options: importance={importance} must be between 0 and 1")
        if roi_size < 2 or roi_size % 2:
            raise UserError(f"head.options: roi_size={roi_size} must be even, 2 or more")
        self.steps = 1 + doublings(roi_size, output_size)
        self.roi_size = roi_size
        self.points = points
        self.candidates = round(oversampling * points)
        self.uncertain = round(importance * points)
        self.subdivision_points = subdivision_points

        side = roi_size // 2
        coarse_logits = nn.Linear(fc_width, num_classes * side**2)
        self.coarse = nn.Sequential(
            conv(in_channels, width, norm, size=2, stride=2),
            nn.Flatten(),
            nn.Linear(width * side**2, fc_width),
            nn.ReLU(inplace=True),
            nn.Linear(fc_width, fc_width),
            nn.ReLU(inplace=True),
            coarse_logits,
            nn.Unflatten(1, (num_classes, side, side)),
        )
        inputs = [in_channels, width, width]
        self.point_layers = nn.ModuleList(nn.Linear(channels + num_classes, width) for channels in inputs)
        self.point_logits = nn.Linear(width + num_classes, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        initialise(self, coarse_logits, self.point_logits)

    def forward(self, rois: RoIs) -> Tensor:
        return self.coarse(rois.align(self.roi_size, LEVEL))

    def loss(self, logits: Tensor, rois: RoIs, targets: MaskTargets) -> dict[str, Tensor]:
        """``loss_mask`` of the coarse masks and ``loss_mask_point`` of the points, both the mean binary cross-entropy
        in the channel of the true class."""
        losses = super().loss(logits, rois, targets)
        points = self.training_points(class_channel(logits, targets.labels).detach().float())
        point_logits = _channel(self.point_head(points, logits, rois), targets.labels)
        if len(points) == 0:
            return losses | {"loss_mask_point": point_logits.sum() * 0}
        loss = F.binary_cross_entropy_with_logits(point_logits.float(), targets.at(points))
        return losses | {"loss_mask_point": loss}

    def training_points(self, coarse: Tensor) -> Tensor:
        """Random points (R, points, 2) in [0, 1], as (x, y), a share ``importance`` of them those of ``oversampling``
        times as many where the coarse logits (R, M, M) are the most uncertain."""
        candidates = torch.rand(len(coarse), self.candidates, 2, device=coarse.device)
        uncertainty = -_read(coarse[:, None], candidates)[:, 0].abs()
        uncertain = uncertainty.topk(self.uncertain).indices[..., None].expand(-1, -1, 2)
        uniform = torch.rand(len(coarse), self.points - self.uncertain, 2, device=coarse.device)
        return torch.cat([candidates.gather(1, uncertain), uniform], dim=1)

    def mask_logits(self, logits: Tensor, rois: RoIs, labels: Tensor) -> Tensor:
        """(R, output_size, output_size): the coarse mask, doubled and refined at its most uncertain cells in turns."""
        mask = class_channel(logits, labels).float()
        at_once = max(1, POINTS_AT_ONCE // max(1, len(rois)))
        for step in range(self.steps):
            mask = F.interpolate(mask[:, None], scale_factor=2.0, mode="bilinear")[:, 0]
            size = mask.shape[-1]
            if step < self.steps - 1 and self.subdivision_points >= 4 * size**2:
                continue  # the next step decides every cell
            flat = mask.flatten(1)
            uncertain = (-flat.abs()).topk(min(self.subdivision_points, size**2)).indices
            for cells in uncertain.split(at_once, dim=1):
                points = (torch.stack([cells % size, cells // size], dim=-1) + 0.5) / size
                decided = _channel(self.point_head(points, logits, rois), labels)
                flat = flat.scatter(1, cells, decided.float())
            mask = flat.view_as(mask)
        return mask

    def point_head(self, points: Tensor, coarse: Tensor, rois: RoIs) -> Tensor:
        """(R, P, K) logits at points (R, P, 2), with the coarse logits (R, K, M, M)."""
        coarse = _read(coarse.float(), points).transpose(1, 2)
        x = rois.sample(points, LEVEL).transpose(1, 2)
        for layer in self.point_layers:
            x = F.relu_(layer(torch.cat([x, coarse], dim=-1)))
        return self.point_logits(torch.cat([x, coarse], dim=-1))


def _read(maps: Tensor, points: Tensor) -> Tensor:
    """Maps (R, C, M, M) over the boxes, read bilinearly at points (R, P, 2) in [0, 1] -> (R, C, P)."""
    return F.grid_sample(maps, 2 * points[:, None] - 1, align_corners=False)[:, :, 0]


def _channel(logits: Tensor, labels: Tensor) -> Tensor:
    """(R, P, K) logits -> (R, P), the channel of each RoI's label, or the only one."""
    return class_channel(logits.permute(0, 2, 1)[..., None], labels)[..., 0]

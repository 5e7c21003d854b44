"""Mask Scoring R-CNN: any mask head, and a head beside it that says how good its masks are."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads import build
from heads._blocks import conv, initialise
from instseg.detector.mask_head import MaskHead, MaskPrediction, MaskTargets
from instseg.detector.rois import RoIs
from instseg.errors import UserError

CONVS = 4


class MaskIoU(MaskHead):
    """Huang et al., *Mask Scoring R-CNN*, CVPR 2019, around any mask head; the defaults are the paper's.

    The RoI's features and the predicted mask, max-pooled to the same grid, go through four 3×3 convolutions, the last
    of stride 2, and three fully connected layers to an IoU for each class. It learns the IoU of the predicted mask,
    cut at 0.5, with the whole true one, by squared error. Detections are ranked for mask AP by class score × IoU.

    The predicted mask is read and not taught: the wrapped head learns what it would learn alone.

    Args:
        in_channels: channels of the pyramid's maps.
        num_classes: output channels of masks and IoUs.
        of: the wrapped head: its ``name`` and ``options`` (other keys of a configuration of a head are passed over).
        width: channels of the convolutions; None: as many as the pyramid's.
        fc_width: channels of the first two fully connected layers; None: four times ``width``.
        norm: of the convolutions: ``none``, ``group`` or ``batch``.
        roi_size: height and width of the grid that features and mask are read in.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        of: dict[str, Any] | None = None,
        width: int | None = None,
        fc_width: int | None = None,
        norm: str = "none",
        roi_size: int = 14,
    ) -> None:
        super().__init__()
        of = {"name": "fcn"} if of is None else of
        if "name" not in of or not isinstance(of.get("options", {}), dict):
            raise UserError("head.options.of: must be a head with its name and options, as in conf/head")
        width = in_channels if width is None else width
        fc_width = 4 * width if fc_width is None else fc_width
        for option, value in {"width": width, "fc_width": fc_width, "roi_size": roi_size}.items():
            if value < 1:
                raise UserError(f"head.options: {option}={value} must be 1 or more")
        self.roi_size = roi_size
        # made first: its first weights are those of the head alone
        self.wrapped = build(of["name"], in_channels, num_classes, **of.get("options", {}))
        strides = [1] * (CONVS - 1) + [2]
        inputs = [in_channels + 1, *[width] * (CONVS - 1)]
        self.convs = nn.Sequential(*(conv(c, width, norm, stride=s) for c, s in zip(inputs, strides, strict=True)))
        cells = (-(-roi_size // 2)) ** 2
        self.layers = nn.Sequential(
            nn.Linear(width * cells, fc_width),
            nn.ReLU(),
            nn.Linear(fc_width, fc_width),
            nn.ReLU(),
            nn.Linear(fc_width, num_classes),
        )
        initialise(self.convs)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)

    def forward(self, rois: RoIs) -> Tensor:
        return self.wrapped(rois)

    def mask_logits(self, logits: Tensor, rois: RoIs, labels: Tensor) -> Tensor:
        return self.wrapped.mask_logits(logits, rois, labels)

    def loss(self, logits: Tensor, rois: RoIs, targets: MaskTargets) -> dict[str, Tensor]:
        """The wrapped head's, and ``loss_mask_iou``, the mean squared error of the IoUs."""
        # first, for autocast keeps the weights that it cast, and without gradients if that was below
        found = self.wrapped.loss(logits, rois, targets)
        with torch.no_grad():
            masks = self.mask_logits(logits, rois, targets.labels).float().sigmoid()
        error = self.iou(masks, rois, targets.labels) - targets.iou(masks > 0.5)
        return found | {"loss_mask_iou": error.square().sum() / max(1, len(error))}

    def predict(self, rois: RoIs, labels: Tensor) -> MaskPrediction:
        masks = super().predict(rois, labels).probabilities
        return MaskPrediction(masks, self.iou(masks, rois, labels).clamp(0, 1))

    def iou(self, masks: Tensor, rois: RoIs, labels: Tensor) -> Tensor:
        """The IoU that masks (R, M, M) of probabilities are given, (R,) float32, not yet held to [0, 1]."""
        x = torch.cat([rois.align(self.roi_size), F.adaptive_max_pool2d(masks[:, None], self.roi_size)], dim=1)
        every = self.layers(self.convs(x).flatten(1)).float()
        channel = labels if every.shape[1] > 1 else torch.zeros_like(labels)
        return every.gather(1, channel[:, None])[:, 0]

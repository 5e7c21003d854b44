"""Mask Scoring R-CNN: any mask head, and a second one that predicts how good its masks are."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads import build
from heads._blocks import check_at_least, conv, conv_stack, initialise
from instseg.detector.mask_head import MaskHead, MaskPrediction, MaskTargets
from instseg.detector.rois import RoIs
from instseg.errors import UserError


class MaskIoU(MaskHead):
    """Huang et al., *Mask Scoring R-CNN*, CVPR 2019, around any mask head; the defaults are the paper's.

    The RoI's features and the predicted mask, max-pooled to the same grid, (R, C + 1, 14, 14), go through four 3×3
    convolutions, the last of stride 2, to (R, C, 7, 7), and three fully connected layers to an IoU for each class,
    (R, K). The target is the IoU of the predicted mask, thresholded at 0.5, with the whole true mask; the loss is the
    squared error. Detections are ranked for mask AP by class score × IoU.

    No gradient flows back into the predicted mask: the wrapped head learns what it would learn alone.

    Cost around the FCN: 19.0 M parameters, 1.84 GFLOP.

    Args:
        of: ``name`` and ``options`` of the wrapped head (other keys of a head's configuration are ignored).
        fc_width: channels of the first two fully connected layers; None: four times ``width``.
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
        check_at_least(1, width=width, fc_width=fc_width, roi_size=roi_size)
        self.roi_size = roi_size
        # made first, so that it has the random weights that it would have alone
        self.wrapped = build(of["name"], in_channels, num_classes, **of.get("options", {}))
        self.convs = conv_stack(in_channels + 1, width, norm, count=3).append(conv(width, width, norm, stride=2))
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
        # before no_grad: autocast would cache weights that it cast without gradients
        losses = self.wrapped.loss(logits, rois, targets)
        with torch.no_grad():
            masks = self.mask_logits(logits, rois, targets.labels).float().sigmoid()
        error = self.iou(masks, rois, targets.labels) - targets.iou(masks > 0.5)
        return losses | {"loss_mask_iou": error.square().sum() / max(1, len(error))}

    def predict(self, rois: RoIs, labels: Tensor) -> MaskPrediction:
        masks = super().predict(rois, labels).probabilities
        return MaskPrediction(masks, self.iou(masks, rois, labels).clamp(0, 1))

    def iou(self, masks: Tensor, rois: RoIs, labels: Tensor) -> Tensor:
        """Predicted IoU of masks of probabilities, (R, M, M) -> (R,) float32, not clamped to [0, 1]."""
        x = torch.cat([rois.align(self.roi_size), F.adaptive_max_pool2d(masks[:, None], self.roi_size)], dim=1)
        ious = self.layers(self.convs(x).flatten(1)).float()
        channel = labels if ious.shape[1] > 1 else torch.zeros_like(labels)
        return ious.gather(1, channel[:, None])[:, 0]

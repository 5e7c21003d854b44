"""The detector core: trunk, RPN, box branch, RoIs, and the Mask R-CNN that composes them with a mask head."""

from pathlib import Path
from typing import Any

from instseg.detector import trunk as trunks
from instseg.detector.mask_head import MaskHead
from instseg.detector.mask_rcnn import MaskRCNN


def build(
    trunk: str = "resnet50",
    *,
    head: MaskHead,
    num_classes: int = 91,
    weights: str | Path | None = None,
    norm: str = "frozen",
    trainable_layers: int | None = None,
    out_channels: int = 256,
    stride_in_1x1: bool = False,
    **options: Any,
) -> MaskRCNN:
    """A Mask R-CNN around a mask head.

    Args:
        trunk: see :func:`instseg.detector.trunk.names`.
        head: the mask head, built for the trunk's ``out_channels`` and for ``num_classes``.
        num_classes: the background included.
        weights, norm, trainable_layers, out_channels, stride_in_1x1: see :func:`instseg.detector.trunk.build`.
        options: those of :class:`MaskRCNN`, which include all of
            :class:`~instseg.detector.options.DetectorOptions`.

    Raises:
        TypeError: an option of another name.
        UserError: see :func:`instseg.detector.trunk.build`.
    """
    backbone = trunks.build(
        trunk,
        weights=weights,
        norm=norm,
        trainable_layers=trainable_layers,
        out_channels=out_channels,
        stride_in_1x1=stride_in_1x1,
    )
    return MaskRCNN(backbone, head, num_classes, **options)


__all__ = ["MaskHead", "MaskRCNN", "build"]

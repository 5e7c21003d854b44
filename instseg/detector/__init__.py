"""The detector core: trunk, RPN, box branch, RoIs, and the Mask R-CNN that composes them with a mask head."""

from inspect import signature
from typing import Any

from instseg.detector import trunk as trunks
from instseg.detector.mask_head import MaskHead
from instseg.detector.mask_rcnn import MaskRCNN


def build(trunk: str = "resnet50", *, head: MaskHead, num_classes: int = 91, **options: Any) -> MaskRCNN:
    """A Mask R-CNN around a mask head.

    Args:
        trunk: see :func:`instseg.detector.trunk.names`.
        head: the mask head, built for the trunk's ``out_channels`` and for ``num_classes``.
        num_classes: the background included.
        options: those of :func:`instseg.detector.trunk.build` (``weights``, ``norm``, ``trainable_layers``,
            ``out_channels``, ``stride_in_1x1``), those of :class:`MaskRCNN` (``min_size``, ``max_size``, ...) and
            those of :class:`~instseg.detector.options.DetectorOptions` (``box_score_thresh``, ...).

    Raises:
        TypeError: an option of another name.
        UserError: see :func:`instseg.detector.trunk.build`.
    """
    trunk_options = {key: options.pop(key) for key in signature(trunks.build).parameters if key in options}
    return MaskRCNN(trunks.build(trunk, **trunk_options), head, num_classes, **options)


__all__ = ["MaskHead", "MaskRCNN", "build"]

"""The options of RPN and box branch, each with its default: written down here alone."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class DetectorOptions:
    """Options of :class:`~instseg.detector.mask_rcnn.MaskRCNN`; names and defaults are torchvision's where it has them.

    It is also the node ``detector`` of the configuration, so its types are those that YAML has.

    Attributes:
        anchor_sizes: one or several anchor sizes, in pixels, for each of the levels P2..P6.
        anchor_ratios: height / width of the anchors.
        box_features: width of the box branch's two fully connected layers.
        rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test: candidates a level and image before NMS.
        rpn_post_nms_top_n_train, rpn_post_nms_top_n_test: proposals an image after NMS.
        rpn_nms_thresh: largest IoU of two proposals of one level.
        rpn_fg_iou_thresh, rpn_bg_iou_thresh: an anchor is positive from the first IoU on, negative below the second.
        rpn_batch_size_per_image, rpn_positive_fraction: anchors an image that the loss is taken over, and the largest
            fraction of positives.
        rpn_score_thresh: least objectness of a proposal.
        box_score_thresh: detections have a higher score.
        box_nms_thresh: largest IoU of two detections of one class.
        box_detections_per_img: largest number of detections an image.
        box_fg_iou_thresh, box_bg_iou_thresh: a proposal is positive from the first IoU on, background below the second.
        box_batch_size_per_image, box_positive_fraction: proposals an image that box branch and mask head learn from,
            and the largest fraction of positives.
        mask_loss_weight: of the mask losses, whichever head gives them, beside those of boxes (Detectron's
            ``WEIGHT_LOSS_MASK``).
        exact_anchors: whether anchors are as detectron2's: of exact sides, and on each level one stride apart. False:
            as torchvision's: corners rounded to pixels and, where P6 doesn't divide the image, closer together.
        roi_aligned: whether RoIAlign is detectron2's; see :class:`~instseg.detector.roi_align.Pyramid`.
    """

    anchor_sizes: list[list[int]] = field(default_factory=lambda: [[32], [64], [128], [256], [512]])
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    box_features: int = 1024
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_fg_iou_thresh: float = 0.7
    rpn_bg_iou_thresh: float = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_score_thresh: float = 0.0
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_detections_per_img: int = 100
    box_fg_iou_thresh: float = 0.5
    box_bg_iou_thresh: float = 0.5
    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    mask_loss_weight: float = 1.0
    exact_anchors: bool = False
    roi_aligned: bool = False

    def settings(self) -> dict[str, Any]:
        """The options that runs are told apart by; hashes of before there was ``mask_loss_weight`` stay."""
        options = asdict(self)
        if options["mask_loss_weight"] == 1:
            del options["mask_loss_weight"]
        return options

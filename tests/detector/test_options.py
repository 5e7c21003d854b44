"""Options of the detector: torchvision's names and defaults, each written down in one place."""

from dataclasses import asdict
from inspect import signature

import pytest
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

import heads
from instseg import detector
from instseg.detector.options import DetectorOptions


def test_names_and_defaults_are_torchvisions() -> None:
    options = asdict(DetectorOptions())
    theirs = {name: parameter.default for name, parameter in signature(TorchvisionMaskRCNN).parameters.items()}
    for name in ("anchor_sizes", "anchor_ratios", "box_features", "exact_anchors", "roi_aligned"):
        assert options.pop(name) is not None and name not in theirs
    assert options == {name: value for name, value in theirs.items() if name in options}
    assert len(options) == 17


def test_options_reach_all_parts_and_wrong_names_are_errors() -> None:
    head = heads.build("fcn", 8, 2)
    model = detector.build("small", head=head, num_classes=2, norm="batch", out_channels=8, box_score_thresh=0.3)
    assert model.options == model.rpn.options == model.roi_heads.options == DetectorOptions(box_score_thresh=0.3)
    with pytest.raises(TypeError, match="'box_score_tresh'"):
        detector.build("small", head=head, num_classes=2, norm="batch", out_channels=8, box_score_tresh=0.3)
    with pytest.raises(ValueError, match="as many anchor sizes"):
        detector.build("small", head=head, num_classes=2, norm="batch", anchor_sizes=[[8], [8, 16], [8], [8], [8]])

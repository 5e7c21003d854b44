"""Options of the detector: torchvision's names and defaults, each written down in one place."""

from dataclasses import asdict
from inspect import signature

import pytest
import small
import torch
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

import heads
from instseg import detector
from instseg.detector.measured_pyramid import PULLS
from instseg.detector.options import DetectorOptions
from instseg.training import frozen_core
from instseg.training.step import step


def test_names_and_defaults_are_torchvisions() -> None:
    options = asdict(DetectorOptions())
    theirs = {name: parameter.default for name, parameter in signature(TorchvisionMaskRCNN).parameters.items()}
    for name in ("anchor_sizes", "anchor_ratios", "box_features", "mask_loss_weight", "exact_anchors", "roi_aligned"):
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


@pytest.mark.parametrize("frozen", [False, True])
def test_the_weight_of_the_mask_loss_is_the_head_s_own_beside_it(frozen: bool) -> None:
    (batch,) = small.batches(1)
    losses = []
    for option, of_head in ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0)):
        net = small.model().train()
        net.options.mask_loss_weight, net.mask_head.loss_weight = option, of_head
        optimizer = small.recipe().make_optimizer(net)
        if frozen:
            (given,) = frozen_core.step([net], [optimizer], small.recipe(), batch, small.CPU, seed=0, iteration=0)
        else:
            torch.manual_seed(0)
            given = step(net, optimizer, small.recipe(), batch, small.CPU)
        assert isinstance(given, dict)
        losses.append(given)
    assert losses[1] == losses[2]
    assert losses[1]["loss_mask"] == pytest.approx(2 * losses[0]["loss_mask"])
    others = losses[0].keys() - {"loss_mask", *PULLS}
    assert all(losses[1][key] == losses[0][key] for key in others)

"""What of given weights goes into a model, layer by layer, and what is said of the rest."""

from typing import Any

import small
import torch
from torch import Tensor

import heads
from instseg import detector, seeds, transfer
from instseg.detector import MaskRCNN
from instseg.errors import UserError


def _model(head: str = "fcn", classes: int = 2, channels: int = 8, norm: str = "batch", **options: Any) -> MaskRCNN:
    with seeds.stream(7):
        return detector.build(
            "small",
            head=heads.build(head, channels, classes, **options),
            num_classes=classes,
            norm=norm,
            out_channels=channels,
            box_features=16,
        )


def _source(model: MaskRCNN, classes: tuple[str, ...] | None = None) -> transfer.Source:
    return transfer.Source("given", {k: v.clone() for k, v in model.state_dict().items()}, classes=classes)


def _differing(before: dict[str, Tensor], model: MaskRCNN) -> set[str]:
    """The layers that have changed."""
    after = model.state_dict()
    return {name.rpartition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}


def _copy(model: MaskRCNN) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_same_model_is_loaded_whole() -> None:
    given, model = small.model("unet"), small.model("unet", seed=1)
    given.backbone.body.stem[1].num_batches_tracked.fill_(5)
    report = transfer.load(model, _source(given))
    assert report.new == {} and report.unused == [] and "new" not in report.line()
    assert all(torch.equal(v, given.state_dict()[k]) for k, v in model.state_dict().items())


def test_layers_of_other_class_counts_stay_as_drawn_and_are_named() -> None:
    source, model = _source(_model(classes=5)), _model(classes=3)
    before = _copy(model)
    report = transfer.load(model, source)
    per_class = {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    }
    assert set(report.new) == per_class and report.unused == []
    assert _differing(before, model).isdisjoint(per_class)
    line = report.line()
    assert "roi_heads.box_predictor.cls_score (5×16 in it, 3×16 here)" in line and "\n" not in line
    assert "roi_heads.mask_predictor.mask_fcn_logits (5×8×1×1 in it, 3×8×1×1 here)" in line


def test_a_head_is_loaded_if_it_is_the_source_s() -> None:
    report = transfer.load(_model("pointrend", classes=2), _source(_model("pointrend", classes=4)))
    # the points' layers read class logits
    assert "mask_head.coarse.0.0" in report.loaded and "mask_head.point_layers.0" in report.new
    why = "another head's is in it"
    for given, own in (
        (_model("unet"), _model("fcn")),
        (_model("fcn"), _model("unet")),
        (_model("fcn"), _model("fcn", convs=2)),
    ):
        before = _copy(own)
        report = transfer.load(own, _source(given))
        assert {why} == set(report.new.values()) and report.unused == []
        assert not any("mask" in layer for layer in _differing(before, own))
        assert f"mask head, all {len(report.new)} layers ({why})" in report.line()


def test_one_mask_for_all_classes_is_another_last_layer_alone() -> None:
    report = transfer.load(_model(class_agnostic=True), _source(_model(classes=2)))
    assert list(report.new) == ["roi_heads.mask_predictor.mask_fcn_logits"]


def test_core_and_head_can_be_asked_for_alone() -> None:
    source = _source(small.model("unet"))
    model = small.model("unet", seed=1)
    before = _copy(model)
    report = transfer.load(model, source, core=False)
    assert all(layer.startswith("mask_head.") for layer in report.loaded) and report.unused == []
    assert all(layer.startswith("mask_head.") for layer in _differing(before, model))
    model = small.model("unet", seed=1)
    report = transfer.load(model, source, head=False)
    assert not any(layer.startswith("mask_head.") for layer in _differing(before, model))
    assert not any("mask" in layer for layer in [*report.loaded, *report.new])


def test_a_pyramid_of_another_width_and_left_over_weights_are_named() -> None:
    given = _source(_model(channels=16))
    given.state["extra.a.weight"] = torch.ones(1)
    given.state["backbone.body.stem.0.bias"] = torch.ones(16)
    model = _model()
    report = transfer.load(model, given)
    assert "backbone.fpn, all 8 layers (16×32×1×1 in it, 8×32×1×1 here, " in report.line()
    assert report.unused == ["backbone.body.stem.0.bias", "extra.a"] or report.unused == [
        "extra.a",
        "backbone.body.stem.0.bias",
    ]
    assert "without a place here: " in report.line()
    assert not any(layer.startswith("backbone.body.") for layer in report.new)


def test_a_layer_that_is_not_whole_is_not_loaded() -> None:
    given = _source(_model())
    del given.state["rpn.head.cls_logits.bias"], given.state["rpn.head.bbox_pred.bias"]
    del given.state["rpn.head.bbox_pred.weight"]
    report = transfer.load(_model(), given)
    assert report.new == {"rpn.head.cls_logits": "no bias in it", "rpn.head.bbox_pred": "not in it"}


def test_another_trunk_is_refused(refused: Any) -> None:
    with seeds.stream(0):
        other = detector.build("resnet18", head=heads.build("fcn", 8, 2), num_classes=2, norm="batch", out_channels=8)
    refused(lambda: transfer.load(_model(), _source(other)), "given: only 0 of the", "another trunk", error=UserError)


def test_frozen_norms_take_trained_ones_and_the_other_way() -> None:
    trained = _model()
    for name, value in trained.state_dict().items():
        if name.endswith("running_mean"):
            value.add_(1)
    frozen = _model(norm="frozen")
    assert transfer.load(frozen, _source(trained)).new == {}
    state = frozen.state_dict()
    assert all(v.min() >= 1 for k, v in state.items() if k.endswith("running_mean"))
    assert transfer.load(_model(), _source(frozen)).new == {}


def test_the_same_classes_in_another_order_are_sorted() -> None:
    names = ("__background__", "cat", "N/A", "dog", "cow")
    given = _model(classes=5)
    rows = torch.arange(5.0)
    with torch.no_grad():
        given.roi_heads.box_predictor.cls_score.bias.copy_(rows)
        given.roi_heads.box_predictor.bbox_pred.bias.copy_(rows.repeat_interleave(4) + torch.arange(4).repeat(5) / 10)
        given.mask_head.predictor.mask_fcn_logits.bias.copy_(rows)
    model = _model(classes=4)
    assert transfer.load(model, _source(given, names), ["dog", "cow", "cat"]).new == {}
    assert model.roi_heads.box_predictor.cls_score.bias.tolist() == [0, 3, 4, 1]
    assert model.mask_head.predictor.mask_fcn_logits.bias.tolist() == [0, 3, 4, 1]
    corrections = model.roi_heads.box_predictor.bbox_pred.bias.view(4, 4)
    torch.testing.assert_close(corrections[1], torch.tensor([3.0, 3.1, 3.2, 3.3]))
    # other classes are others, whatever their number
    report = transfer.load(_model(classes=4), _source(given, names), ["dog", "cow", "horse"])
    assert "roi_heads.box_predictor.cls_score" in report.new

"""Controls: FCNs that cost what another head costs."""

import pytest
import torch
from composition import composed

import heads
from experiments.config import control
from experiments.config.control import META, cost, image_size, resolved
from experiments.config.run import Config
from experiments.runs.end_to_end import build_model
from instseg import timing
from instseg.errors import UserError


def _params(config: Config, classes: int = 2) -> int:
    return sum(p.numel() for p in config.make_head(classes).parameters())


def _flops(config: Config) -> float:
    # counted while real numbers are computed
    cpu = torch.device("cpu")
    rois = timing.random_rois(config.trunk.out_channels, image_size(config), 20, cpu)
    return timing.head_flops(config.make_head(2).eval(), rois)


@pytest.mark.parametrize("head", ["unet", "unet_attention", "unet_wide", "unet_p2", "hourglass", "smp"])
@pytest.mark.parametrize("by", ["params", "flops"])
def test_a_control_costs_what_its_head_costs(head: str, by: str) -> None:
    wanted = composed("study=heads", f"head={head}")
    config = resolved(composed("study=heads", f"head={head}", f"control={by}"))
    cost_by = {"params": _params, "flops": _flops}[by]
    # unet_p2 reads whole maps once for all RoIs: 100 share them where controls are found
    assert abs(config.head.control_of["found"] / config.head.control_of["wanted"] - 1) <= 0.02
    if head != "unet_p2":
        assert abs(cost_by(config) / cost_by(wanted) - 1) <= 0.02
    assert cost_by(config) == pytest.approx(config.head.control_of["found"], rel=1e-6)
    assert (config.head.name, config.head.variant) == ("fcn", f"fcn_{by}_of_{head}")
    assert config.head.options["norm"] == "batch"
    assert config.head.options["output_size"] == wanted.head.options["output_size"]
    # in place of the head, and nothing else
    config.head = wanted.head
    assert config == wanted


def test_the_fcn_s_own_depth_is_kept_where_a_width_fits() -> None:
    # by hand, without normalisation: four 3x3 convolutions, a deconvolution and two channels of logits
    control_head = resolved(composed("study=coco_1x", "head=unet", "control=params"), num_classes=lambda: 2).head
    width = control_head.options["width"]
    assert control_head.options["convs"] == 4
    parameters = 9 * 256 * width + 3 * 9 * width**2 + 4 * width + 4 * width**2 + width + 2 * width + 2
    assert control_head.control_of["found"] == parameters
    unet = sum(p.numel() for p in heads.build("unet", 256, 2).parameters())
    assert control_head.control_of["wanted"] == unet
    narrower = parameters - (9 * 256 + 3 * 9 * (2 * width - 1) + 4 + 4 * (2 * width - 1) + 3)
    wider = parameters + (9 * 256 + 3 * 9 * (2 * width + 1) + 4 + 4 * (2 * width + 1) + 3)
    assert abs(parameters - unet) <= min(abs(narrower - unet), abs(wider - unet))


def test_the_number_of_classes_counts() -> None:
    few = resolved(composed("head=unet", "control=params"), num_classes=lambda: 2)
    many = resolved(composed("head=unet", "control=params"), num_classes=lambda: 400)
    assert few.head.control_of["wanted"] < many.head.control_of["wanted"]
    assert many.head.control_of["found"] == _params(many, 400)


def test_groups_of_more_than_one_channel_where_they_can_be() -> None:
    config = resolved(
        composed("study=coco_1x", "head=unet", "head_norm=group", "control=flops"), num_classes=lambda: 81
    )
    assert config.head.options["norm"] == "group"
    assert config.head.options["width"] % 8 == 0


def test_a_control_is_a_run_of_its_own_and_found_before_it_is_named() -> None:
    unresolved = composed("head=fcn_params_of_unet")
    with pytest.raises(ValueError, match="control"):
        unresolved.hash()
    with pytest.raises(ValueError, match="control"):
        build_model(unresolved, 2)
    config = resolved(unresolved)
    assert config.folder().name.startswith("fcn_params_of_unet-generated-f0-s0-")
    plain = composed("head=fcn", *(f"head.options.{k}={v}" for k, v in config.head.options.items()))
    assert config.hash() == plain.hash()
    assert resolved(config) == config


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["head=unet", "control=parms"], ["'parms'", "params"]),
        (["head=fcn", "control=params"], ["fcn is its own control"]),
        (["head=fcn", "control=flops", "head.options.width=24"], ["fcn is its own control"]),
    ],
)
def test_what_has_no_control_is_named(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        resolved(composed(*overrides))
    assert all(part in str(error.value) for part in parts)


def test_no_match_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TOLERANCE", 0.0)
    monkeypatch.setattr(control, "MOST_CONVS", 2)
    with pytest.raises(UserError, match="no FCN of 1 to 2 convolutions"):
        resolved(composed("head=unet", "control=params"))


@pytest.mark.parametrize("name", heads.names())
def test_costs_without_numbers_are_costs_with_them(name: str) -> None:
    size, cpu = (128, 160), torch.device("cpu")
    head = heads.build(name, 16, 3).eval()
    counted = timing.head_flops(head, timing.random_rois(16, size, 5, cpu))
    assert cost(head, "flops", timing.random_rois(16, size, 5, META)) == counted

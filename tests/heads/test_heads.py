"""Every registered head keeps the contract, with every option set that a study may use."""

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import heads
from heads._blocks import BatchNorm, Doubling, GroupNorm, Pointwise, Predictor
from instseg import timing
from instseg.detector.mask_head import MaskTargets
from instseg.detector.rois import RoIs
from instseg.detector.shape_losses import boundary_loss, dice_loss
from instseg.errors import UserError

CASES: list[tuple[str, dict[str, Any], int]] = [
    # head, options, size of its logits
    ("fcn", {}, 28),
    ("fcn", {"convs": 2, "norm": "group"}, 28),
    ("fcn", {"norm": "batch", "roi_size": 28, "output_size": 56, "width": 8}, 56),
    ("fcn", {"output_size": 14}, 14),
    ("unet", {}, 28),
    ("unet", {"skip": "add", "norm": "group"}, 28),
    ("unet", {"skip": "none", "depth": 1}, 28),
    ("unet", {"depth": 3, "norm": "batch", "width": 8}, 28),
    ("unet", {"roi_size": 28, "output_size": 112, "depth": 1}, 112),
    ("unet", {"roi_size": 56, "output_size": 56}, 56),
    ("unet", {"block": "residual"}, 28),
    ("unet", {"block": "residual", "skip": "add", "norm": "batch"}, 28),
    ("unet", {"skip": "attention"}, 28),
    ("unet", {"scse": True, "norm": "group", "width": 16}, 28),
    ("unet", {"up": "bilinear"}, 28),
    ("unet", {"up": "carafe"}, 28),
    ("unet", {"block": "residual", "skip": "attention", "scse": True, "up": "carafe", "depth": 3, "width": 16}, 28),
    ("unet_p2", {}, 56),
    ("unet_p2", {"levels": "p2_p3", "norm": "group", "output_size": 28}, 28),
    ("unet_p2", {"norm": "batch", "width": 16, "output_size": 112}, 112),
    ("pointrend", {}, 7),
    ("pointrend", {"norm": "batch", "points": 50, "importance": 1.0, "subdivision_points": 300, "output_size": 56}, 7),
    ("pointrend", {"norm": "group", "fc_width": 32, "importance": 0.0, "roi_size": 28, "output_size": 28}, 14),
    ("hourglass", {}, 28),
    ("hourglass", {"stacks": 2, "norm": "group"}, 28),
    ("hourglass", {"depth": 3, "norm": "batch", "width": 8, "output_size": 14}, 14),
    ("resnet_head", {}, 28),
    ("resnet_head", {"blocks": 1, "norm": "batch", "width": 8, "output_size": 56}, 56),
    ("smp", {}, 28),
    ("smp", {"decoder": "unetplusplus", "norm": "group"}, 28),
    ("smp", {"decoder": "manet", "norm": "batch"}, 28),
    ("smp", {"decoder": "linknet", "norm": "batch", "roi_size": 28, "output_size": 56, "depth": 3}, 56),
    ("smp", {"decoder": "fpn"}, 28),
    ("smp", {"decoder": "pan", "norm": "batch"}, 28),
    ("smp", {"decoder": "deeplabv3plus", "norm": "group"}, 28),
    ("smp", {"decoder": "upernet", "norm": "batch", "output_size": 14}, 14),
    ("smp", {"decoder": "segformer"}, 28),
    ("refinemask", {}, 14),
    ("refinemask", {"boundary_loss": False, "norm": "group", "output_size": 56}, 14),
    ("refinemask", {"norm": "batch", "width": 16, "roi_size": 28, "output_size": 56}, 28),
    ("maskiou", {}, 28),
    ("maskiou", {"of": {"name": "pointrend", "options": {"output_size": 56}}, "norm": "batch"}, 7),
    ("maskiou", {"of": {"name": "refinemask", "options": {"width": 64}}, "norm": "group", "roi_size": 7}, 14),
]
CHANNELS, CLASSES, STEPS = 16, 4, 241
case = pytest.mark.parametrize(("name", "options", "size"), CASES)


def _rois(*counts: int) -> RoIs:
    generator = torch.Generator().manual_seed(0)
    pyramid = {
        k: torch.rand(len(counts), CHANNELS, 128 // 2**k, 128 // 2**k, generator=generator) for k in (2, 3, 4, 5, 6)
    }
    for k, features in pyramid.items():
        # one channel says where the masks of _targets end; the others are noise
        rows = (torch.arange(features.shape[-2]) + 0.5) * 2**k
        features[:, 0] = ((rows - 40) / 20)[:, None]
    boxes = []
    for count in counts:
        corners = torch.rand(count, 2, generator=generator) * 60
        boxes.append(torch.cat([corners, corners + 4 + torch.rand(count, 2, generator=generator) * 60], dim=1))
    return RoIs(pyramid, boxes)


def _targets(rois: RoIs) -> MaskTargets:
    counts = [len(boxes) for boxes in rois.boxes]
    masks = [torch.zeros(1, 128, 128, dtype=torch.uint8).index_fill_(1, torch.arange(40), 1) for _ in counts]
    matched = [torch.zeros(count, dtype=torch.int64) for count in counts]
    return MaskTargets(torch.arange(sum(counts)) % (CLASSES - 1) + 1, masks, matched, rois.boxes)


def _build(name: str, options: dict[str, Any], class_agnostic: bool = False) -> heads.MaskHead:
    torch.manual_seed(0)
    return heads.build(name, CHANNELS, CLASSES, class_agnostic=class_agnostic, **options)


def _predicted_size(name: str, options: dict[str, Any], size: int) -> int:
    """Of the masks, which a head may make finer than its logits, if it has an option for that."""
    if name == "maskiou":
        of = options.get("of", {"name": "fcn"})
        return _predicted_size(of["name"], of.get("options", {}), size)
    return int({**heads.options(name), **options}.get("output_size", size))


def test_every_registered_head_has_a_case() -> None:
    assert {name for name, _, _ in CASES} == set(heads.names())


@case
@pytest.mark.parametrize("counts", [(3, 2), (0, 2), (1,), (0,), (0, 0)])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_shapes(name: str, options: dict[str, Any], size: int, counts: tuple[int, ...], class_agnostic: bool) -> None:
    head, rois = _build(name, options, class_agnostic), _rois(*counts)
    head.eval()
    logits = head(rois)
    assert logits.shape == (sum(counts), 1 if class_agnostic else CLASSES, size, size)
    assert logits.dtype == torch.float32
    prediction = head.predict(rois, torch.ones(sum(counts), dtype=torch.int64))
    predicted = _predicted_size(name, options, size)
    assert prediction.probabilities.shape == (sum(counts), predicted, predicted)
    assert ((prediction.probabilities >= 0) & (prediction.probabilities <= 1)).all()


@case
def test_gradients_reach_every_parameter(name: str, options: dict[str, Any], size: int) -> None:
    head, rois = _build(name, options, class_agnostic=True), _rois(3, 2)
    loss = head.loss(head(rois), rois, _targets(rois))
    assert all(value.ndim == 0 and torch.isfinite(value) for value in loss.values())
    torch.stack(list(loss.values())).sum().backward()
    for parameter_name, parameter in head.named_parameters():
        # batch normalisation takes away the bias of a convolution before it, which one of the library's decoders has
        no_effect = options.get("norm") == "batch" and parameter_name.endswith(".conv.bias")
        assert parameter.grad is not None and (no_effect or parameter.grad.abs().sum() > 0), parameter_name


@case
def test_every_mask_begins_with_logits_near_zero(
    name: str, options: dict[str, Any], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage that gives a mask begins with a cross-entropy near ln 2, whatever the size of its features."""
    stages: list[float] = []
    cross_entropy = F.binary_cross_entropy_with_logits

    def record(logits: torch.Tensor, truth: torch.Tensor, **others: Any) -> torch.Tensor:
        stages.append(cross_entropy(logits.detach(), truth).item())
        return cross_entropy(logits, truth, **others)

    monkeypatch.setattr(F, "binary_cross_entropy_with_logits", record)
    for number in range(3):
        torch.manual_seed(number)
        head, rois = heads.build(name, CHANNELS, CLASSES, **options), _rois(10, 6)
        for features in rois.pyramid.values():
            features *= 3
        head.losses(head(rois), rois, _targets(rois))
    assert len(stages) >= 3
    for loss in stages:
        assert loss == pytest.approx(math.log(2), rel=0.05)
    labels = torch.ones(16, dtype=torch.int64)
    assert (head.eval().predict(rois, labels).probabilities - 0.5).abs().max() < 0.1


@case
def test_loss_without_rois_is_zero_and_has_gradients(name: str, options: dict[str, Any], size: int) -> None:
    head, rois = _build(name, options).train(), _rois(0, 0)
    loss = sum(head.loss(head(rois), rois, _targets(rois)).values())
    assert isinstance(loss, torch.Tensor)
    assert loss == 0
    loss.backward()
    # running statistics stay finite
    assert all(torch.isfinite(value).all() for value in head.state_dict().values())


@case
def test_logits_of_an_image_do_not_depend_on_the_other_images(name: str, options: dict[str, Any], size: int) -> None:
    head, together = _build(name, options).eval(), _rois(3, 2)
    expected = head(together)
    apart = [head(RoIs({k: v[i : i + 1] for k, v in together.pyramid.items()}, [together.boxes[i]])) for i in (0, 1)]
    torch.testing.assert_close(torch.cat(apart), expected, atol=1e-4, rtol=1e-4)


@case
def test_bfloat16_is_near_float32(name: str, options: dict[str, Any], size: int) -> None:
    head, labels = _build(name, options).eval(), torch.ones(5, dtype=torch.int64)
    exact = head.predict(_rois(3, 2), labels).probabilities
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = head.predict(_rois(3, 2), labels).probabilities
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.02


@case
def test_state_dict_round_trip(name: str, options: dict[str, Any], size: int) -> None:
    head = _build(name, options).eval()
    torch.manual_seed(9)
    other = heads.build(name, CHANNELS, CLASSES, **options).eval()
    assert not torch.equal(head(_rois(2)), other(_rois(2)))
    other.load_state_dict(head.state_dict())
    assert torch.equal(head(_rois(2)), other(_rois(2)))


@case
def test_learns_sixteen_rois(name: str, options: dict[str, Any], size: int) -> None:
    # RefineMask ends an eighth as wide, and ReLUs of two channels soon give nothing
    narrow = {"width": 64 if name == "refinemask" else 16} if "width" in heads.options(name) else {}
    head, rois = _build(name, {**options, **narrow}, class_agnostic=True), _rois(10, 6)
    targets, predicted = _targets(rois), _predicted_size(name, options, size)
    truth = _truth(name, options, targets, predicted) > 0.5
    target_iou = 0.99 if predicted >= 56 else 0.95
    optimizer = torch.optim.AdamW(head.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)
    ious = []
    for step in range(STEPS - 1):
        optimizer.zero_grad()
        torch.stack(list(head.losses(head(rois), rois, targets).values())).sum().backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            with torch.no_grad():
                masks = head.predict(rois, targets.labels).probabilities > 0.5
            ious.append(((masks & truth).sum() / (masks | truth).sum()).item())
            if ious[-1] >= target_iou:
                return
    pytest.fail(f"IoU went {ious}, not to {target_iou}")


def _truth(name: str, options: dict[str, Any], targets: MaskTargets, size: int) -> torch.Tensor:
    if "pointrend" not in (name, options.get("of", {}).get("name")):
        return targets.crop(size)
    # PointRend reads and learns between the centres of cells, half a pixel from where RoIAlign does
    centres = (torch.arange(size) + 0.5) / size
    grid = torch.cartesian_prod(centres, centres).flip(1)
    return targets.at(grid.expand(len(targets.labels), -1, -1)).unflatten(1, (size, size))


@case
def test_every_head_takes_the_losses_on_shape(name: str, options: dict[str, Any], size: int) -> None:
    plain, rois = _build(name, options, class_agnostic=True).eval(), _rois(3, 2)
    head = heads.build(name, CHANNELS, CLASSES, class_agnostic=True, dice_weight=0.5, boundary_weight=2.0, **options)
    head.load_state_dict(plain.state_dict())
    targets = _targets(rois)
    torch.manual_seed(1)
    plain_losses = plain.losses(plain(rois), rois, targets)
    torch.manual_seed(1)
    losses = head.eval().losses(head(rois), rois, targets)
    assert set(losses) == {*plain_losses, "loss_mask_dice", "loss_mask_boundary"}
    for key, value in plain_losses.items():
        torch.testing.assert_close(losses[key], value)
    # on the predicted masks, which may be finer than the logits of forward
    masks = head.mask_logits(head(rois), rois, targets.labels)
    truth = targets.crop(_predicted_size(name, options, size))
    torch.testing.assert_close(losses["loss_mask_dice"], 0.5 * dice_loss(masks.sigmoid(), truth))
    torch.testing.assert_close(losses["loss_mask_boundary"], 2 * boundary_loss(masks, truth))
    (losses["loss_mask_dice"] + losses["loss_mask_boundary"]).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    no_rois = _rois(0, 0)
    assert sum(head.train().losses(head(no_rois), no_rois, _targets(no_rois)).values()) == 0
    # one weight for all of them
    head.loss_weight = 2.5
    head.eval()
    torch.manual_seed(1)
    weighted = head.losses(head(rois), rois, targets)
    for key, value in losses.items():
        torch.testing.assert_close(weighted[key], 2.5 * value)


@pytest.mark.parametrize("name", heads.names())
def test_compiled_heads_give_the_same_numbers(name: str) -> None:
    options = next(options for head_name, options, _ in CASES if head_name == name)
    head = _build(name, options).eval()
    torch._dynamo.reset()
    compiled = torch.compile(head, backend="eager")
    # another number of RoIs, and none
    for counts in ((3, 2), (4, 0), (0, 0)):
        torch.testing.assert_close(compiled(_rois(*counts)), head(_rois(*counts)), atol=1e-5, rtol=1e-5)


def test_the_default_loss_is_the_mean_cross_entropy_of_the_true_class() -> None:
    head, rois = _build("fcn", {}), _rois(2)
    targets = _targets(rois)
    logits = torch.full((2, CLASSES, 28, 28), 50.0)
    truth = targets.crop(28)
    for i, label in enumerate(targets.labels):
        logits[i, label] = torch.where(truth[i] > 0.5, 2.0, -2.0)
    chosen = torch.where(truth > 0.5, 2.0, -2.0)
    expected = F.softplus(-chosen) + (1 - truth) * chosen
    torch.testing.assert_close(head.loss(logits, rois, targets)["loss_mask"], expected.mean())


@pytest.mark.parametrize("name", heads.names())
def test_the_costs_in_the_docstrings(name: str) -> None:
    head = heads.build(name, 256, 81)
    documented = re.search(r"Cost.*: ([\d.]+) M parameters, ([\d.]+) GFLOP", type(head).__doc__ or "")
    assert documented, f"{type(head).__name__} does not say what it costs"
    assert documented[1] == f"{sum(p.numel() for p in head.parameters()) / 1e6:.1f}"
    meta = torch.device("meta")
    flops = timing.head_flops(head.eval().to(meta), timing.random_rois(256, (800, 1066), 100, meta))
    assert documented[2] == f"{flops / 1e9:.2f}"


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("fcnn", {}, ["'fcnn'", "fcn"]),
        ("fcn", {"dice_weight": -1.0}, ["dice_weight=-1.0", "0 or more"]),
        ("fcn", {"boundary_weight": math.nan}, ["boundary_weight=nan", "0 or more"]),
        ("fcn", {"loss_weight": -1.0}, ["loss_weight=-1.0", "0 or more"]),
        ("fcn", {"lr_mult": math.inf}, ["lr_mult=inf", "0 or more"]),
        ("fcn", {"dice_wieght": 1.0}, ["'dice_wieght'", "dice_weight"]),
        ("maskiou", {"of": {"name": "fcnn"}}, ["'fcnn'", "fcn"]),
        ("maskiou", {"of": {"options": {}}}, ["head.options.of", "name"]),
        ("maskiou", {"of": {"name": "unet", "options": {"dpeth": 2}}}, ["'dpeth'", "depth"]),
        ("maskiou", {"fc_width": 0}, ["fc_width=0"]),
        ("unet", {"dpeth": 2}, ["'dpeth'", "depth"]),
        ("unet", {"skip": "cat"}, ["'cat'", "concat"]),
        ("unet", {"norm": "bacth"}, ["'bacth'", "batch"]),
        ("unet", {"depth": 5}, ["depth=5", "roi_size"]),
        ("unet", {"depth": 0}, ["depth=0"]),
        ("fcn", {"output_size": 30}, ["output_size=30", "roi_size=14"]),
        ("fcn", {"output_size": 7}, ["output_size=7"]),
        ("fcn", {"convs": 0}, ["convs=0"]),
        ("fcn", {"width": 0}, ["width=0"]),
        ("unet", {"width": 0}, ["width=0"]),
        ("unet_p2", {"levels": "p3"}, ["'p3'", "p2_p3"]),
        ("unet_p2", {"output_size": 14}, ["output_size=14", "roi_size=14"]),
        ("unet_p2", {"output_size": 30}, ["output_size=30", "roi_size=14"]),
        ("unet_p2", {"width": 7}, ["width=7", "8 or more"]),
        ("unet_p2", {"norm": "bacth"}, ["'bacth'", "batch"]),
        ("refinemask", {"width": 15}, ["width=15", "16 or more"]),
        ("refinemask", {"output_size": 14}, ["output_size=14", "roi_size=14"]),
        ("pointrend", {"width": 0}, ["width=0"]),
        ("pointrend", {"fc_width": 0}, ["fc_width=0"]),
        ("pointrend", {"points": 0}, ["points=0"]),
        ("pointrend", {"subdivision_points": 0}, ["subdivision_points=0"]),
        ("pointrend", {"oversampling": 0.5}, ["oversampling=0.5"]),
        ("pointrend", {"importance": 1.5}, ["importance=1.5", "between 0 and 1"]),
        ("pointrend", {"roi_size": 7, "output_size": 7}, ["roi_size=7", "even"]),
        ("pointrend", {"output_size": 200}, ["output_size=200", "roi_size=14"]),
        ("hourglass", {"stacks": 0}, ["stacks=0"]),
        ("hourglass", {"depth": 4}, ["depth=4", "roi_size=14"]),
        ("hourglass", {"width": 0}, ["width=0"]),
        ("hourglass", {"output_size": 20}, ["output_size=20"]),
        ("resnet_head", {"blocks": 0}, ["blocks=0"]),
        ("resnet_head", {"width": 0}, ["width=0"]),
        ("resnet_head", {"norm": "bacth"}, ["'bacth'", "batch"]),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        heads.build(name, CHANNELS, CLASSES, **options)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("count", [0, 3])
def test_matrix_products_are_torchs_convolutions(count: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(count, 6, 5, 7)
    doubling, pointwise = Doubling(6, 4), Pointwise(6, 3)
    torch.testing.assert_close(doubling(x), F.conv_transpose2d(x, doubling.weight, doubling.bias, stride=2))
    torch.testing.assert_close(pointwise(x), F.conv2d(x, pointwise.weight, pointwise.bias))
    torch.testing.assert_close(pointwise.joined(x.split([3, 1, 2], dim=1)), pointwise(x))
    layers = [doubling, nn.ReLU(), Doubling(4, 6), nn.ReLU(), pointwise]
    expected = x
    for layer in layers:
        expected = layer(expected)
    assert expected.shape == (count, 3, 20, 28)
    torch.testing.assert_close(Predictor(*layers)(x), expected)


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (3, 6, 1, 1), (1, 6, 2, 1), (0, 6, 4, 4)])
def test_lone_values_pass_normalisation(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    weight, bias, mean, variance = (torch.rand(6) + 0.5 for _ in range(4))
    state = {"weight": weight, "bias": bias}
    batch, group, pairs = BatchNorm(6), GroupNorm(6, 6), GroupNorm(3, 6)
    running = {"running_mean": mean, "running_var": variance, "num_batches_tracked": torch.tensor(0)}
    batch.load_state_dict({**state, **running})
    group.load_state_dict(state)
    pairs.load_state_dict(state)
    lone = shape == (1, 6, 1, 1)
    stored = (mean.clone(), variance.clone()) if lone else (None, None)
    torch.testing.assert_close(batch(x), F.batch_norm(x, *stored, weight, bias, training=not lone))
    assert batch.num_batches_tracked == (not lone)
    affine = x * weight[:, None, None] + bias[:, None, None]
    torch.testing.assert_close(group(x), affine if shape[2:] == (1, 1) else F.group_norm(x, 6, weight, bias))
    torch.testing.assert_close(pairs(x), F.group_norm(x, 3, weight, bias))

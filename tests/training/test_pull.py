"""The pull of the branches at the pyramid: gradients by hand, and a training that does not change by measuring."""

import copy
import gc
import json
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from torch import Tensor

import heads
from instseg import seeds
from instseg.data.batches.loader import to_unit
from instseg.detector import MaskRCNN
from instseg.detector.mask_rcnn import mask_training_inputs
from instseg.detector.measured_pyramid import PULLS, MeasuredPyramid
from instseg.detector.roi_align import Pyramid
from instseg.training import frozen_core
from instseg.training.loop import train
from instseg.training.step import step

HEADS = ("fcn", "pointrend", "unet_p2")
"""The FCN reads aligned RoIs alone, PointRend points of a map too, the U-Net with P2 whole maps."""


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def _model(head: str = "fcn", **options: Any) -> MaskRCNN:
    net = small.model()
    with seeds.stream(1):
        net.mask_head = heads.build(head, 8, 2, **options)
    # the weights of the last layer are near zero at first, and so would be the gradient that goes through it
    with torch.no_grad(), seeds.stream(2):
        for parameter in net.mask_head.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net.train()


def _norm(losses: Sequence[Tensor], maps: Sequence[Tensor]) -> float:
    gradients = torch.autograd.grad(sum(losses), list(maps), retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
    return sum(float(g.double().square().sum()) for g in gradients if g is not None) ** 0.5


def _parts(batch: Any, count: int) -> Iterator[tuple[list[Tensor], Any]]:
    images, targets = batch
    size = len(images) // count
    for i in range(0, len(images), size):
        yield [to_unit(image, small.CPU) for image in images[i : i + size]], targets[i : i + size]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_end_to_end_it_is_the_norm_of_the_gradient_by_hand(
    head: str, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch,) = small.batches(1, batch_size=4)
    schedule = small.recipe(batch_size=4, accumulate=accumulate)
    net = _model(head, loss_weight=2.5)
    by_hand = copy.deepcopy(net)
    torch.manual_seed(3)
    numbers = step(net, schedule.make_optimizer(net), schedule, batch, small.CPU)

    maps: dict[int, Tensor] = {}
    features = by_hand.features

    def remembered(*arguments: Any) -> Any:
        result = features(*arguments)
        maps.update(result[0])
        return result

    monkeypatch.setattr(by_hand, "features", remembered)
    torch.manual_seed(3)
    squares = dict.fromkeys(PULLS, 0.0)
    for part in _parts(batch, accumulate):
        losses = by_hand(*part)
        of_masks = [loss / accumulate for name, loss in losses.items() if name.startswith("loss_mask")]
        of_boxes = [loss / accumulate for name, loss in losses.items() if not name.startswith("loss_mask")]
        for name, some in zip(PULLS, (of_masks, of_boxes), strict=True):
            squares[name] += _norm(some, list(maps.values())) ** 2
    assert len(of_boxes) == 4 and all(value > 0 for value in squares.values())
    assert list(numbers)[-2:] == list(PULLS)
    for name in PULLS:
        assert numbers[name] == pytest.approx(squares[name] ** 0.5, rel=1e-5)


def test_the_weight_of_the_mask_loss_counts() -> None:
    (batch,) = small.batches(1)
    schedule = small.recipe()
    pulls = []
    for weight in (1.0, 3.0):
        net = _model(loss_weight=weight)
        torch.manual_seed(3)
        pulls.append(step(net, schedule.make_optimizer(net), schedule, batch, small.CPU))
    assert pulls[1]["pull_mask"] == pytest.approx(3 * pulls[0]["pull_mask"], rel=1e-5)
    assert pulls[1]["pull_box"] == pulls[0]["pull_box"] > 0


@pytest.mark.parametrize("head", HEADS)
def test_measuring_changes_no_bit_of_the_gradients(head: str) -> None:
    measured, plain = _model(head), _model(head)
    for net in (measured, plain):
        (batch,) = small.batches(1)
        images, targets = next(_parts(batch, 1))
        torch.manual_seed(3)
        if net is measured:
            losses = net.measured_losses(images, targets)[0]
        else:
            pyramid, *others = net.features(images, targets)
            sampled, losses = net.box_losses(pyramid, *others)
            rois, masks = mask_training_inputs(pyramid, sampled, others[-1])
            losses |= net.mask_head.losses(net.mask_head(rois), rois, masks)
        torch.stack(list(losses.values())).sum().backward()
    for (name, parameter), other in zip(measured.named_parameters(), plain.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, other.grad), name  # type: ignore[arg-type]


def _frozen(names: Sequence[str]) -> list[MaskRCNN]:
    core = small.model(seed=5)
    models = [_model(name) for name in names]
    for model in models:
        frozen_core.share_core(model, core)
        frozen_core.freeze(model)
        frozen_core.training_mode(model)
    return models


def _frozen_step(models: Sequence[MaskRCNN], batch: Any, *, accumulate: int = 1, measure_pull: bool = True) -> Any:
    schedule = small.recipe(batch_size=len(batch[0]), accumulate=accumulate)
    optimizers = [schedule.make_optimizer(model) for model in models]
    return frozen_core.step(
        models, optimizers, schedule, batch, small.CPU, seed=7, iteration=3, measure_pull=measure_pull
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_on_a_frozen_core_it_is_what_would_flow(accumulate: int) -> None:
    (batch,) = small.batches(1, batch_size=4)
    numbers = _frozen_step(_frozen(HEADS), batch, accumulate=accumulate)
    squares: dict[Any, float] = dict.fromkeys([*HEADS, "box"], 0.0)
    models = _frozen(HEADS)
    for n, part in enumerate(_parts(batch, accumulate)):
        torch.manual_seed(seeds.derive(7, "rois", 3, n))
        rois, masks = models[0].rois(*part)
        for name, model in zip(HEADS, models, strict=True):
            torch.manual_seed(seeds.derive(7, "mask head", 3, n))
            leaves = {level: m.clone().requires_grad_() for level, m in rois.pyramid.items()}
            own = rois.over(leaves)
            losses = model.mask_head.losses(model.mask_head(own), own, masks)
            squares[name] += _norm([loss / accumulate for loss in losses.values()], list(leaves.values())) ** 2
        with torch.no_grad():
            _, *others = models[0].features(*part)
        torch.manual_seed(seeds.derive(7, "box losses", 3, n))
        leaves = {level: m.clone().requires_grad_() for level, m in rois.pyramid.items()}
        _, losses = models[0].box_losses(Pyramid(leaves), *others)
        squares["box"] += _norm([loss / accumulate for loss in losses.values()], list(leaves.values())) ** 2
    for name, found in zip(HEADS, numbers, strict=True):
        assert found["pull_mask"] == pytest.approx(squares[name] ** 0.5, rel=1e-5) and found["pull_mask"] > 0
        assert found["pull_box"] == pytest.approx(squares["box"] ** 0.5, rel=1e-5)


def test_on_a_frozen_core_measuring_and_other_heads_change_no_bit() -> None:
    (batch,) = small.batches(1)
    names = heads.names()
    options = {"refinemask": {"width": 16}}
    core = small.model(seed=5)

    def stepped(names: Sequence[str], measure_pull: bool) -> tuple[list[MaskRCNN], Any]:
        models = [_model(name, **options.get(name, {})) for name in names]
        for model in models:
            frozen_core.share_core(model, core)
            frozen_core.freeze(model)
            frozen_core.training_mode(model)
        return models, _frozen_step(models, batch, measure_pull=measure_pull)

    plain, unmeasured = stepped(names, False)
    measured, numbers = stepped(names, True)
    for i, name in enumerate(names):
        assert unmeasured[i] == {key: value for key, value in numbers[i].items() if key not in PULLS}
        a, b = plain[i].mask_head.state_dict(), measured[i].mask_head.state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a), name
        if name not in HEADS:
            continue
        ((alone,), (own,)) = stepped([name], True)
        assert own == numbers[i] and own["pull_mask"] > 0, name
        assert all(torch.equal(value, b[key]) for key, value in alone.mask_head.state_dict().items())
    # nothing is left behind in the core
    assert all(parameter.grad is None for parameter in core.backbone.parameters())


def test_compiled_layers_pull_as_others() -> None:
    (batch,) = small.batches(1)
    schedule = small.recipe()
    numbers = []
    for compiles in (False, True):
        net = _model()
        if compiles:
            net.compile_layers(backend="aot_eager")
        torch.manual_seed(3)
        numbers.append(step(net, schedule.make_optimizer(net), schedule, batch, small.CPU))
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


def test_maps_are_not_kept_by_their_hooks() -> None:
    gc.disable()
    try:
        leaf = torch.ones(1, 2, 4, 4, requires_grad=True)
        measured = MeasuredPyramid(Pyramid({2: leaf * 2}))
        maps = weakref.ref(measured[2])
        (measured[2].sum() + measured.rows().sum()).backward()
        assert float(measured.pull()) == pytest.approx(2 * 32**0.5)
        del measured
        assert maps() is None
    finally:
        gc.enable()


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_log_has_means_of_what_was_measured_and_a_loss_of_losses(tmp_path: Path, frozen: bool) -> None:
    schedule = small.recipe(6)

    def trained(folder: Path, log_every: int, until: int = 6) -> list[dict[str, Any]]:
        folder.mkdir(exist_ok=True)
        (net,) = _frozen(["fcn"]) if frozen else [_model()]

        class Killed(Exception):
            pass

        def feed(start: int) -> Iterator[Any]:
            for i, batch in enumerate(small.batches(6, start), start=start):
                if i == until:
                    raise Killed
                yield batch

        options = {"seed": 0, "device": small.CPU, "core_is_frozen": frozen, "checkpoint_every": 4}
        try:
            train([net], schedule, feed, [folder], log_every=log_every, **options)  # type: ignore[arg-type]
        except Killed:
            assert until < 6
        return _lines(folder)

    single, pairs = trained(tmp_path / "single", 1), trained(tmp_path / "pairs", 2)
    assert [line["iteration"] for line in pairs] == [2, 4, 6]
    for line, (first, second) in zip(pairs, zip(single[::2], single[1::2], strict=True), strict=True):
        for name in PULLS:
            # on a frozen core at the iteration that ends the interval, end to end at all of them
            expected = second[name] if frozen else (first[name] + second[name]) / 2
            assert line[name] == pytest.approx(expected) and line[name] > 0
        losses = {key: value for key, value in line.items() if key.startswith("loss_")}
        assert line["loss"] == pytest.approx(sum(losses.values()))
        assert set(line) == {"iteration", "lr", "loss", *losses, *PULLS}
    trained(tmp_path / "cut", 2, until=5)
    assert trained(tmp_path / "cut", 2) == pairs

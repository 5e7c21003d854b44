"""Heads that learn at once on a frozen core give the numbers of heads that learn alone."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import small
import torch

import heads
from instseg import seeds
from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.evaluation.predict import predict_each
from instseg.training import checkpoint, frozen_core
from instseg.training.loop import train
from instseg.training.schedule import Schedule

CORE = small.model(seed=5)
# more channels than the suite's smallest, which some heads can't halve so often
OPTIONS: dict[str, dict[str, Any]] = {"refinemask": {"width": 16}, "unet": {"norm": "batch"}}


@pytest.fixture(autouse=True)
def _deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def _models(names: Sequence[str], core: MaskRCNN = CORE) -> list[MaskRCNN]:
    """Models of a copy of the core."""
    core = copy.deepcopy(core)
    models = []
    for name in names:
        model = small.model()
        with seeds.stream(1):
            model.mask_head = heads.build(name, 8, 2, **OPTIONS.get(name, {}))
        frozen_core.share_core(model, core)
        frozen_core.freeze(model)
        models.append(model)
    return models


def _trained(
    folder: Path, names: Sequence[str], schedule: Schedule, core: MaskRCNN = CORE, **options: Any
) -> dict[str, MaskRCNN]:
    models = _models(names, core)
    defaults = {"seed": 0, "device": small.CPU, "core_is_frozen": True, "checkpoint_every": 2, "log_every": 1}
    options = {**defaults, **options}
    feed = options.pop("feed", lambda start: small.batches(schedule.iterations, start, batch_size=schedule.batch_size))
    folders = [folder / name for name in names]
    for path in folders:
        path.mkdir(parents=True, exist_ok=True)
    outcomes = train(models, schedule, feed, folders, **options)
    assert all(outcome.error is None for outcome in outcomes)
    return dict(zip(names, models, strict=True))


def _same(model: MaskRCNN, other: MaskRCNN) -> bool:
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_head_alone_and_among_all_others_in_any_order_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    names = heads.names()
    schedule = small.recipe(2, clip_norm=1.0)
    together = _trained(tmp_path / "a", names, schedule)
    backwards = _trained(tmp_path / "b", names[::-1], schedule)
    data = small.data("val", 4)
    results = dict(zip(together, predict_each(list(together.values()), data, small.INFERENCE), strict=True))
    for name in names:
        alone = _trained(tmp_path / "alone", [name], schedule)[name]
        assert _same(alone, together[name]) and _same(alone, backwards[name]), name
        lines = [(tmp_path / where / name / "metrics.jsonl").read_text() for where in ("alone", "a", "b")]
        assert lines[0] == lines[1] == lines[2] and len(lines[0].splitlines()) == 2
        # the boxes are detected anew
        assert predict_each([alone], data, small.INFERENCE) == [results[name]], name
        assert [row["bbox"] for row in results[name]] == [row["bbox"] for row in results["fcn"]]
    assert results["unet"] != results["fcn"]


def test_only_the_head_learns(tmp_path: Path) -> None:
    before = CORE.state_dict()
    model = _trained(tmp_path, ["fcn"], small.recipe(3))["fcn"]
    first = _models(["fcn"])[0].state_dict()
    for key, value in model.state_dict().items():
        learnt = not torch.equal(value, first[key])
        assert learnt == key.startswith("roi_heads.mask_"), key
        if not learnt:
            assert torch.equal(value, before[key])


def test_rois_are_those_that_the_whole_model_learns_from() -> None:
    model = _models(["fcn"])[0]
    frozen_core.training_mode(model)
    images, targets = next(iter(small.batches(1)))
    images = [image.float() / 255 for image in images]
    rois, masks = model.rois(images, targets)
    assert len(rois) == len(masks.labels) > 0
    truth = torch.cat([target["boxes"] for target in targets])
    # every instance's own box is among the proposals, and a positive
    assert all((torch.cat(rois.boxes) == box).all(1).any() for box in truth)
    assert not any(level.requires_grad for level in rois.pyramid.values())
    losses = model.mask_head.losses(model.mask_head(rois), rois, masks)
    assert set(losses) == {"loss_mask"} and losses["loss_mask"].requires_grad


def test_a_broken_pass_goes_on_and_heads_that_are_further_join_it(tmp_path: Path) -> None:
    schedule = small.recipe(6)
    whole = _trained(tmp_path / "whole", ["fcn", "unet"], schedule)

    class Killed(Exception):
        pass

    def until(last: int) -> Any:
        def feed(start: int) -> Any:
            for i, batch in enumerate(small.batches(6, start), start=start):
                if i == last:
                    raise Killed
                yield batch

        return feed

    # one is killed behind its second iteration, the other behind its fourth
    for name, last in (("fcn", 3), ("unet", 5)):
        with pytest.raises(Killed):
            _trained(tmp_path / "cut", [name], schedule, feed=until(last))
    at = {name: checkpoint.load(tmp_path / "cut" / name / "checkpoint.pt")["iteration"] for name in whole}
    assert at == {"fcn": 2, "unet": 4}
    starts: list[int] = []

    def feed(start: int) -> Any:
        starts.append(start)
        return small.batches(6, start)

    resumed = _trained(tmp_path / "cut", ["unet", "fcn"], schedule, feed=feed)
    assert starts == [2]
    for name in whole:
        assert _same(whole[name], resumed[name])
        assert (tmp_path / "cut" / name / "metrics.jsonl").read_text() == (
            tmp_path / "whole" / name / "metrics.jsonl"
        ).read_text()
    # a third time there is nothing to do
    again = _trained(tmp_path / "cut", ["unet", "fcn"], schedule)
    assert _same(again["fcn"], resumed["fcn"])


def test_a_head_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    schedule = small.recipe(4)
    alone = _trained(tmp_path / "alone", ["fcn"], schedule)["fcn"]
    bad, good = _models(["unet", "fcn"])
    loss = bad.mask_head.loss
    calls = []

    def breaks(*arguments: Any) -> dict[str, torch.Tensor]:
        calls.append(0)
        return {name: value * (torch.inf if len(calls) > 2 else 1) for name, value in loss(*arguments).items()}

    bad.mask_head.loss = breaks  # type: ignore[method-assign]
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
    outcomes = train(
        [bad, good],
        schedule,
        lambda start: small.batches(4, start),
        [tmp_path / "bad", tmp_path / "good"],
        seed=0,
        device=small.CPU,
        core_is_frozen=True,
        checkpoint_every=2,
        log_every=1,
        describe=lambda i: f"image-{i}",
    )
    assert outcomes[1].error is None and _same(good, alone)
    message = str(outcomes[0].error)
    assert "iteration 2" in message and "image-" in message and "\n" not in message
    assert len(calls) == 3
    # what was good before is kept
    assert checkpoint.load(tmp_path / "bad" / "checkpoint.pt")["iteration"] == 2


def test_evaluation_in_between_changes_nothing(tmp_path: Path) -> None:
    schedule = small.recipe(4, accumulate=2)
    plain = _trained(tmp_path / "a", ["fcn", "unet"], schedule)

    def look(models: Sequence[MaskRCNN]) -> list[dict[str, Any]]:
        predict_each(models, small.data("val", 2), small.INFERENCE)
        return [{"box_AP": float(i)} for i, _ in enumerate(models)]

    watched = _trained(tmp_path / "b", ["fcn", "unet"], schedule, evaluate=look, evaluate_every=2)
    for i, name in enumerate(plain):
        assert _same(plain[name], watched[name])
        lines = [json.loads(line) for line in (tmp_path / "b" / name / "metrics.jsonl").open()]
        assert [line for line in lines if "eval" in line] == [
            {"iteration": n, "eval": {"box_AP": float(i)}} for n in (2, 4)
        ]


def test_a_checkpoint_on_another_core_is_one_line(tmp_path: Path) -> None:
    _trained(tmp_path, ["fcn"], small.recipe(2))
    with pytest.raises(UserError, match="another core"):
        _trained(tmp_path, ["fcn"], small.recipe(4), core=small.model(seed=6))

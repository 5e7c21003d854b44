"""Training: resuming, determinism, accumulation, and errors that name what went wrong."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import small
import torch

from instseg import seeds
from instseg.data.batches.loader import to_unit
from instseg.errors import DivergedError, UserError
from instseg.training import checkpoint
from instseg.training.loop import train


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


class Killed(Exception):
    pass


def _until(iteration: int, total: int) -> Any:
    def feed(start: int) -> Iterator[Any]:
        for i, batch in enumerate(small.batches(total, start), start=start):
            if i == iteration:
                raise Killed
            yield batch

    return feed


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("broken_at", [1, 2, 5])
def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, broken_at: int, optimizer: str) -> None:
    schedule = small.recipe(6, optimizer=optimizer, lr=1e-3)
    whole = small.trained(tmp_path / "whole", schedule)
    with pytest.raises(Killed):
        small.trained(tmp_path / "broken", schedule, feed=_until(broken_at, 6))
    resumed = small.trained(tmp_path / "broken", schedule, given=small.model(seed=77))
    if broken_at >= 2:
        assert _same(whole, resumed)
    else:
        # no checkpoint had been written: other first weights, other end; the test can tell
        assert not _same(whole, resumed)
        return
    logs = [[json.loads(line) for line in (tmp_path / f / "metrics.jsonl").open()] for f in ("whole", "broken")]
    assert logs[0] == logs[1]
    assert [line["iteration"] for line in logs[0]] == [1, 2, 3, 4, 5, 6]


def test_same_seed_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    schedule = small.recipe(3)
    first, second = (small.trained(tmp_path / str(i), schedule) for i in range(2))
    assert _same(first, second)
    other = small.trained(tmp_path / "other", schedule, seed=1)
    assert not _same(first, other)


def test_workers_do_not_change_batches() -> None:
    plain = list(small.batches(5))
    for workers in (1, 2):
        for (images, targets), (same_images, same_targets) in zip(
            plain, small.batches(5, workers=workers), strict=True
        ):
            assert all(map(torch.equal, images, same_images))
            assert all(torch.equal(t["masks"], s["masks"]) for t, s in zip(targets, same_targets, strict=True))
    assert not torch.equal(plain[0][0][0], next(iter(small.batches(5, seed=1)))[0][0])


def test_an_epoch_shows_every_image_once() -> None:
    ids = [t["image_id"] for _, targets in small.batches(9) for t in targets]
    for epoch in range(3):
        assert sorted(ids[6 * epoch : 6 * epoch + 6]) == [1, 2, 3, 4, 5, 6]
    assert len({tuple(ids[i : i + 6]) for i in (0, 6, 12)}) > 1
    resumed = [t["image_id"] for _, targets in small.batches(9, start=4) for t in targets]
    assert resumed == ids[8:]


def test_accumulated_gradients_are_the_mean_of_the_parts(tmp_path: Path) -> None:
    options = {"optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "warmup": 0, "weight_decay": 0.0}
    net = small.trained(tmp_path, small.recipe(1, batch_size=4, accumulate=2, **options))
    expected = small.model().train()
    images, targets = next(iter(small.batches(1, batch_size=4)))
    torch.manual_seed(seeds.derive(0, "iteration", 0))
    for part in (slice(0, 2), slice(2, 4)):
        losses = expected([to_unit(image, small.CPU) for image in images[part]], targets[part])
        (sum(losses.values()) / 2).backward()
    after = dict(net.named_parameters())
    for name, parameter in expected.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(after[name], parameter - parameter.grad, msg=name)


def test_bfloat16_trains(tmp_path: Path) -> None:
    net = small.trained(tmp_path, small.recipe(2, precision="bfloat16"))
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in net.parameters())


def test_a_loss_that_is_not_finite_stops_and_names_the_images(tmp_path: Path) -> None:
    def feed(start: int) -> Iterator[Any]:
        for i, (images, targets) in enumerate(small.batches(4, start), start=start):
            if i == 2:
                images[1] = images[1] * float("nan")
            yield images, targets

    with pytest.raises(DivergedError) as error:
        small.trained(tmp_path, small.recipe(4), feed=feed, describe=lambda i: f"image-{i}")
    message = str(error.value)
    assert "iteration 2" in message and "image-" in message and "loss_" in message and "\n" not in message
    # what was good before is kept
    assert checkpoint.load(tmp_path / "checkpoint.pt")["iteration"] == 2


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    net = small.model()
    net.mask_head.predictor[-1].bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DivergedError, match=r"iteration 0 .*gradient norm"):
        small.trained(tmp_path, small.recipe(2), net)
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


def test_gradients_are_clipped(tmp_path: Path) -> None:
    options = {"optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "warmup": 0, "weight_decay": 0.0}
    net = small.trained(tmp_path, small.recipe(1, clip_norm=1e-3, **options))
    before = dict(small.model().named_parameters())
    moved = sum(float((p - before[n]).detach().square().sum()) for n, p in net.named_parameters()) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "checkpoint.pt"
    if content is None:
        small.trained(tmp_path, small.recipe(2))
        content = path.read_bytes()[:1000]
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        small.trained(tmp_path, small.recipe(4))
    assert "checkpoint.pt" in str(error.value) and "delete it" in str(error.value) and "\n" not in str(error.value)


def test_a_checkpoint_of_another_head_is_one_line(tmp_path: Path) -> None:
    small.trained(tmp_path, small.recipe(2))
    with pytest.raises(UserError, match="another model"):
        small.trained(tmp_path, small.recipe(4), given=small.model("unet"))


def test_models_that_share_no_frozen_core_are_not_trained_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen core"):
        train([small.model()] * 2, small.recipe(1), small.batches, [tmp_path] * 2, seed=0, device=small.CPU)


def test_evaluation_in_between_changes_nothing(tmp_path: Path) -> None:
    schedule = small.recipe(4)
    plain = small.trained(tmp_path / "a", schedule)

    def look(models: Sequence[small.MaskRCNN]) -> list[dict[str, float]]:
        models[0].eval()
        torch.rand(5)
        return [{"box_AP": 1.0}]

    watched = small.trained(tmp_path / "b", schedule, evaluate=look, evaluate_every=2)
    assert _same(plain, watched)
    evals = [line for line in map(json.loads, (tmp_path / "b" / "metrics.jsonl").open()) if "eval" in line]
    assert evals == [{"iteration": i, "eval": {"box_AP": 1.0}} for i in (2, 4)]

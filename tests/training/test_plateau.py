"""Training until the mask loss no longer falls: the rule, the tail, the limit, and the same bits after a kill."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch

import heads
from instseg import seeds
from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.training import checkpoint, frozen_core
from instseg.training.loop import HeadResult, train
from instseg.training.plateau import Course, mask_loss, no_longer_falls
from instseg.training.schedule import Schedule


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def _recipe(limit: int, **others: Any) -> Schedule:
    return small.recipe(limit, until="plateau", decay="cosine", **others)


def _course(schedule: Schedule, losses: Any) -> Course:
    """A course that took as many of the losses as it lasted."""
    course = Course(schedule)
    while len(course.losses) < course.end:
        course.add({"loss_mask": float(losses[len(course.losses)]), "loss_box_reg": 5.0})
    return course


def _noisy(level: Any, relative: float, seed: int = 0) -> Any:
    return level * (1 + relative * np.random.default_rng(seed).standard_normal(len(level)))


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_tells_a_fall_from_a_flat_and_from_a_noisy_loss(seed: int) -> None:
    time = np.arange(400)
    assert not no_longer_falls(_noisy(1 - time / 1000, 0.1, seed).tolist(), 200, 0.02)
    assert no_longer_falls(_noisy(np.ones(400), 0.001, seed).tolist(), 200, 0.02)
    # by less than the tolerance, and by more than a smaller one
    slight = _noisy(1 - time / 20000, 0.001, seed).tolist()
    assert no_longer_falls(slight, 200, 0.02) and not no_longer_falls(slight, 200, 0.005)
    # by 2 %, of which the standard error is 5 %
    assert no_longer_falls(_noisy(1 - time / 10000, 0.5, seed).tolist(), 200, 0.0)
    assert no_longer_falls((1 + time / 400).tolist(), 200, 0.02)


def test_the_error_of_losses_that_resemble_their_neighbours_is_not_too_small() -> None:
    # steps of 20 iterations: as if there were a twentieth of the losses
    random = np.random.default_rng(1)
    calls = [
        no_longer_falls(np.repeat(1 + 0.1 * random.standard_normal(20), 20).tolist(), 200, 0.0) for _ in range(500)
    ]
    # a fall of twice the error happens by chance once in 44 times, somewhat more often with errors of ten blocks
    assert 0.94 < np.mean(calls) < 0.99


def test_a_loss_that_falls_and_then_stays_ends_in_a_tail_of_a_fifth() -> None:
    schedule = _recipe(3000, warmup=50, lr=2.0)
    course = _course(schedule, _noisy(0.3 + 0.4 * np.exp(-np.arange(3000) / 200), 0.1))
    start = course.tail_start
    assert start is not None and start % 50 == 0 and 450 <= start <= 1500
    assert course.end == start + start // 5 == len(course.losses)
    rates = [schedule.lr_at(i, (start, course.end)) for i in range(start, course.end + 1)]
    assert rates[0] == 2.0 and rates[-1] == pytest.approx(0) and rates == sorted(rates, reverse=True)
    assert {schedule.lr_at(i) for i in range(50, start)} == {2.0} and schedule.lr_at(0) < 0.01


def test_no_plateau_is_looked_for_before_two_windows_behind_the_warm_up() -> None:
    flat = [1.0] * 2000
    assert _course(_recipe(2000, warmup=50), flat).tail_start == 450
    assert _course(_recipe(2000, warmup=51), flat).tail_start == 500
    assert _course(_recipe(2000, warmup=0, plateau_window=20, plateau_check=7), flat).tail_start == 42
    # a window is a fifth of the iterations so far: up to 600 the window before reaches back into the first 400
    late = [*np.linspace(4, 2, 400), *flat]
    assert _course(_recipe(2000, warmup=0, plateau_window=20, plateau_tolerance=0.0), late).tail_start == 650


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7, 11, 12, 599, 600])
def test_where_the_loss_always_falls_the_tail_ends_at_the_limit(limit: int) -> None:
    course = _course(_recipe(limit, warmup=0, plateau_window=2, plateau_check=1), 1 / (10 + np.arange(limit)))
    assert len(course.losses) == course.end == limit
    latest = limit - max(1, limit // 6)
    assert (course.tail_start or 0) == latest
    # a plateau ends training before the limit
    for seen in range(4, latest):
        early = _course(_recipe(limit, warmup=0, plateau_window=2, plateau_check=seen), [1.0] * limit)
        assert early.tail_start == seen and early.end < limit


def test_without_the_rule_nothing_is_kept_and_all_is_as_before() -> None:
    schedule = small.recipe(40, decay="cosine")
    course = _course_of_ones(schedule)
    assert course.end == 40 and course.losses == [] and course.state() is None
    assert [course.lr(i) for i in range(40)] == [schedule.lr_at(i) for i in range(40)]


def _course_of_ones(schedule: Schedule) -> Course:
    course = Course(schedule)
    assert not any(course.add({"loss_mask": 1.0}) for _ in range(40))
    return course


def test_all_losses_of_a_head_count_and_there_must_be_some() -> None:
    losses = {"loss_mask": 1.0, "loss_mask_point": 2.0, "loss_box_reg": 4.0, "pull_mask": 8.0}
    assert mask_loss(losses) == 3.0
    with pytest.raises(UserError, match="loss_mask"):
        mask_loss({"loss_box_reg": 4.0})


def test_lengths_scale_with_the_batch() -> None:
    scaled = replace(_recipe(1000, batch_size=4), reference_batch=8).scaled()
    assert (scaled.plateau_check, scaled.plateau_window, scaled.iterations) == (100, 400, 2000)


class Killed(Exception):
    pass


def _until(last: int, total: int) -> Any:
    def feed(start: int) -> Iterator[Any]:
        for i, batch in enumerate(small.batches(total, start), start=start):
            if i == last:
                raise Killed
            yield batch

    return feed


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_end_to_end_a_run_that_was_killed_before_and_in_the_tail_ends_with_the_same_bits(tmp_path: Path) -> None:
    # any loss is on a plateau at the first look, behind 10 iterations
    schedule = _recipe(40, plateau_window=4, plateau_check=10, plateau_tolerance=0.99)
    options = {"checkpoint_every": 3}
    whole = small.trained(tmp_path / "whole", schedule, **options)
    for last in (8, 11):
        with pytest.raises(Killed):
            small.trained(tmp_path / "broken", schedule, feed=_until(last, 40), checkpoint_every=last // 11 + 2)
        assert checkpoint.load(tmp_path / "broken" / "checkpoint.pt")["iteration"] == {8: 8, 11: 9}[last]
    with pytest.raises(Killed):
        small.trained(tmp_path / "broken", schedule, feed=_until(11, 40), checkpoint_every=1)
    state = checkpoint.load(tmp_path / "broken" / "checkpoint.pt")
    assert (state["iteration"], state["course"]["tail_start"], len(state["course"]["losses"])) == (11, 10, 11)
    resumed = small.trained(tmp_path / "broken", schedule, **options)
    assert _same(whole, resumed)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 12
    rates = [json.loads(line)["lr"] for line in logs[0].splitlines()]
    assert rates[2:11] == [1e-3] * 9 and rates[11] == pytest.approx(5e-4)
    # what is done is not trained again
    assert _same(whole, small.trained(tmp_path / "whole", schedule))
    with pytest.raises(UserError, match=r"schedule\.until"):
        small.trained(tmp_path / "whole", small.recipe(40))


LIMIT = 24
NAMES = ("fcn", "unet")


def _frozen(folder: Path, *names: str, feed: Any = None) -> tuple[dict[str, MaskRCNN], list[HeadResult]]:
    """Heads on one core, the FCN at a rate at which its loss hardly falls."""
    options: dict[str, dict[str, Any]] = {"fcn": {"lr_mult": 0.01}, "unet": {"norm": "batch"}}
    core, models = small.model(seed=5), {}
    for name in names:
        model = small.model()
        with seeds.stream(1):
            model.mask_head = heads.build(name, 8, 2, **options[name])
        frozen_core.share_core(model, core)
        frozen_core.freeze(model)
        models[name] = model
        (folder / name).mkdir(parents=True, exist_ok=True)
    schedule = _recipe(LIMIT, lr=1e-2, plateau_window=6, plateau_check=3, plateau_tolerance=0.002)
    results = train(
        list(models.values()),
        schedule,
        feed or (lambda start: small.batches(LIMIT, start)),
        [folder / name for name in names],
        seed=0,
        device=small.CPU,
        core_is_frozen=True,
        log_every=1,
        checkpoint_every=1,
    )
    return models, results


def test_heads_that_end_apart_are_those_that_were_trained_alone_or_killed(tmp_path: Path) -> None:
    together, (fcn, unet) = _frozen(tmp_path / "together", *NAMES)
    assert (fcn.iterations, fcn.tail_start) == (18, 15) and unet.tail_start is not None
    assert fcn.iterations < unet.iterations <= LIMIT
    steps: list[int] = []

    def feed(start: int) -> Iterator[Any]:
        for batch in small.batches(LIMIT, start):
            steps.append(start)
            yield batch

    alone, (result,) = _frozen(tmp_path / "alone", "fcn", feed=feed)
    # the pass ends with its last head
    assert len(steps) == result.iterations == 18
    alone |= _frozen(tmp_path / "alone", "unet")[0]
    # killed where the rate is constant, in the FCN's tail, and when the FCN was done
    for last in (10, 17, 20):
        with pytest.raises(Killed):
            _frozen(tmp_path / "killed", *NAMES[::-1], feed=_until(last, LIMIT))
    killed, results = _frozen(tmp_path / "killed", *NAMES[::-1])
    assert [(each.iterations, each.tail_start) for each in results[::-1]] == [
        (each.iterations, each.tail_start) for each in (fcn, unet)
    ]
    for name, model in together.items():
        assert _same(model, alone[name]) and _same(model, killed[name]), name
        logs = {(tmp_path / where / name / "metrics.jsonl").read_text() for where in ("together", "alone", "killed")}
        assert len(logs) == 1
        assert checkpoint.load(tmp_path / "alone" / name / "checkpoint.pt")["iteration"] == len(logs.pop().splitlines())

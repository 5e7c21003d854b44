"""Learning rates and optimisers by hand."""

import pytest
import small
import torch

from instseg.errors import UserError
from instseg.training.schedule import Schedule, set_lr


def test_warm_up_and_steps() -> None:
    s = Schedule(iterations=100, batch_size=2, lr=1.0, warmup=10, warmup_factor=0.1, milestones=[50, 80])
    assert [s.lr_at(i) for i in (0, 5, 10, 49, 50, 79, 80)] == pytest.approx([0.1, 0.55, 1, 1, 0.1, 0.1, 0.01])


def test_cosine_ends_at_zero() -> None:
    s = Schedule(iterations=100, batch_size=2, lr=2.0, warmup=0, decay="cosine")
    assert [s.lr_at(i) for i in (0, 50, 100)] == pytest.approx([2, 1, 0])


def test_linear_scaling_keeps_the_number_of_images() -> None:
    published = Schedule(
        iterations=90000, batch_size=4, reference_batch=16, lr=0.02, warmup=1000, milestones=[60000, 80000]
    )
    s = published.scaled()
    assert (s.iterations, s.lr, s.milestones, s.warmup) == (360000, 0.005, [240000, 320000], 4000)
    assert s.iterations * s.batch_size == 90000 * 16
    assert s.scaled() == s
    same = Schedule(iterations=9, batch_size=16, reference_batch=16)
    assert same.scaled() is same


def test_normalisation_may_have_its_own_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    model[0].bias.requires_grad_(False)
    groups = (
        Schedule(iterations=1, batch_size=1, weight_decay=0.1, norm_weight_decay=0.0).make_optimizer(model).param_groups
    )
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (2, 0.0)]
    plain = Schedule(iterations=1, batch_size=1, optimizer="adamw").make_optimizer(model)
    assert isinstance(plain, torch.optim.AdamW)
    assert len(plain.param_groups[0]["params"]) == 3


def test_a_head_may_have_its_own_rate_and_decay() -> None:
    model = small.model("maskiou", norm="batch")
    # of a head around another one it is the outer head's that count
    model.mask_head.lr_mult, model.mask_head.decay_mult = 4.0, 0.5
    schedule = Schedule(iterations=1, batch_size=1, weight_decay=0.1)
    optimizer = schedule.make_optimizer(model)
    set_lr(optimizer, 0.01)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    own = {id(p) for p in model.mask_head.parameters()}
    assert own < set(rates)
    for key, rate in rates.items():
        assert rate == ((0.04, 0.05) if key in own else (0.01, 0.1))


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ({"optimizer": "adam"}, ["'adam'", "adamw"]),
        ({"decay": "cos"}, ["'cos'", "cosine"]),
        ({"precision": "float16"}, ["'float16'", "bfloat16"]),
        ({"iterations": 0}, ["schedule.iterations=0"]),
        ({"batch_size": 3, "accumulate": 2}, ["accumulate=2", "batch_size=3"]),
        ({"lr": 0.0}, ["schedule.lr=0.0"]),
        ({"until": "plato"}, ["schedule.until", "'plato'", "plateau"]),
        ({"until": "plateau", "decay": "step"}, ["schedule.until=plateau", "schedule.decay=step"]),
        ({"plateau_check": 0}, ["schedule.plateau_check=0"]),
        ({"plateau_window": 1}, ["schedule.plateau_window=1"]),
        ({"plateau_tolerance": 1.0}, ["schedule.plateau_tolerance=1.0"]),
    ],
)
def test_wrong_recipes_are_named(wrong: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        Schedule(**{"iterations": 10, "batch_size": 4, **wrong})  # type: ignore[arg-type]
    for part in parts:
        assert part in str(error.value)

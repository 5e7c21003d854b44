"""Full training steps: to the device, forward, backward, clipping, optimiser."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from experiments.benchmark.contest import OURS, TRUNK, Entry, found_peers, parameters_of, time_entries, trunk_input
from experiments.benchmark.outcome import BenchmarkResult
from experiments.benchmark.setup import Setup
from instseg.device import autocast
from instseg.training.loop import step


def measure(setup: Setup) -> BenchmarkResult:
    """Ours and each peer on the same batch with the same optimiser, and the trunk alone, forward and backward."""
    ours = setup.model()
    found, absent = found_peers(setup, ours)
    entries = {OURS: _entry(setup, ours)}
    for name, peer in found.items():
        entries[name] = _entry(setup, peer.model)
        entries[name].stages = peer.stages
    trunk = ours.backbone
    entries[f"{TRUNK}, forward + backward"] = Entry(
        _trunk(setup, trunk),
        lambda: parameters_of(trunk),
        lambda: trunk.zero_grad(set_to_none=True),
        stages=None,
    )
    return time_entries(setup, entries, absent)


def _entry(setup: Setup, model: Any) -> Entry:
    schedule = setup.config.make_schedule()
    optimizer = schedule.make_optimizer(model)
    # the weights stay as they are, so that every step is like the first
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def work() -> None:
        model.train()
        torch.manual_seed(0)
        step(model, optimizer, schedule, setup.batch, setup.device)

    return Entry(
        work,
        lambda: [*parameters_of(model), optimizer.state_dict()],
        lambda: optimizer.zero_grad(set_to_none=True),
    )


def _trunk(setup: Setup, trunk: nn.Module) -> Callable[[], None]:
    batch = trunk_input(setup)

    def work() -> None:
        trunk.train()
        with autocast(setup.device, setup.config.schedule.precision):
            maps = trunk(batch)
        torch.stack([level.float().mean() for level in maps.values()]).sum().backward()
        trunk.zero_grad(set_to_none=True)

    return work

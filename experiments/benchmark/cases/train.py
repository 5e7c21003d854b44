"""A full training step, ours and that of other suites, and the trunk's share of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from experiments.benchmark.calls import fixed_optimizer, training_step
from experiments.benchmark.contest import OURS, TRUNK, Entry, make_peers, time_entries, trunk_input
from experiments.benchmark.outcome import BenchmarkResult
from experiments.benchmark.setup import Setup
from instseg.device import autocast


def measure(setup: Setup) -> BenchmarkResult:
    """Our model and each peer on the same batch with the same optimiser, and the trunk alone, forward and backward."""
    ours = setup.model()
    peers, absent = make_peers(setup, ours)
    entries = {OURS: _entry(setup, ours)}
    for name, peer in peers.items():
        entries[name] = _entry(setup, peer.model)
        entries[name].stages = peer.stages
    trunk = ours.backbone
    entries[f"{TRUNK}, forward + backward"] = Entry(
        _trunk(setup, trunk), lambda: [trunk.state_dict()], lambda: trunk.zero_grad(set_to_none=True), stages=None
    )
    return time_entries(setup, entries, absent)


def _entry(setup: Setup, model: Any) -> Entry:
    schedule = setup.config.make_schedule()
    optimizer = fixed_optimizer(schedule, model)
    return Entry(
        training_step(model, optimizer, schedule, setup.batch, setup.device),
        lambda: [model.state_dict(), optimizer.state_dict()],
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

"""A full training step, ours and that of other suites, and the trunk's share of it."""

from contextlib import nullcontext

import torch

from experiments.benchmark.calls import fixed_optimizer, training_step
from experiments.benchmark.contest import OURS, TRUNK, Entry, make_peers, time_entries, trunk_input
from experiments.benchmark.outcome import BenchmarkResult
from experiments.benchmark.setup import Setup
from instseg.device import autocast


def measure(setup: Setup) -> BenchmarkResult:
    """Our model and each peer on the same batch with the same optimiser, and the trunk alone, forward and backward."""
    ours, schedule = setup.model(), setup.config.make_schedule()
    peers, absent = make_peers(setup, ours)
    detectors = {OURS: (ours, nullcontext), **{name: (peer.model, peer.stages) for name, peer in peers.items()}}
    entries = {}
    for name, (model, stages) in detectors.items():
        optimizer = fixed_optimizer(schedule, model)
        step = training_step(model, optimizer, schedule, setup.batch, setup.device)
        entries[name] = Entry(step, [model, optimizer], stages)
    trunk, batch = ours.backbone, trunk_input(setup)

    def trunk_step() -> None:
        trunk.train()
        with autocast(setup.device, schedule.precision):
            maps = trunk(batch)
        torch.stack([level.float().mean() for level in maps.values()]).sum().backward()
        trunk.zero_grad(set_to_none=True)

    entries[f"{TRUNK}, forward + backward"] = Entry(trunk_step, [trunk], stages=None)
    return time_entries(setup, entries, absent)

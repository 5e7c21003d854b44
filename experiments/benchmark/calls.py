"""The calls that benchmarks time: training steps and inference."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from instseg.data.batches.loader import Batch
from instseg.device import autocast
from instseg.training.schedule import Schedule
from instseg.training.step import step

Result = TypeVar("Result")


def fixed_optimizer(schedule: Schedule, model: nn.Module) -> torch.optim.Optimizer:
    """The schedule's optimiser with a learning rate of 0, so that every step does the same work."""
    optimizer = schedule.make_optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer


def training_step(
    model: Any, optimizer: torch.optim.Optimizer, schedule: Schedule, batch: Batch, device: torch.device
) -> Callable[[], None]:
    """A full step of a model: forward, loss, backward, clipping, optimiser; always with the same random numbers."""

    def work() -> None:
        model.train()
        torch.manual_seed(0)
        step(model, optimizer, schedule, batch, device)

    return work


def inference(
    model: nn.Module, call: Callable[[], Result], device: torch.device, precision: str
) -> Callable[[], Result]:
    """``call`` with the model in evaluation mode, without gradients, under autocast for the precision."""

    def work() -> Result:
        model.eval()
        with torch.inference_mode(), autocast(device, precision):
            return call()

    return work

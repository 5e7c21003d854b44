"""The calls that benchmarks time: training steps and inference. They keep no gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from instseg.data.batches.loader import Batch
from instseg.detector import MaskRCNN
from instseg.device import autocast
from instseg.training import frozen_core
from instseg.training.schedule import Schedule
from instseg.training.step import step


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

    def call() -> None:
        model.train()
        torch.manual_seed(0)
        step(model, optimizer, schedule, batch, device)
        optimizer.zero_grad(set_to_none=True)

    return call


def frozen_core_step(
    models: Sequence[MaskRCNN],
    optimizers: Sequence[torch.optim.Optimizer],
    schedule: Schedule,
    batch: Batch,
    device: torch.device,
) -> Callable[[], None]:
    """A step of the mask heads of models that share a frozen core; always with the same random numbers."""

    def call() -> None:
        for model in models:
            frozen_core.training_mode(model)
        for losses in frozen_core.step(models, optimizers, schedule, batch, device, seed=0, iteration=0):
            if isinstance(losses, FloatingPointError):
                raise losses
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)

    return call


def inference(model: nn.Module, call: Callable[[], Any], device: torch.device, precision: str) -> Callable[[], Any]:
    """``call`` with the model in evaluation mode, without gradients, under autocast for the precision."""

    def infer() -> Any:
        model.eval()
        with torch.inference_mode(), autocast(device, precision):
            return call()

    return infer

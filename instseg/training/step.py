"""One optimiser step, and its parts, which training on a frozen core shares."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

from instseg.data.batches.loader import Batch, to_unit
from instseg.detector.mask_rcnn import MaskRCNN
from instseg.detector.matching import Targets
from instseg.device import autocast
from instseg.training.schedule import Schedule


def step(
    model: MaskRCNN, optimizer: torch.optim.Optimizer, schedule: Schedule, batch: Batch, device: torch.device
) -> dict[str, float]:
    """One optimiser step on one batch, at the rate that the optimiser has; returns the losses by name, and the pulls
    (:mod:`instseg.detector.measured_pyramid`) of a model that measures them.

    Raises:
        FloatingPointError: a loss or the gradient is not finite; the parameters are as they were.
    """
    parts: list[dict[str, Tensor]] = []
    pulls: list[dict[str, Tensor]] = []
    optimizer.zero_grad(set_to_none=True)
    for images, targets in split(batch, schedule, device):
        with autocast(device, schedule.precision):
            # benchmarks train torchvision's own model, too
            losses, pyramids = (
                model.measured_losses(images, targets) if isinstance(model, MaskRCNN) else (model(images, targets), {})
            )
        parts.append(backward(losses, schedule))
        pulls.append({name: pyramid.pull() for name, pyramid in pyramids.items()})
        # they hold maps, which the next part needs the memory of
        del losses, pyramids
    return update(optimizer, schedule, parts, pulls)


def split(batch: Batch, schedule: Schedule, device: torch.device) -> Iterator[tuple[list[Tensor], Targets]]:
    """The parts of a batch that a step takes one after the other, on the device."""
    images, targets = batch
    size = len(images) // schedule.accumulate
    for first in range(0, len(images), size):
        part = [to_unit(image, device) for image in images[first : first + size]]
        yield (
            part,
            [
                {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in target.items()}
                for target in targets[first : first + size]
            ],
        )


def backward(losses: dict[str, Tensor], schedule: Schedule) -> dict[str, Tensor]:
    """Add the gradients of a part's losses to the parameters'; returns the losses without their graph."""
    stacked = torch.stack([loss.float() for loss in losses.values()])
    with record_function("stage/backward"):
        (stacked.sum() / schedule.accumulate).backward()
    return dict(zip(losses, stacked.detach(), strict=True))


def update(
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    parts: list[dict[str, Tensor]],
    pulls: Sequence[dict[str, Tensor]] = (),
) -> dict[str, float]:
    """Clip the gradients that :func:`backward` has summed and step the optimiser; returns by name the mean losses, and
    behind them the pulls on all maps of the batch together.

    Args:
        parts: the losses of each part of the batch.
        pulls: what each part pulls at its maps; empty where it was not measured.

    Raises:
        FloatingPointError: a loss or the gradient is not finite; the parameters are as they were.
    """
    with record_function("stage/optimizer"):
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        limit = math.inf if schedule.clip_norm is None else schedule.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(trained, limit, foreach=True)
        stacked = torch.stack([torch.stack(list(part.values())) for part in parts])
        names = list(pulls[0]) if pulls else []
        # the parts have maps of their own: squares add up
        total_pulls = [torch.linalg.vector_norm(torch.stack([part[name] for part in pulls])) for name in names]
        # beside the number of positives and NMS, the only place where the CPU waits for a GPU
        gradient_norm, *numbers = torch.cat([torch.stack([norm, *total_pulls]), stacked.mean(0)]).tolist()
        values = numbers[len(names) :]
        means = dict(zip(parts[0], values, strict=True))
        losses = ", ".join(f"{name}={value:.4g}" for name, value in means.items())
        if not all(map(math.isfinite, values)):
            raise FloatingPointError(losses)
        if not math.isfinite(gradient_norm):
            raise FloatingPointError(f"gradient norm {gradient_norm}, losses {losses}")
        optimizer.step()
    return means | dict(zip(names, numbers, strict=False))

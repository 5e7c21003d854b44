"""The training loop: one model, one schedule, one folder that holds the checkpoint and the metrics."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from instseg import progress, seeds
from instseg.data.batches.loader import Batch, to_unit
from instseg.detector.mask_rcnn import MaskRCNN
from instseg.detector.matching import Targets
from instseg.device import autocast
from instseg.errors import DivergedError, UserError
from instseg.files import write_atomically
from instseg.training import checkpoint
from instseg.training.schedule import Schedule

Evaluate = Callable[[MaskRCNN], dict[str, Any]]


def train(
    model: MaskRCNN,
    schedule: Schedule,
    batches: Callable[[int], Iterable[Batch]],
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    describe: Callable[[Any], str] = str,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    checkpoint_every: int = 1000,
    log_every: int = 20,
    title: str = "train",
) -> dict[str, float]:
    """Train to the schedule's end, from the folder's checkpoint where there is one.

    Writes ``checkpoint.pt`` and ``metrics.jsonl`` into ``folder``. On the CPU a run that was killed and resumed
    ends with the very numbers of an unbroken one.

    Args:
        model: on ``device``.
        schedule: already scaled to its batch size.
        batches: first iteration -> the batches from there on.
        seed: of the random choices inside the model; each iteration has a random stream of its own.
        describe: an ``image_id`` -> what to call the image in an error.
        evaluate: called every ``evaluate_every`` iterations (0: never); its dict goes into ``metrics.jsonl``.
        checkpoint_every: iterations between checkpoints; one is written at the end in any case.
        log_every: iterations between lines of ``metrics.jsonl``, which hold means over them.
        title: what the progress bar says.

    Returns:
        ``seconds`` of training, those before a break included, and ``start``, the iteration that it resumed from.

    Raises:
        DivergedError: a loss or gradient is not finite; the line names the iteration, the losses and the images.
        UserError: the checkpoint is of another model.
    """
    optimizer = schedule.make_optimizer(model)
    path = folder / "checkpoint.pt"
    start, seconds = resume(path, model, optimizer, device)
    metrics = Metrics(folder / "metrics.jsonl", keep_until=start)

    model.train()
    began = time.perf_counter()
    with progress.bar(total=schedule.iterations, initial=start, desc=title, unit="it") as bar:
        for iteration, batch in enumerate(batches(start), start=start):
            lr = schedule.lr_at(iteration)
            for group in optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed(seeds.derive(seed, "iteration", iteration))
            try:
                losses = step(model, optimizer, schedule, batch, device)
            except FloatingPointError as error:
                raise diverged(error, iteration, batch, schedule, describe) from error
            done = iteration + 1
            metrics.add(losses)
            bar.set_postfix(loss=f"{sum(losses.values()):.3f}", refresh=False)
            bar.update()

            last = done == schedule.iterations
            save_now = last or done % checkpoint_every == 0
            if save_now or done % log_every == 0:
                metrics.write(done, lr)
            seconds += time.perf_counter() - began
            if evaluate is not None and evaluate_every and done % evaluate_every == 0:
                metrics.append({"iteration": done, "eval": evaluate(model)})
                model.train()
            if save_now:
                checkpoint.save(path, model, optimizer, done, seconds)
            began = time.perf_counter()
    return {"seconds": seconds, "start": start}


def diverged(
    error: FloatingPointError, iteration: int, batch: Batch, schedule: Schedule, describe: Callable[[Any], str]
) -> DivergedError:
    """The error of a step that was not finite: one line with its iteration, losses and images."""
    images = ", ".join(describe(target["image_id"]) for target in batch[1])
    return DivergedError(
        f"training is not finite at iteration {iteration} ({error}); images: {images}; "
        f"a lower schedule.lr={schedule.lr:g} or schedule.clip_norm may help"
    )


def resume(path: Path, model: MaskRCNN, optimizer: torch.optim.Optimizer, device: torch.device) -> tuple[int, float]:
    """Load a checkpoint, where there is one, into model and optimiser.

    Returns:
        The iterations that are done, and their seconds.

    Raises:
        UserError: the checkpoint is of another model.
    """
    if not path.exists():
        return 0, 0.0
    state = checkpoint.load(path, device)
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} is the checkpoint of another model; delete it to train from the start") from error
    return int(state["iteration"]), float(state["seconds"])


def step(
    model: MaskRCNN, optimizer: torch.optim.Optimizer, schedule: Schedule, batch: Batch, device: torch.device
) -> dict[str, float]:
    """One optimiser step on one batch, at the rate that the optimiser has.

    Returns:
        The losses by name.

    Raises:
        FloatingPointError: a loss or the gradient is not finite; the parameters are as they were.
    """
    parts: list[dict[str, Tensor]] = []
    optimizer.zero_grad(set_to_none=True)
    for images, targets in split(batch, schedule, device):
        with autocast(device, schedule.precision):
            losses = model(images, targets)
        parts.append(backward(losses, schedule))
    return update(optimizer, schedule, parts)


def split(batch: Batch, schedule: Schedule, device: torch.device) -> Iterator[tuple[list[Tensor], Targets]]:
    """The parts of a batch that a step takes one after the other, on the device."""
    images, targets = batch
    size = len(images) // schedule.accumulate
    for first in range(0, len(images), size):
        part = [to_unit(image, device) for image in images[first : first + size]]
        yield part, [_to(target, device) for target in targets[first : first + size]]


def backward(losses: dict[str, Tensor], schedule: Schedule) -> dict[str, Tensor]:
    """Add the gradients of a part's losses to the parameters'; returns the losses without their graph."""
    stacked = torch.stack([loss.float() for loss in losses.values()])
    with record_function("stage/backward"):
        (stacked.sum() / schedule.accumulate).backward()
    return dict(zip(losses, stacked.detach(), strict=True))


def update(optimizer: torch.optim.Optimizer, schedule: Schedule, parts: list[dict[str, Tensor]]) -> dict[str, float]:
    """Step an optimiser with the gradients that :func:`backward` has summed.

    Args:
        optimizer: its rate is set.
        schedule: says how gradients are clipped.
        parts: the losses of each part of the batch.

    Returns:
        Mean losses by name.

    Raises:
        FloatingPointError: a loss or the gradient is not finite; the parameters are as they were.
    """
    with record_function("stage/optimizer"):
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        limit = math.inf if schedule.clip_norm is None else schedule.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(trained, limit, foreach=True)
        stacked = torch.stack([torch.stack(list(part.values())) for part in parts])
        # beside the number of positives and NMS, the only place where the CPU waits for a GPU
        *values, gradient_norm = torch.cat([stacked.mean(0), norm[None]]).tolist()
        means = dict(zip(parts[0], values, strict=True))
        losses = ", ".join(f"{name}={value:.4g}" for name, value in means.items())
        if not all(map(math.isfinite, values)):
            raise FloatingPointError(losses)
        if not math.isfinite(gradient_norm):
            raise FloatingPointError(f"gradient norm {gradient_norm}, losses {losses}")
        optimizer.step()
    return means


def _to(target: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in target.items()}


class Metrics:
    """``metrics.jsonl``. Lines that a killed run wrote after its last checkpoint are dropped, as those iterations are
    done again."""

    def __init__(self, path: Path, keep_until: int) -> None:
        self.path = path
        kept = [line for line in _lines(path) if line["iteration"] <= keep_until]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0

    def add(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self._sums[name] += value
        self._count += 1

    def write(self, iteration: int, lr: float) -> None:
        means = {name: value / self._count for name, value in self._sums.items()}
        self.append({"iteration": iteration, "lr": lr, "loss": sum(means.values()), **means})
        self._sums.clear()
        self._count = 0

    def append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            # a line that a kill cut short; it is after the last checkpoint, so what follows is not needed
            return

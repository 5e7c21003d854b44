"""Training of mask heads on a detector that stays as it is: many at once, on the very same RoIs."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instseg import progress, seeds
from instseg.data.batches.loader import Batch
from instseg.detector.mask_rcnn import MaskRCNN
from instseg.device import autocast
from instseg.errors import DivergedError, UserError
from instseg.training import checkpoint
from instseg.training.loop import Metrics, backward, diverged, resume, split, update
from instseg.training.schedule import Schedule

Evaluate = Callable[[Sequence[MaskRCNN]], list[dict[str, Any]]]


@dataclass
class HeadResult:
    """How the training of a head went.

    Attributes:
        start: iteration that it resumed from.
        seconds: of the iterations that it took part in, those before a break included.
        error: why it ended early; None: it did not.
    """

    start: int = 0
    seconds: float = 0.0
    error: DivergedError | None = None


@dataclass
class _Learner:
    model: MaskRCNN
    optimizer: torch.optim.Optimizer
    folder: Path
    metrics: Metrics = field(init=False)
    result: HeadResult = field(default_factory=HeadResult)


def freeze(model: MaskRCNN) -> None:
    """Freeze all parameters of a detector but those of its mask head."""
    model.requires_grad_(False)
    model.mask_head.requires_grad_(True)


def training_mode(model: MaskRCNN) -> None:
    """Training mode, in which proposals are sampled, but with the trunk's running statistics kept."""
    model.train()
    model.backbone.eval()


def share_core(model: MaskRCNN, core: MaskRCNN) -> None:
    """Replace all parts of a model but its mask head by those of another detector."""
    for part in ("transform", "backbone", "rpn", "roi_heads"):
        setattr(model, part, getattr(core, part))


def step(
    models: Sequence[MaskRCNN],
    optimizers: Sequence[torch.optim.Optimizer],
    schedule: Schedule,
    batch: Batch,
    device: torch.device,
    *,
    seed: int,
    iteration: int,
) -> list[dict[str, float] | FloatingPointError]:
    """One step of each optimiser on one batch.

    The core runs once. The RoIs are drawn from one random stream of (seed, iteration) and each head has another, so
    that the numbers of a head don't depend on which other heads are trained.

    Args:
        models: frozen, in training mode; all share their core.
        optimizers: of their mask heads, their rates set.
        schedule: says how the batch is split and gradients are clipped.
        batch: images and targets.
        device: where the models are.
        seed, iteration: name the random streams.

    Returns:
        For each model its losses by name, or what was not finite; its parameters are then as they were.
    """
    parts: list[list[dict[str, Tensor]]] = [[] for _ in models]
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    for number, (images, targets) in enumerate(split(batch, schedule, device)):
        torch.manual_seed(seeds.derive(seed, "rois", iteration, number))
        with autocast(device, schedule.precision):
            rois, masks = models[0].rois(images, targets)
        for model, losses in zip(models, parts, strict=True):
            torch.manual_seed(seeds.derive(seed, "mask head", iteration, number))
            # a context for each head: autocast caches casts of weights until its context ends
            with autocast(device, schedule.precision):
                head_losses = model.mask_head.losses(model.mask_head(rois), rois, masks)
            losses.append(backward(head_losses, schedule))
    results: list[dict[str, float] | FloatingPointError] = []
    for optimizer, losses in zip(optimizers, parts, strict=True):
        try:
            results.append(update(optimizer, schedule, losses))
        except FloatingPointError as error:
            results.append(error)
    return results


def train(
    models: Sequence[MaskRCNN],
    schedule: Schedule,
    batches: Callable[[int], Iterable[Batch]],
    folders: Sequence[Path],
    *,
    seed: int,
    device: torch.device,
    describe: Callable[[Any], str] = str,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    checkpoint_every: int = 1000,
    log_every: int = 20,
    title: str = "train",
) -> list[HeadResult]:
    """Train the mask heads of models that share a frozen core, each from its folder's checkpoint where there is one.

    Training begins at the earliest checkpoint; the other heads join at the iterations of theirs. On the CPU a head's
    numbers are the same as if it were trained alone. A head whose losses are not finite drops out.

    Args:
        models: on ``device``; see :func:`share_core` and :func:`freeze`.
        folders: one a model, for its ``checkpoint.pt`` and ``metrics.jsonl``. Checkpoints hold whole models.
        evaluate: is given the models that are still trained, and gives one dict each.
        schedule, batches, seed, device, describe, evaluate_every, checkpoint_every, log_every, title: as for
            :func:`instseg.training.loop.train`.

    Returns:
        One result a model.

    Raises:
        UserError: a checkpoint is of another head or core.
    """
    learners = [
        _Learner(model, schedule.make_optimizer(model), folder) for model, folder in zip(models, folders, strict=True)
    ]
    for learner in learners:
        _resume(learner, device)
    start = min(learner.result.start for learner in learners)
    training_mode(models[0])
    for model in models:
        model.mask_head.train()
    began = time.perf_counter()
    with progress.bar(total=schedule.iterations, initial=start, desc=title, unit="it") as bar:
        for iteration, batch in enumerate(batches(start), start=start):
            if all(learner.result.error for learner in learners):
                break
            bar.update()
            active = [
                learner for learner in learners if learner.result.error is None and learner.result.start <= iteration
            ]
            if not active:
                continue
            lr = schedule.lr_at(iteration)
            for learner in active:
                for group in learner.optimizer.param_groups:
                    group["lr"] = lr
            outcomes = step(
                [learner.model for learner in active],
                [learner.optimizer for learner in active],
                schedule,
                batch,
                device,
                seed=seed,
                iteration=iteration,
            )
            for learner, losses in zip(active, outcomes, strict=True):
                if isinstance(losses, FloatingPointError):
                    learner.result.error = diverged(losses, iteration, batch, schedule, describe)
                    learner.optimizer.zero_grad(set_to_none=True)
                else:
                    learner.metrics.add(losses)
            active = [learner for learner in active if learner.result.error is None]
            done = iteration + 1
            save_now = done == schedule.iterations or done % checkpoint_every == 0
            if save_now or done % log_every == 0:
                for learner in active:
                    learner.metrics.write(done, lr)
            for learner in active:
                learner.result.seconds += time.perf_counter() - began
            if active and evaluate is not None and evaluate_every and done % evaluate_every == 0:
                for learner, scores in zip(active, evaluate([learner.model for learner in active]), strict=True):
                    learner.metrics.append({"iteration": done, "eval": scores})
                training_mode(models[0])
                for learner in active:
                    learner.model.mask_head.train()
            if save_now:
                for learner in active:
                    path = learner.folder / "checkpoint.pt"
                    checkpoint.save(path, learner.model, learner.optimizer, done, learner.result.seconds)
            began = time.perf_counter()
    return [learner.result for learner in learners]


def _resume(learner: _Learner, device: torch.device) -> None:
    path = learner.folder / "checkpoint.pt"
    if path.exists():
        before = [value.clone() for value in _core(learner.model)]
        learner.result.start, learner.result.seconds = resume(path, learner.model, learner.optimizer, device)
        if not all(map(torch.equal, before, _core(learner.model))):
            raise UserError(f"{path} was trained on another core; delete it to train the head from the start")
    learner.metrics = Metrics(learner.folder / "metrics.jsonl", keep_until=learner.result.start)


def _core(model: MaskRCNN) -> list[Tensor]:
    return [v for part in (model.backbone, model.rpn, model.roi_heads) for v in part.state_dict().values()]

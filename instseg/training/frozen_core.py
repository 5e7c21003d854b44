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
from instseg.errors import DivergedError, UserError
from instseg.training import checkpoint
from instseg.training.loop import Metrics, autocast, backward, diverged, resume, split, update
from instseg.training.schedule import Schedule

Evaluate = Callable[[Sequence[MaskRCNN]], list[dict[str, Any]]]


@dataclass
class HeadResult:
    """What became of a head's training.

    Attributes:
        start: iteration that it resumed from.
        seconds: of the passes that it took part in, those before a break included.
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
    outcome: HeadResult = field(default_factory=HeadResult)


def freeze(model: MaskRCNN) -> None:
    """Let no parameter of a detector learn but those of its mask head."""
    model.requires_grad_(False)
    model.mask_head.requires_grad_(True)


def training_mode(model: MaskRCNN) -> None:
    """Draw proposals as in training, and learn the mask head, but leave the trunk's running statistics alone."""
    model.train()
    model.backbone.eval()


def share_core(model: MaskRCNN, core: MaskRCNN) -> None:
    """Put the parts of another detector, all but its mask head, in the place of a model's own."""
    model.transform, model.backbone, model.rpn, model.roi_heads = (
        core.transform,
        core.backbone,
        core.rpn,
        core.roi_heads,
    )


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

    The core runs once. The RoIs are drawn from one stream of (seed, iteration), and each head draws from another, so
    that nothing hangs on which heads are there.

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
            # a context of its own: what autocast remembers is gone behind it
            with autocast(device, schedule.precision):
                found = model.mask_head.losses(model.mask_head(rois), rois, masks)
            losses.append(backward(found, schedule))
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

    The pass begins where the head that is least far is; others join when it has come to their checkpoints. On the CPU
    a head's numbers are those of a pass of its own. A head whose losses are not finite drops out.

    Args:
        models: on ``device``; see :func:`share_core` and :func:`freeze`.
        folders: one a model, for its ``checkpoint.pt`` and ``metrics.jsonl``. Checkpoints hold whole models.
        evaluate: is given the models that are at work, and gives one dict each.
        schedule, batches, seed, device, describe, evaluate_every, checkpoint_every, log_every, title: as for
            :func:`instseg.training.loop.train`.

    Returns:
        One outcome a model.

    Raises:
        UserError: a checkpoint is of another head or core.
    """
    learners = [
        _Learner(model, schedule.make_optimizer(model), folder) for model, folder in zip(models, folders, strict=True)
    ]
    for one in learners:
        _resume(one, device)
    start = min(one.outcome.start for one in learners)
    training_mode(models[0])
    for model in models:
        model.mask_head.train()
    began = time.perf_counter()
    with progress.bar(total=schedule.iterations, initial=start, desc=title, unit="it") as bar:
        for iteration, batch in enumerate(batches(start), start=start):
            going = [one for one in learners if one.outcome.error is None]
            active = [one for one in going if one.outcome.start <= iteration]
            if not going:
                break
            bar.update()
            if not active:
                continue
            lr = schedule.lr_at(iteration)
            for one in active:
                for group in one.optimizer.param_groups:
                    group["lr"] = lr
            found = step(
                [one.model for one in active],
                [one.optimizer for one in active],
                schedule,
                batch,
                device,
                seed=seed,
                iteration=iteration,
            )
            for one, losses in zip(active, found, strict=True):
                if isinstance(losses, FloatingPointError):
                    one.outcome.error = diverged(losses, iteration, batch, schedule, describe)
                    one.optimizer.zero_grad(set_to_none=True)
                else:
                    one.metrics.add(losses)
            active = [one for one in active if one.outcome.error is None]
            done = iteration + 1
            save_now = done == schedule.iterations or done % checkpoint_every == 0
            if save_now or done % log_every == 0:
                for one in active:
                    one.metrics.write(done, lr)
            for one in active:
                one.outcome.seconds += time.perf_counter() - began
            if active and evaluate is not None and evaluate_every and done % evaluate_every == 0:
                for one, told in zip(active, evaluate([one.model for one in active]), strict=True):
                    one.metrics.append({"iteration": done, "eval": told})
                training_mode(models[0])
                for one in active:
                    one.model.mask_head.train()
            if save_now:
                for one in active:
                    checkpoint.save(one.folder / "checkpoint.pt", one.model, one.optimizer, done, one.outcome.seconds)
            began = time.perf_counter()
    return [one.outcome for one in learners]


def _resume(one: _Learner, device: torch.device) -> None:
    path = one.folder / "checkpoint.pt"
    if path.exists():
        before = [value.clone() for value in _core(one.model)]
        one.outcome.start, one.outcome.seconds = resume(path, one.model, one.optimizer, device)
        if not all(map(torch.equal, before, _core(one.model))):
            raise UserError(f"{path} was trained on another core; delete it to train the head from the start")
    one.metrics = Metrics(one.folder / "metrics.jsonl", keep_until=one.outcome.start)


def _core(model: MaskRCNN) -> list[Tensor]:
    return [v for part in (model.backbone, model.rpn, model.roi_heads) for v in part.state_dict().values()]

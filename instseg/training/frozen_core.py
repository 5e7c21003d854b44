"""Training of mask heads on a detector that stays as it is: many at once, on the very same RoIs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from instseg import seeds
from instseg.data.batches.loader import Batch
from instseg.detector.mask_rcnn import MaskRCNN
from instseg.device import autocast
from instseg.training.schedule import Schedule
from instseg.training.step import backward, split, update


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


def core_state(model: MaskRCNN) -> list[Tensor]:
    """Parameters and buffers of all parts that :func:`share_core` shares."""
    return [v for part in (model.backbone, model.rpn, model.roi_heads) for v in part.state_dict().values()]


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

"""Training of mask heads on a detector that stays as it is: many at once, on the very same RoIs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from instseg import seeds
from instseg.data.batches.loader import Batch
from instseg.detector.mask_rcnn import MaskRCNN
from instseg.detector.measured_pyramid import PULLS, MeasuredPyramid
from instseg.detector.rois import RoIs
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
    measure_pull: bool = False,
) -> list[dict[str, float] | FloatingPointError]:
    """One step of each optimiser on one batch.

    The core runs once. The RoIs are drawn from one random stream of (seed, iteration) and each head has another, so
    that the numbers of a head don't depend on which other heads are trained.

    Args:
        models: frozen, in training mode; all share their core.
        optimizers: of their mask heads, their rates set.
        measure_pull: measure what each head and the box losses would send into the pyramid
            (:mod:`instseg.detector.measured_pyramid`); the training is the same.

    Returns:
        For each model its losses by name and where asked for its pulls, or what was not finite; its parameters are then
        as they were.
    """
    parts: list[list[dict[str, Tensor]]] = [[] for _ in models]
    pulls: list[list[dict[str, Tensor]]] = [[] for _ in models]
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    for number, (images, targets) in enumerate(split(batch, schedule, device)):
        torch.manual_seed(seeds.derive(seed, "rois", iteration, number))
        with autocast(device, schedule.precision), torch.no_grad():
            features = models[0].features(images, targets)
            rois, masks = models[0].rois_of(*features)
        if measure_pull:
            torch.manual_seed(seeds.derive(seed, "box losses", iteration, number))
            for_boxes = MeasuredPyramid(rois.pyramid)
            with autocast(device, schedule.precision):
                _, box_losses = models[0].box_losses(for_boxes, *features[1:])
            backward(box_losses, schedule)
            box_pull = for_boxes.pull()
        for model, losses, norms in zip(models, parts, pulls, strict=True):
            # where gradients go to the maps, heads can't share what is aligned: a backward pass frees its graph
            own_rois = RoIs(MeasuredPyramid(rois.pyramid), rois.boxes) if measure_pull else rois
            torch.manual_seed(seeds.derive(seed, "mask head", iteration, number))
            # a context for each head: autocast caches casts of weights until its context ends
            with autocast(device, schedule.precision):
                head_losses = model.mask_losses(own_rois, masks)
            losses.append(backward(head_losses, schedule))
            if isinstance(own_rois.pyramid, MeasuredPyramid):
                norms.append(dict(zip(PULLS, (own_rois.pyramid.pull(), box_pull), strict=True)))
    results: list[dict[str, float] | FloatingPointError] = []
    for optimizer, losses, norms in zip(optimizers, parts, pulls, strict=True):
        try:
            results.append(update(optimizer, schedule, losses, norms))
        except FloatingPointError as error:
            results.append(error)
    return results

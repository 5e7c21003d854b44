"""Optimisers and learning rates by name."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from instseg.detector.mask_head import MaskHead
from instseg.errors import UserError, unknown_name

OPTIMIZERS = ("sgd", "adamw")
DECAYS = ("step", "cosine")
ENDS = ("iterations", "plateau")
OF_PLATEAU = ("until", "plateau_check", "plateau_window", "plateau_tolerance")
"""Keys that say nothing where training ends after ``iterations``."""
PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass(kw_only=True)
class Schedule:
    """A recipe: how long, how fast, and with what. It is also the node ``schedule`` of the configuration.

    ``lr``, ``iterations`` and the other lengths are those of the recipe's ``reference_batch``;
    :meth:`scaled` turns them into those of ``batch_size`` by the linear rule.

    Attributes:
        iterations: optimiser steps; with ``until=plateau`` at most.
        until: ``iterations``, or ``plateau``: until the mask loss no longer falls, see
            :mod:`instseg.training.plateau`; ``cosine`` then is what happens to the rate from there on.
        plateau_check: iterations between looks at the mask loss.
        plateau_window: the least number of iterations that it is averaged over.
        plateau_tolerance: a fall by less than this part of the loss counts as none.
        batch_size: images a step.
        accumulate: parts that a step's batch is split into, to save memory.
        optimizer: ``sgd`` (with momentum) or ``adamw``.
        lr: learning rate after warm-up.
        momentum: of SGD.
        weight_decay: L2 (SGD) or decoupled (AdamW).
        norm_weight_decay: weight decay of normalisation's scales and shifts; None: like all others.
        warmup: iterations over which the rate rises linearly from ``warmup_factor`` × lr.
        decay: ``step`` multiplies by ``gamma`` at each milestone, ``cosine`` goes down to 0.
        clip_norm: largest norm of the gradient; None: any.
        precision: ``float32``; ``tf32``, the same but with factors of 10 bits in the matrix products of a GPU; or
            ``bfloat16`` for autocast.
        reference_batch: the batch size that lr and lengths were published for; None: they are for any.
    """

    iterations: int
    batch_size: int
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    norm_weight_decay: float | None = None
    warmup: int = 1000
    warmup_factor: float = 0.001
    decay: str = "step"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    clip_norm: float | None = None
    precision: str = "float32"
    reference_batch: int | None = None
    until: str = "iterations"
    plateau_check: int = 50
    plateau_window: int = 200
    plateau_tolerance: float = 0.02

    def __post_init__(self) -> None:
        choices = {"optimizer": OPTIMIZERS, "decay": DECAYS, "precision": PRECISIONS, "until": ENDS}
        for key, names in choices.items():
            if getattr(self, key) not in names:
                raise unknown_name(f"schedule.{key}", getattr(self, key), names)
        for key in ("iterations", "batch_size", "accumulate", "plateau_check"):
            if getattr(self, key) < 1:
                raise UserError(f"schedule.{key}={getattr(self, key)}: must be 1 or more")
        if self.plateau_window < 2:
            raise UserError(f"schedule.plateau_window={self.plateau_window}: must be 2 or more")
        if not 0 <= self.plateau_tolerance < 1:
            raise UserError(f"schedule.plateau_tolerance={self.plateau_tolerance}: must be 0 or more and below 1")
        if self.until == "plateau" and self.decay != "cosine":
            raise UserError(
                f"schedule.until=plateau has no milestones, so schedule.decay={self.decay} can't be: give "
                "schedule.decay=cosine"
            )
        for key in ("lr", "gamma", "clip_norm"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"schedule.{key}={value}: must be a number above 0")
        for key in ("momentum", "weight_decay", "norm_weight_decay", "warmup", "warmup_factor"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"schedule.{key}={value}: must be 0 or more")
        if any(m < 0 for m in self.milestones):
            raise UserError(f"schedule.milestones={list(self.milestones)}: each must be 0 or more")
        if self.batch_size % self.accumulate:
            raise UserError(f"schedule.accumulate={self.accumulate}: must divide schedule.batch_size={self.batch_size}")

    def scaled(self) -> "Schedule":
        """The recipe for ``batch_size``: k times the batch, k times the rate, 1/k of the iterations
        (Goyal et al., *Accurate, Large Minibatch SGD*, 2017)."""
        if self.reference_batch is None or self.reference_batch == self.batch_size:
            return self
        k = self.batch_size / self.reference_batch
        return replace(
            self,
            lr=self.lr * k,
            iterations=max(1, round(self.iterations / k)),
            milestones=[round(m / k) for m in self.milestones],
            warmup=round(self.warmup / k),
            plateau_check=max(1, round(self.plateau_check / k)),
            plateau_window=max(2, round(self.plateau_window / k)),
            reference_batch=None,
        )

    def settings(self) -> dict[str, Any]:
        """The keys that can change numbers."""
        return {key: value for key, value in asdict(self).items() if self.until == "plateau" or key not in OF_PLATEAU}

    def lr_at(self, iteration: int, tail: tuple[int, int] | None = None) -> float:
        """The learning rate of an iteration, counted from 0; with ``until=plateau`` it is constant before the ``tail``,
        the iterations from a first to an end, and goes down to 0 in it."""
        if self.until == "plateau":
            factor = 1.0 if tail is None else _cosine(iteration - tail[0], tail[1] - tail[0])
        elif self.decay == "cosine":
            factor = _cosine(iteration, self.iterations)
        else:
            factor = self.gamma ** sum(iteration >= m for m in self.milestones)
        if iteration < self.warmup:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * iteration / self.warmup
        return self.lr * factor

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a model's trainable parameters, its mask head's with the rate and decay that they ask for;
        see :func:`set_lr`."""
        heads = [module for module in model.modules() if isinstance(module, MaskHead)]
        # a head may be wrapped in another one, whose multiples count
        multiples = {id(part): (head.lr_mult, head.decay_mult) for head in heads[::-1] for part in head.modules()}
        by_settings: dict[tuple[float, float], list[nn.Parameter]] = {}
        for module in model.modules():
            is_norm = isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)
            decay = self.norm_weight_decay if is_norm and self.norm_weight_decay is not None else self.weight_decay
            lr_mult, decay_mult = multiples.get(id(module), (1.0, 1.0))
            group = by_settings.setdefault((lr_mult, decay * decay_mult), [])
            group += [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr_mult": lr_mult, "weight_decay": decay}
            for (lr_mult, decay), parameters in by_settings.items()
            if parameters
        ]
        options: dict[str, Any] = {"lr": self.lr, "fused": True}
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=self.momentum, **options)
        return torch.optim.AdamW(groups, **options)


def _cosine(done: int, length: int) -> float:
    """Half a period of a cosine, from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * done / length))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of an optimiser of :meth:`Schedule.make_optimizer`, times what each group of parameters asks for."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]

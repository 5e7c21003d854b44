"""How long a head is trained: to the schedule's end, or by the rule of ``schedule.until=plateau``.

The rule: after warm-up the rate stays constant. Every ``plateau_check`` iterations the mean mask loss over the last
window is compared with that over the window before; a window is a fifth of the iterations so far. Once the loss no
longer falls, the rate goes down to 0 along a cosine, over a tail of a fifth of the iterations before it, and the head
is done. Where it always falls, the tail begins so that it ends at ``schedule.iterations``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from instseg.errors import UserError
from instseg.training.schedule import Schedule

PART = 5
"""A window, and the tail, are one in so many of the iterations before."""
BLOCKS = 10
MASK_LOSS = "loss_mask"
"""Begins the names of a head's losses."""


def mask_loss(losses: Mapping[str, float]) -> float:
    """The sum of a head's losses; a UserError where none has a head's name."""
    own = [value for name, value in losses.items() if name.startswith(MASK_LOSS)]
    if not own:
        raise UserError(f"schedule.until=plateau: the head has no loss whose name begins with {MASK_LOSS}")
    return sum(own)


def no_longer_falls(losses: Sequence[float], window: int, tolerance: float) -> bool:
    """Whether the mean of the last ``window`` losses lies below that of the window before by less than ``tolerance`` of
    it, or by less than twice the standard error of this fall.

    Losses of neighbouring iterations resemble each other, so the error is that of means over ten blocks of a window.
    """
    windows = np.asarray(losses[-2 * window :]).reshape(2, window)
    blocks = np.array([[block.mean() for block in np.array_split(each, min(BLOCKS, window))] for each in windows])
    before, after = windows.mean(axis=1)
    error = math.sqrt(blocks.var(axis=1, ddof=1).sum() / blocks.shape[1])
    return bool(before - after <= max(tolerance * before, 2 * error))


@dataclass
class Course:
    """How far the training of one head goes, as its losses decide.

    Attributes:
        losses: the mask loss of each iteration so far; with ``until=iterations`` none is kept.
        tail_start: the iteration from which on the rate goes down; None: not yet, or ``until=iterations``.
    """

    schedule: Schedule
    losses: list[float] = field(default_factory=list)
    tail_start: int | None = None

    @property
    def end(self) -> int:
        """The number of iterations after which the head is done, as far as is known."""
        if self.tail_start is None:
            return self.schedule.iterations
        return min(self.schedule.iterations, self.tail_start + max(1, self.tail_start // PART))

    def lr(self, iteration: int) -> float:
        """The learning rate of the next iteration."""
        return self.schedule.lr_at(iteration, None if self.tail_start is None else (self.tail_start, self.end))

    def add(self, losses: Mapping[str, float]) -> bool:
        """Take the losses of an iteration, by name; returns whether the tail begins behind it."""
        if self.schedule.until != "plateau":
            return False
        self.losses.append(mask_loss(losses))
        if self.tail_start is None and (self._at_latest() or self._on_plateau()):
            self.tail_start = len(self.losses)
            return True
        return False

    def _at_latest(self) -> bool:
        """Whether a tail that begins now ends at the limit."""
        limit = self.schedule.iterations
        return len(self.losses) == limit - max(1, limit // (PART + 1))

    def _on_plateau(self) -> bool:
        done = len(self.losses)
        window = max(self.schedule.plateau_window, done // PART)
        is_check = done % self.schedule.plateau_check == 0 and done - 2 * window >= self.schedule.warmup
        return is_check and no_longer_falls(self.losses, window, self.schedule.plateau_tolerance)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint needs to hold; None with ``until=iterations``."""
        if self.schedule.until != "plateau":
            return None
        return {"losses": torch.tensor(self.losses, dtype=torch.float64), "tail_start": self.tail_start}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.losses, self.tail_start = state["losses"].tolist(), state["tail_start"]

"""Checkpoints that are whole or absent."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from instseg.errors import UserError


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    seconds: float,
    course: dict[str, Any] | None = None,
) -> None:
    """Save what a run needs to go on after ``iteration`` steps, which took ``seconds`` to train, atomically.

    Data order, augmentation and sampling are functions of (seed, iteration): there is no generator state to save. So is
    the learning rate, but for what ``course`` holds (:meth:`instseg.training.plateau.Course.state`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    state = {"iteration": iteration, "seconds": seconds} | ({} if course is None else {"course": course})
    with part.open("wb") as file:
        torch.save({**state, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """``iteration``, ``seconds``, ``model``, ``optimizer`` and ``course`` (None: it holds none) of a checkpoint; a
    UserError where the file is none."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        known = {key: state[key] for key in ("iteration", "seconds", "model", "optimizer")}
        return known | {"course": state.get("course")}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except Exception as error:
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"{path} is not a checkpoint ({reason}); delete it to train from the start") from error

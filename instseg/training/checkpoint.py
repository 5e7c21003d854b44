"""Checkpoints that are whole or absent."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from instseg.errors import UserError


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, seconds: float) -> None:
    """Save what a run needs to go on after ``iteration`` steps, which took ``seconds`` to train, atomically.

    Data order, augmentation and sampling are functions of (seed, iteration), and so is the learning rate: there
    is no generator state to save.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    state = {"iteration": iteration, "seconds": seconds}
    with part.open("wb") as file:
        torch.save({**state, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """``iteration``, ``seconds``, ``model`` and ``optimizer`` of a checkpoint; a UserError where the file is none."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        return {key: state[key] for key in ("iteration", "seconds", "model", "optimizer")}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except Exception as error:
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"{path} is not a checkpoint ({reason}); delete it to train from the start") from error

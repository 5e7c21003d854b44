"""Runs of ``protocol=frozen_core``: those that differ in their head alone are carried out together, on one core."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.config.run import Config
from experiments.runs import first_weights
from experiments.runs.end_to_end import build_model, prepare, run, train_and_score, wants_compiling
from experiments.runs.folder import ActiveRun, begin, is_done, log_skipped, only_process
from instseg import device as memory
from instseg import progress
from instseg.data import InstanceDataset
from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.training import checkpoint, frozen_core

Errors = dict[str, Exception]
"""What stopped runs, by their hash."""


def groups(configs: Iterable[Config]) -> list[list[Config]]:
    """The runs of ``frozen_core`` among some, those of one core together."""
    by_core: dict[Path, list[Config]] = {}
    for config in configs:
        if config.protocol == "frozen_core":
            by_core.setdefault(config.core_run().folder(), []).append(config)
    return list(by_core.values())


def run_group(configs: Sequence[Config]) -> Errors:
    """Carry out runs of one core, all that are not done together; the core is trained first where it is not yet, or
    loaded where ``core`` is given.

    Returns:
        What stopped some of them.

    Raises:
        UserError: the core can't be trained, or the data or a checkpoint can't be used.
    """
    todo = [config for config in configs if not is_done(config)]
    if not todo:
        return {}
    device = prepare(todo[0])
    errors: Errors = {}
    runs: list[ActiveRun] = []
    with ExitStack() as locks:
        for config in todo:
            try:
                locks.enter_context(only_process(config.folder()))
                if not is_done(config):
                    runs.append(begin(config, device))
            except UserError as error:
                errors[config.hash()] = error
        if runs:
            log_skipped(runs[0])
            errors |= _passes(runs, _trained_core(todo[0]) if todo[0].core is None else None, device)
    return errors


def run_alone(config: Config) -> Path:
    """Carry out one run and return its folder.

    Raises:
        UserError: as :func:`run_group`, or training diverged, or another process is at it.
    """
    for error in run_group([config]).values():
        raise error
    return config.folder()


def core_of(config: Config) -> Config:
    """The run whose detector a run's head is put on: one in ``cores/``, or the study's own run of the FCN end to end
    where that is done and the other is not."""
    core = config.core_run()
    own = replace(core, study=config.study, results_dir=config.results_dir)
    return own if not is_done(core) and is_done(own) and (own.folder() / "checkpoint.pt").exists() else core


def _trained_core(config: Config) -> Path:
    core = core_of(config)
    try:
        folder = run(core)
    except UserError as error:
        raise type(error)(f"its core {core.folder()}: {error}") from error
    if not (folder / "checkpoint.pt").exists():
        raise UserError(f"{folder} has lost its checkpoint.pt; delete the folder to train this core again")
    return folder


def _passes(runs: list[ActiveRun], core: Path | None, device: torch.device) -> Errors:
    """One pass, or where that needs too much memory two of half the heads, which go on from their checkpoints."""
    try:
        return _pass(runs, core, device)
    except Exception as error:
        why = memory.ran_out(error)
        if why is None:
            raise
    # behind the except clause nothing refers to the failed pass's models
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if len(runs) == 1:
        message = f"out of memory with this head alone ({why}); schedule.accumulate=2 needs less"
        return {runs[0].config.hash(): UserError(message)}
    half = (len(runs) + 1) // 2
    halves = runs[:half], runs[half:]
    names = " | ".join(", ".join(active.config.head.variant for active in part) for part in halves)
    progress.say(f"{len(runs)} heads at once need too much memory; they go on in two passes: {names}")
    return _passes(halves[0], core, device) | _passes(halves[1], core, device)


def _pass(runs: list[ActiveRun], core: Path | None, device: torch.device) -> Errors:
    config = runs[0].config
    models, weights = load(config, [active.config for active in runs], core, runs[0].data, device)
    for active, origin in zip(runs, weights, strict=True):
        active.weights = origin if core is None else {**origin, "core": str(core.relative_to(config.study_folder()))}
    if wants_compiling(config, device):
        models[0].compile_layers()
        for model in models[1:]:
            model.mask_head.compile()
    outcomes = train_and_score(runs, models, frozen_core.train, device)
    errors = {active.config.hash(): outcome.error for active, outcome in zip(runs, outcomes, strict=True)}
    return {run_hash: error for run_hash, error in errors.items() if error is not None}


def load(
    config: Config, configs: Sequence[Config], core: Path | None, data: InstanceDataset, device: torch.device
) -> tuple[list[MaskRCNN], list[dict[str, Any]]]:
    """Models of new heads that share one frozen core, and what the provenance of each says of its first weights.

    Args:
        config: a run of the group.
        configs: the runs whose heads are wanted.
        core: the core's folder; None: the key ``core`` says what it is.
        data: gives the classes.
        device: where the models go.

    Raises:
        UserError: the core's checkpoint can't be used.
    """
    detector = _untrained(config.core_run(), data.num_classes, device)
    if core is None:
        first_weights.make_core(detector, config, data)
    else:
        path = core / "checkpoint.pt"
        state = checkpoint.load(path, device)["model"]
        try:
            detector.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"{path} is of another model; delete {core} to train this core again") from error
    models = []
    for head_config in configs:
        model = _untrained(head_config, data.num_classes, device)
        frozen_core.share_core(model, detector)
        frozen_core.freeze(model)
        models.append(model)
    return models, first_weights.start_heads(models, config, data)


def _untrained(config: Config, num_classes: int, device: torch.device) -> MaskRCNN:
    # the trunk's weights are the core's
    untrained = replace(config, trunk=replace(config.trunk, weights=None))
    return build_model(untrained, num_classes).to(device).to(memory_format=torch.channels_last)

"""Runs of ``protocol=frozen_core``: those that differ in their head alone are carried out together, on one core."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.config.run import Config
from experiments.runs import first_weights
from experiments.runs.end_to_end import Errors, build_untrained, run, run_at_once, wants_compiling
from experiments.runs.folder import ActiveRun, is_done
from experiments.runs.trained import load_model
from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.training import frozen_core


def groups(configs: Iterable[Config]) -> list[list[Config]]:
    """The runs of ``frozen_core`` among some, those of one core together."""
    by_core: dict[Path, list[Config]] = {}
    for config in configs:
        if config.protocol == "frozen_core":
            by_core.setdefault(config.core_run().folder(), []).append(config)
    return list(by_core.values())


def run_group(configs: Sequence[Config]) -> Errors:
    """Carry out runs of one core as :func:`~experiments.runs.end_to_end.run_at_once`; the core is trained first where
    it is not yet, or loaded where ``core`` is given. A UserError where that can't be done."""
    return run_at_once(configs, first_models)


def run_alone(config: Config) -> Path:
    """Carry out one run and return its folder; raises what stopped it."""
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


def first_models(runs: Sequence[ActiveRun], device: torch.device) -> list[MaskRCNN]:
    """Models of new heads that share one frozen core."""
    config, data = runs[0].config, runs[0].data
    origin: dict[str, Any] = {}
    if config.core is None:
        core = _trained_core(config)
        origin = {"core": str(core.relative_to(config.study_folder()))}
        detector = load_model(config.core_run(), data.num_classes, core / "checkpoint.pt", device)
    else:
        detector = build_untrained(config.core_run(), data.num_classes, device)
        first_weights.make_core(detector, config, data)
    models = []
    for active in runs:
        model = build_untrained(active.config, data.num_classes, device)
        frozen_core.share_core(model, detector)
        frozen_core.freeze(model)
        models.append(model)
    for active, weights in zip(runs, first_weights.start(models, config, data, heads_alone=True), strict=True):
        active.weights = {**weights, **origin}
    if wants_compiling(config, device):
        models[0].compile_layers()
        for model in models[1:]:
            model.mask_head.compile()
    return models

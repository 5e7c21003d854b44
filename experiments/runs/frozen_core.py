"""Runs of ``protocol=frozen_core``: those that differ in their head alone are carried out at once, on one core."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.config.run import Config
from experiments.runs import first_weights
from experiments.runs.end_to_end import build_model, prepare, run, training_batches, wants_compiling
from experiments.runs.folder import ActiveRun, begin, finish, log_skipped, logged_scores, only_process
from instseg import device as memory
from instseg import progress
from instseg.data import InstanceDataset
from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.evaluation import coco, gt_boxes
from instseg.evaluation.predict import predict_each
from instseg.training import checkpoint, frozen_core

Errors = dict[str, Exception]
"""What stopped runs, by their hash."""


def groups(configs: Iterable[Config]) -> list[list[Config]]:
    """The runs of ``frozen_core`` among some, those of one core together."""
    found: dict[Path, list[Config]] = {}
    for one in configs:
        if one.protocol == "frozen_core":
            found.setdefault(one.core_run().folder(), []).append(one)
    return list(found.values())


def run_group(configs: Sequence[Config]) -> Errors:
    """Carry out runs of one core, all that are not done at once; the core is trained first where it is not yet, or
    loaded where ``core`` is given.

    Returns:
        What stopped some of them.

    Raises:
        UserError: the core can't be trained, or the data or a checkpoint can't be used.
    """
    todo = [one for one in configs if not is_done(one)]
    if not todo:
        return {}
    device = prepare(todo[0])
    errors: Errors = {}
    begun: list[ActiveRun] = []
    with ExitStack() as held:
        for one in todo:
            try:
                held.enter_context(only_process(one.folder()))
                if not is_done(one):
                    begun.append(begin(one, device))
            except UserError as error:
                errors[one.hash()] = error
        if begun:
            log_skipped(begun[0])
            errors |= _passes(begun, _trained_core(todo[0]) if todo[0].core is None else None, device)
    return errors


def run_alone(config: Config) -> Path:
    """Carry out one run and return its folder.

    Raises:
        UserError: as :func:`run_group`, or training diverged, or another process is at it.
    """
    for error in run_group([config]).values():
        raise error
    return config.folder()


def is_done(config: Config) -> bool:
    """Whether a run has been carried out."""
    return (config.folder() / "result.json").exists()


def core_of(config: Config) -> Config:
    """The run whose detector a run's head is put on; the study's own run of the FCN end to end is as good, where it
    is there first."""
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


def _passes(begun: list[ActiveRun], core: Path | None, device: torch.device) -> Errors:
    """One pass, or where that needs too much memory two of half the heads, which go on from their checkpoints."""
    try:
        return _pass(begun, core, device)
    except Exception as error:
        why = memory.ran_out(error)
        if why is None:
            raise
    # out here nothing holds on to the failed pass's models
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if len(begun) == 1:
        one = begun[0].config
        message = f"out of memory with this head alone ({why}); schedule.accumulate=2 needs less"
        return {one.hash(): UserError(message)}
    half = (len(begun) + 1) // 2
    first, second = begun[:half], begun[half:]
    names = " | ".join(", ".join(one.config.head.variant for one in part) for part in (first, second))
    progress.say(f"{len(begun)} heads at once need too much memory; they go on in two passes: {names}")
    return _passes(first, core, device) | _passes(second, core, device)


def _pass(begun: list[ActiveRun], core: Path | None, device: torch.device) -> Errors:
    first = begun[0]
    config, data, held_out = first.config, first.data, first.held_out
    models, origins = load(config, [one.config for one in begun], core, data, device)
    if wants_compiling(config, device):
        models[0].compile_layers()
        for model in models[1:]:
            model.mask_head.compile()
    schedule, runtime, inference = config.make_schedule(), config.runtime, config.make_inference(device)
    by_id = {image_id: index for index, image_id in enumerate(data.image_ids)}
    name = f"{len(begun)} heads" if len(begun) > 1 else config.head.variant

    def predictions(models: Sequence[MaskRCNN]) -> list[coco.Results]:
        return predict_each(models, held_out, inference, title=f"{name}: evaluate")

    def evaluate(models: Sequence[MaskRCNN]) -> list[dict[str, Any]]:
        return [logged_scores(config, held_out, results) for results in predictions(models)]

    outcomes = frozen_core.train(
        models,
        schedule,
        lambda start: training_batches(config, data, start, schedule.iterations, device),
        [one.config.folder() for one in begun],
        seed=config.stream_seed(),
        device=device,
        describe=lambda image_id: data.describe(by_id[image_id]),
        evaluate=evaluate,
        evaluate_every=runtime.evaluate_every,
        checkpoint_every=runtime.checkpoint_every,
        log_every=runtime.log_every,
        title=f"{name} f{config.dataset.fold} s{config.seed}",
    )
    trained = [rest for rest in zip(begun, models, outcomes, origins, strict=True) if rest[2].error is None]
    if trained:
        found = predictions([model for _, model, _, _ in trained])
        masks = gt_boxes.predict_each(
            [model for _, model, _, _ in trained], held_out, held_out.ground_truth(), inference
        )
        for (one, _, outcome, origin), results, in_true_boxes in zip(trained, found, masks, strict=True):
            times: dict[str, float] = {"seconds": outcome.seconds, "start": outcome.start}
            if core is not None:
                origin = {**origin, "core": str(core.relative_to(config.study_folder()))}
            finish(one, results, in_true_boxes, times, **origin)
    return {
        one.config.hash(): outcome.error
        for one, outcome in zip(begun, outcomes, strict=True)
        if outcome.error is not None
    }


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
    for one in configs:
        model = _untrained(one, data.num_classes, device)
        frozen_core.share_core(model, detector)
        frozen_core.freeze(model)
        models.append(model)
    return models, first_weights.start_heads(models, config, data)


def _untrained(config: Config, num_classes: int, device: torch.device) -> MaskRCNN:
    # the trunk's weights are the core's
    untrained = replace(config, trunk=replace(config.trunk, weights=None))
    return build_model(untrained, num_classes).to(device).to(memory_format=torch.channels_last)

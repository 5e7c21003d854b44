"""Runs: a configuration in, a folder with ``result.json`` out; skipped when done, resumed when broken off."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from experiments.config.run import Config, torch_device
from experiments.runs import first_logits, first_weights
from experiments.runs.folder import ActiveRun, begin, finish, is_done, log_skipped, logged_scores, only_process
from instseg import detector, progress, seeds
from instseg import device as memory
from instseg.data import InstanceDataset
from instseg.data.batches import loader
from instseg.detector import MaskRCNN
from instseg.errors import DivergedError, UserError
from instseg.evaluation import coco, gt_boxes
from instseg.evaluation.predict import predict_each
from instseg.training.loop import train

Errors = dict[str, Exception]
"""What stopped runs, by their hash."""
MakeModels = Callable[[Sequence[ActiveRun], torch.device], list[MaskRCNN]]


def run(config: Config) -> Path:
    """Carry out a run end to end, unless it has been, and return its folder.

    Raises:
        UserError: configuration or data can't be used, training diverged, memory ran out, or another process is at it.
    """
    for error in run_at_once([config], first_models).values():
        raise error
    return config.folder()


def run_at_once(configs: Sequence[Config], make_models: MakeModels) -> Errors:
    """Carry out runs that differ in their head alone, all that are not done together; returns what stopped some.

    Args:
        make_models: gives the runs' models with their first weights, and notes in each run what they are.

    Raises:
        UserError: the data or a checkpoint can't be used.
    """
    configs = [config for config in configs if not is_done(config)]
    if not configs:
        return {}
    device = prepare(configs[0])
    errors: Errors = {}
    runs: list[ActiveRun] = []
    with ExitStack() as locks:
        for config in configs:
            try:
                locks.enter_context(only_process(config.folder()))
                if not is_done(config):
                    runs.append(begin(config, device))
            except UserError as error:
                errors[config.hash()] = error
        if runs:
            log_skipped(runs[0])
            errors |= _passes(runs, make_models, device)
    return errors


def _passes(runs: Sequence[ActiveRun], make_models: MakeModels, device: torch.device) -> Errors:
    """One pass, or where that needs too much memory two of half the heads, which go on from their checkpoints."""
    try:
        for active in runs:
            if active.config.init is None:
                first_logits.warn(active.config, active.data.num_classes)
        reasons = train_and_score(runs, make_models(runs, device), device)
        return {active.config.hash(): error for active, error in zip(runs, reasons, strict=True) if error is not None}
    except Exception as error:
        why = memory.ran_out(error)
        if why is None:
            raise
    # behind the except clause nothing refers to the failed pass's models
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if len(runs) == 1:
        config = runs[0].config
        alone = " with this head alone" if config.protocol == "frozen_core" else ""
        message = f"{config.folder()}: out of memory{alone} ({why}); schedule.accumulate=2 needs less"
        return {config.hash(): UserError(message)}
    half = (len(runs) + 1) // 2
    halves = runs[:half], runs[half:]
    names = " | ".join(", ".join(active.config.head.variant for active in part) for part in halves)
    progress.say(f"{len(runs)} heads at once need too much memory; they go on in two passes: {names}")
    return _passes(halves[0], make_models, device) | _passes(halves[1], make_models, device)


def first_models(runs: Sequence[ActiveRun], device: torch.device) -> list[MaskRCNN]:
    """The model of one run with its first weights."""
    (active,) = runs
    model = build_model(active.config, active.data.num_classes)
    # a checkpoint, where there is one, replaces these weights
    (active.weights,) = first_weights.start([model], active.config, active.data)
    model = model.to(device).to(memory_format=torch.channels_last)
    if wants_compiling(active.config, device):
        model.compile_layers()
    return [model]


def train_and_score(
    runs: Sequence[ActiveRun], models: Sequence[MaskRCNN], device: torch.device
) -> list[DivergedError | None]:
    """Train the models of runs that differ in their head alone, one a run, on ``device`` and with their first weights;
    score and end the runs whose training did not fail. Returns for each run why its training failed, or None."""
    config, data, held_out = runs[0].config, runs[0].data, runs[0].held_out
    schedule, runtime, inference = config.make_schedule(), config.runtime, config.make_inference(device)
    index = {image_id: i for i, image_id in enumerate(data.image_ids)}
    name = f"{len(runs)} heads" if len(runs) > 1 else config.head.variant

    def predictions(models: Sequence[MaskRCNN]) -> list[coco.Results]:
        return predict_each(models, held_out, inference, title=f"{name}: evaluate")

    outcomes = train(
        models,
        schedule,
        lambda start: training_batches(config, data, start, schedule.iterations, device),
        [active.config.folder() for active in runs],
        seed=config.stream_seed(),
        device=device,
        core_is_frozen=config.protocol == "frozen_core",
        describe=lambda image_id: data.describe(index[image_id]),
        evaluate=lambda models: [logged_scores(config, held_out, results) for results in predictions(models)],
        evaluate_every=runtime.evaluate_every,
        checkpoint_every=runtime.checkpoint_every,
        log_every=runtime.log_every,
        title=f"{name} f{config.dataset.fold} s{config.seed}",
    )
    trained = [i for i, outcome in enumerate(outcomes) if outcome.error is None]
    if trained:
        models = [models[i] for i in trained]
        results = predictions(models)
        masks = gt_boxes.predict(models, held_out, held_out.ground_truth(), inference)
        for i, detections, masks_in_gt_boxes in zip(trained, results, masks, strict=True):
            finish(runs[i], detections, masks_in_gt_boxes, outcomes[i])
    return [outcome.error for outcome in outcomes]


def prepare(config: Config) -> torch.device:
    """Set torch up for a run and return its device. On the CPU every algorithm is a deterministic one."""
    device = torch_device(config.runtime.device)
    if config.runtime.threads is not None:
        torch.set_num_threads(config.runtime.threads)
    memory.keep_freed_memory()
    torch.use_deterministic_algorithms(device.type == "cpu")
    # float32 means float32: torch's own default for convolutions is TF32
    tf32 = config.schedule.precision != "float32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    # a documented switch, which torch's types lack: filling new tensors, which nothing reads, costs 1,500 calls a step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def wants_compiling(config: Config, device: torch.device) -> bool:
    """Whether ``runtime.compile`` asks for compiled layers on a device."""
    return {"true": True, "false": False, "auto": device.type == "cuda"}[config.runtime.compile.lower()]


def build_model(config: Config, num_classes: int) -> MaskRCNN:
    """The model of a run with its first weights, but for those of ``init``: all but the head's are the same for every
    head of a seed."""
    config.check_resolved()
    # the weights of init replace all others
    trunk = replace(config.trunk, weights=None) if config.transferred() else config.trunk
    with seeds.stream(config.stream_seed(), "mask head"):
        head = config.make_head(num_classes)
    with seeds.stream(config.stream_seed(), "core"):
        return MaskRCNN(
            detector.trunk.build(**vars(trunk)),
            head,
            num_classes,
            min_size=config.dataset.min_size,
            max_size=config.dataset.max_size,
            # the data pipeline brings training images to their size
            resize_in_training=False,
            **vars(config.detector),
        )


def build_untrained(config: Config, num_classes: int, device: torch.device) -> MaskRCNN:
    """:func:`build_model` on a device, for weights that replace all: the trunk's need not be at hand."""
    config = replace(config, trunk=replace(config.trunk, weights=None))
    return build_model(config, num_classes).to(device).to(memory_format=torch.channels_last)


def training_batches(
    config: Config, data: InstanceDataset, start: int, iterations: int, device: torch.device
) -> Iterator[loader.Batch]:
    """The batches of a run, from iteration ``start`` on; a UserError where no image has an instance."""
    indices = data.trainable_indices()
    if not indices:
        raise UserError(f"{data.name}: none of its {len(data)} training images has an instance to learn from")
    return loader.training_batches(
        data,
        indices,
        config.make_transform(),
        batch_size=config.schedule.batch_size,
        iterations=iterations,
        seed=config.stream_seed(),
        start=start,
        workers=config.runtime.workers,
        pin=device.type == "cuda",
    )

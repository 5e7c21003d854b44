"""One run: a configuration in, a folder with ``result.json`` out; skipped when done, resumed when broken off."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.config.run import Config, torch_device
from experiments.runs import first_weights
from experiments.runs.folder import ActiveRun, begin, finish, is_done, log_skipped, logged_scores, only_process
from instseg import detector, seeds
from instseg import device as memory
from instseg.data import InstanceDataset
from instseg.data.batches import loader
from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.evaluation import coco, gt_boxes
from instseg.evaluation.predict import predict_each
from instseg.training.frozen_core import HeadResult
from instseg.training.loop import train
from instseg.training.schedule import Schedule

Batches = Callable[[int], Iterable[loader.Batch]]


def run(config: Config) -> Path:
    """Carry out a run and return its folder; at once where it has been carried out.

    Raises:
        UserError: the configuration or the data can't be used, training diverged, memory ran out, or another process
            is at it.
    """
    folder = config.folder()
    if is_done(config):
        return folder
    device = prepare(config)
    with only_process(folder):
        if is_done(config):
            return folder
        active = begin(config, device)
        log_skipped(active)
        try:
            model = _first_model(active, device)
            train_and_score([active], [model], _train, device)
        except Exception as error:
            why = memory.ran_out(error)
            if why is None:
                raise
            raise UserError(f"{folder}: out of memory ({why}); schedule.accumulate=2 needs less") from error
    return folder


def _first_model(active: ActiveRun, device: torch.device) -> MaskRCNN:
    config = active.config
    model = build_model(config, active.data.num_classes)
    # a checkpoint, where there is one, replaces these weights
    active.weights = first_weights.start(model, config, active.data)
    model = model.to(device).to(memory_format=torch.channels_last)
    if wants_compiling(config, device):
        model.compile_layers()
    return model


def _train(
    models: Sequence[MaskRCNN], schedule: Schedule, batches: Batches, folders: Sequence[Path], **options: Any
) -> list[HeadResult]:
    """:func:`instseg.training.loop.train` of one model, with the arguments and results of many."""
    evaluate = options.pop("evaluate")
    trained = train(models[0], schedule, batches, folders[0], evaluate=lambda model: evaluate([model])[0], **options)
    return [HeadResult(int(trained["start"]), trained["seconds"])]


def train_and_score(
    runs: Sequence[ActiveRun],
    models: Sequence[MaskRCNN],
    train: Callable[..., list[HeadResult]],
    device: torch.device,
) -> list[HeadResult]:
    """Train the models of runs that differ in their head alone, and score and end those whose training did not fail.

    Args:
        runs: one a model.
        models: on ``device``, with their first weights.
        train: :func:`instseg.training.frozen_core.train`, or what takes the same and gives the same.
        device: where the models are.
    """
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
        masks = gt_boxes.predict_each(models, held_out, held_out.ground_truth(), inference)
        for i, detections, in_true_boxes in zip(trained, results, masks, strict=True):
            finish(runs[i], detections, in_true_boxes, outcomes[i])
    return outcomes


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


def training_batches(
    config: Config, data: InstanceDataset, start: int, iterations: int, device: torch.device
) -> Iterator[loader.Batch]:
    """The batches of a run, from iteration ``start`` on.

    Raises:
        UserError: no image has an instance.
    """
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

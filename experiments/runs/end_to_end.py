"""One run: a configuration in, a folder with ``result.json`` out; skipped when done, resumed when broken off."""

from collections.abc import Iterator, Sequence
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
from instseg.training.loop import train


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
            _carry_out(active, device)
        except Exception as error:
            why = memory.ran_out(error)
            if why is None:
                raise
            raise UserError(f"{folder}: out of memory ({why}); schedule.accumulate=2 needs less") from error
    return folder


def _carry_out(active: ActiveRun, device: torch.device) -> None:
    config = active.config
    model = build_model(config, active.data.num_classes)
    # a checkpoint, where there is one, replaces these weights
    active.weights = first_weights.start(model, config, active.data)
    model = model.to(device).to(memory_format=torch.channels_last)
    if wants_compiling(config, device):
        model.compile_layers()

    def evaluate(model: MaskRCNN) -> dict[str, Any]:
        (results,) = predictions(active, [model], device, "evaluate")
        return logged_scores(config, active.held_out, results)

    schedule, name = config.make_schedule(), config.head.variant
    trained = train(
        model,
        schedule,
        lambda start: training_batches(config, active.data, start, schedule.iterations, device),
        config.folder(),
        evaluate=evaluate,
        **training_options(active, device, name),
    )
    score([active], [model], device, name, [(trained["seconds"], int(trained["start"]))])


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
    # filling what no algorithm reads costs 1,500 calls a step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def wants_compiling(config: Config, device: torch.device) -> bool:
    """Whether ``runtime.compile`` asks for compiled layers on a device."""
    return {"true": True, "false": False, "auto": device.type == "cuda"}[config.runtime.compile.lower()]


def build_model(config: Config, num_classes: int) -> MaskRCNN:
    """The model of a run with its first weights, but for those of ``init``: all but the head's are the same for every
    head of a seed."""
    config.check_resolved()
    with seeds.stream(config.stream_seed(), "mask head"):
        head = config.make_head(num_classes)
    with seeds.stream(config.stream_seed(), "core"):
        return detector.build(
            config.trunk.name,
            head=head,
            num_classes=num_classes,
            # what init has is put over these
            weights=None if config.transferred() else config.trunk.weights,
            norm=config.trunk.norm,
            trainable_layers=config.trunk.trainable_layers,
            out_channels=config.trunk.out_channels,
            stride_in_1x1=config.trunk.stride_in_1x1,
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


def training_options(active: ActiveRun, device: torch.device, name: str) -> dict[str, Any]:
    """What both protocols train with alike; ``name`` is for the progress bar."""
    config, index = active.config, {image_id: index for index, image_id in enumerate(active.data.image_ids)}
    return {
        "seed": config.stream_seed(),
        "device": device,
        "describe": lambda image_id: active.data.describe(index[image_id]),
        "evaluate_every": config.runtime.evaluate_every,
        "checkpoint_every": config.runtime.checkpoint_every,
        "log_every": config.runtime.log_every,
        "title": f"{name} f{config.dataset.fold} s{config.seed}",
    }


def predictions(active: ActiveRun, models: Sequence[MaskRCNN], device: torch.device, title: str) -> list[coco.Results]:
    """What models that differ in their head alone detect on the held-out images of a run."""
    return predict_each(
        models,
        active.held_out,
        device=device,
        batch_size=active.config.evaluation.batch_size,
        workers=active.config.runtime.workers,
        precision=active.config.schedule.precision,
        title=title,
    )


def score(
    runs: Sequence[ActiveRun],
    models: Sequence[MaskRCNN],
    device: torch.device,
    name: str,
    trained: Sequence[tuple[float, int]],
) -> None:
    """Predict with trained models that differ in their head alone, and write the results of their runs.

    Args:
        runs: one a model.
        models: on ``device``.
        device: where the models are.
        name: for the progress bar.
        trained: of each run the seconds of its training and the iteration that it resumed from.
    """
    first = runs[0]
    results = predictions(first, models, device, f"{name}: evaluate")
    masks = gt_boxes.predict_each(
        models,
        first.held_out,
        first.held_out.ground_truth(),
        device=device,
        batch_size=first.config.evaluation.batch_size,
        workers=first.config.runtime.workers,
        precision=first.config.schedule.precision,
    )
    for active, detections, in_true_boxes, (seconds, start) in zip(runs, results, masks, trained, strict=True):
        finish(active, detections, in_true_boxes, seconds, start)

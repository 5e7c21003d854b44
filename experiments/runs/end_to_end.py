"""One run: a configuration in, a folder with ``result.json`` out; skipped when done, resumed when broken off."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.config.run import Config, torch_device
from experiments.runs import first_weights
from experiments.runs.folder import ActiveRun, begin, finish, log_skipped, logged_scores, only_process
from instseg import detector, seeds
from instseg import device as memory
from instseg.data import InstanceDataset
from instseg.data.batches import loader
from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.evaluation import coco, gt_boxes
from instseg.evaluation.predict import predict
from instseg.masks.rle import RLE
from instseg.training.loop import train


def run(config: Config) -> Path:
    """Carry out a run and return its folder; at once where it has been carried out.

    Raises:
        UserError: the configuration or the data can't be used, training diverged, memory ran out, or another process
            is at it.
    """
    folder = config.folder()
    if (folder / "result.json").exists():
        return folder
    device = prepare(config)
    with only_process(folder):
        if (folder / "result.json").exists():
            return folder
        begun = begin(config, device)
        log_skipped(begun)
        try:
            _carry_out(config, begun, device)
        except Exception as error:
            why = memory.ran_out(error)
            if why is None:
                raise
            raise UserError(f"{folder}: out of memory ({why}); schedule.accumulate=2 needs less") from error
    return folder


def _carry_out(config: Config, begun: ActiveRun, device: torch.device) -> None:
    model = build_model(config, begun.data.num_classes)
    # what a run resumes from is put over these
    origin = first_weights.start(model, config, begun.data)
    model = model.to(device).to(memory_format=torch.channels_last)
    if wants_compiling(config, device):
        model.compile_layers()
    trained = _train(config, model, begun.data, begun.held_out, config.folder(), device)
    results = _predict(config, model, begun.held_out, device, title=f"{config.head.variant}: evaluate")
    masks = _predict_in_true_boxes(config, model, begun.held_out, device)
    finish(begun, results, masks, trained, **origin)


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
    """What ``runtime.compile`` comes to on a device."""
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
    """The batches of a run, from iteration ``start`` on."""
    return loader.training_batches(
        data,
        _to_learn_from(data),
        config.make_transform(),
        batch_size=config.schedule.batch_size,
        iterations=iterations,
        seed=config.stream_seed(),
        start=start,
        workers=config.runtime.workers,
        pin=device.type == "cuda",
    )


def _train(
    config: Config,
    model: MaskRCNN,
    data: InstanceDataset,
    held_out: InstanceDataset,
    folder: Path,
    device: torch.device,
) -> dict[str, float]:
    schedule = config.make_schedule()
    by_id = {image_id: index for index, image_id in enumerate(data.image_ids)}

    def evaluate(model: MaskRCNN) -> dict[str, Any]:
        results = _predict(config, model, held_out, device, title="evaluate")
        return logged_scores(config, held_out, results)

    return train(
        model,
        schedule,
        lambda start: training_batches(config, data, start, schedule.iterations, device),
        folder,
        seed=config.stream_seed(),
        device=device,
        describe=lambda image_id: data.describe(by_id[image_id]),
        evaluate=evaluate,
        evaluate_every=config.runtime.evaluate_every,
        checkpoint_every=config.runtime.checkpoint_every,
        log_every=config.runtime.log_every,
        title=f"{config.head.variant} f{config.dataset.fold} s{config.seed}",
    )


def _predict(
    config: Config, model: MaskRCNN, held_out: InstanceDataset, device: torch.device, title: str
) -> coco.Results:
    return predict(model, held_out, config.make_inference(device), title)


def _predict_in_true_boxes(
    config: Config, model: MaskRCNN, held_out: InstanceDataset, device: torch.device
) -> list[RLE]:
    return gt_boxes.predict(model, held_out, held_out.ground_truth(), config.make_inference(device))


def _to_learn_from(data: InstanceDataset) -> list[int]:
    indices = data.trainable_indices()
    if not indices:
        raise UserError(f"{data.name}: none of its {len(data)} training images has an instance to learn from")
    return indices

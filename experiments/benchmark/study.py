"""Times, memory and FLOPs of a study's variants, measured in alternating rounds, into ``speed.json``."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from experiments.benchmark.calls import fixed_optimizer, inference, training_step
from experiments.config.control import image_size
from experiments.config.run import Config
from experiments.runs import trained
from experiments.runs.end_to_end import prepare, training_batches
from experiments.runs.provenance import now, provenance
from experiments.runs.study import load_json, read
from instseg import progress, timing
from instseg.data.batches import loader
from instseg.detector import MaskRCNN
from instseg.files import write_atomically
from instseg.training import frozen_core

IMAGES = 8
"""Most held-out images that the whole model is timed on."""


@dataclass
class _Variant:
    config: Config
    model: MaskRCNN
    optimizer: torch.optim.Optimizer
    images: list[torch.Tensor]
    batch: loader.Batch


def measure_study(
    folder: Path,
    *,
    data_root: str | None,
    device: str,
    rois: int = 100,
    rounds: int = 7,
    again: bool = False,
) -> dict[str, Any]:
    """Measure every variant of a study and write ``speed.json``; the schema is in ``results/README.md``.

    Each variant is the model of its first run with the trained weights, so that it makes the detections of a trained
    model.

    Args:
        folder: ``results/<study>``.
        data_root: as for the sweep.
        device: ``auto``, ``cpu`` or ``cuda``.
        rois: RoIs that the mask head is timed on.
        rounds: measurements of each variant.
        again: measure even where ``speed.json`` holds the same runs and device.

    Returns:
        The content of ``speed.json``.

    Raises:
        UserError: there is no finished run, or a run's data, configuration or checkpoint can't be used.
    """
    study = read(folder)
    runs = {label: str(study.counted(label).iloc[0]["folder"]) for label in study.variants}
    configs = {
        label: trained.config_of(study.folder / "runs" / name, data_root, device) for label, name in runs.items()
    }
    target = prepare(next(iter(configs.values())))
    about = provenance(target)
    what = {"rois": rois, "rounds": rounds, "images": IMAGES, "runs": runs}
    path = folder / "speed.json"
    if path.exists() and not again:
        old = load_json(path, "delete it and run the benchmark again")
        if isinstance(old, dict) and old.get("what") == what and old["provenance"]["device"] == about["device"]:
            return old

    variants = {label: _load(config, folder / "runs" / runs[label], target) for label, config in configs.items()}
    work: dict[str, dict[str, Callable[[], Any]]] = {"head": {}, "inference": {}, "train": {}}
    for label, variant in variants.items():
        work["head"][label] = _head_work(variant, rois, target)
        work["inference"][label] = _inference_work(variant, target)
        work["train"][label] = _train_work(variant, target)
    seconds = {}
    for name, calls in progress.bar(iterable=work.items(), desc="timing", unit="kind"):
        seconds[name] = timing.alternating(calls, rounds=rounds, device=target)

    # the gradients of the other variants must not count as a variant's memory
    for variant in variants.values():
        variant.optimizer.zero_grad(set_to_none=True)
    measured = {
        label: {
            "head_ms": timing.spread([1000 * s for s in seconds["head"][label]]),
            "images_per_s": timing.spread([len(variant.images) / s for s in seconds["inference"][label]]),
            "train_images_per_s": timing.spread([len(variant.batch[0]) / s for s in seconds["train"][label]]),
            **_sizes(variant, work, label, rois, target),
        }
        for label, variant in variants.items()
    }
    result = {"provenance": {**about, "finished": now()}, "what": what, "variants": measured}
    write_atomically(path, json.dumps(result, indent=1).encode())
    return result


def _load(config: Config, folder: Path, device: torch.device) -> _Variant:
    data, held_out = config.make_dataset("train"), config.make_dataset("val")
    model = trained.load_model(config, data.num_classes, folder / "checkpoint.pt", device)
    if config.protocol == "frozen_core":
        frozen_core.freeze(model)
    optimizer = fixed_optimizer(config.make_schedule(), model)
    batches = islice(loader.read_images(held_out, batch_size=1), IMAGES)
    images = [loader.to_unit(image, device) for _, (image,) in batches]
    (batch,) = training_batches(config, data, 0, 1, device)
    return _Variant(config, model, optimizer, images, batch)


def _head_work(variant: _Variant, rois: int, device: torch.device) -> Callable[[], Any]:
    make, labels = _random_rois(variant, rois, device), torch.ones(rois, dtype=torch.int64, device=device)
    model = variant.model
    return inference(model, lambda: model.mask_head.predict(make(), labels), device, variant.config.schedule.precision)


def _random_rois(variant: _Variant, rois: int, device: torch.device) -> Callable[[], Any]:
    return timing.random_rois(variant.config.trunk.out_channels, image_size(variant.config), rois, device)


def _inference_work(variant: _Variant, device: torch.device) -> Callable[[], Any]:
    def detect() -> None:
        for image in variant.images:
            variant.model.detect_rle([image])

    return inference(variant.model, detect, device, variant.config.schedule.precision)


def _train_work(variant: _Variant, device: torch.device) -> Callable[[], Any]:
    schedule = variant.config.make_schedule()
    if variant.config.protocol != "frozen_core":
        return training_step(variant.model, variant.optimizer, schedule, variant.batch, device)

    def work() -> None:
        frozen_core.training_mode(variant.model)
        frozen_core.step([variant.model], [variant.optimizer], schedule, variant.batch, device, seed=0, iteration=0)

    return work


def _sizes(
    variant: _Variant, work: dict[str, dict[str, Callable[[], Any]]], label: str, rois: int, device: torch.device
) -> dict[str, float]:
    model, head = variant.model, variant.model.mask_head
    held = sum(timing.bytes_of(state) for state in (model.state_dict(), variant.optimizer.state_dict()))
    peak = timing.peak_memory(work["train"][label], device, held)
    variant.optimizer.zero_grad(set_to_none=True)
    return {
        "peak_memory_mib": peak / 2**20,
        "parameters": sum(p.numel() for p in model.parameters()),
        "head_parameters": sum(p.numel() for p in head.parameters()),
        "head_flops_per_roi": timing.head_flops(head, _random_rois(variant, rois, device)),
        "flops_per_image": timing.flops(work["inference"][label]) / len(variant.images),
    }

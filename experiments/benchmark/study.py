"""Times, memory and FLOPs of a study's variants, measured in turns on one machine, into ``speed.json``."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from experiments.config.control import image_size
from experiments.config.run import Config
from experiments.runs import trained
from experiments.runs.end_to_end import prepare, training_batches
from experiments.runs.provenance import now, provenance
from experiments.runs.study import load_json, read
from instseg import progress, timing
from instseg.data import InstanceDataset
from instseg.data.batches import loader
from instseg.detector import MaskRCNN
from instseg.device import autocast
from instseg.files import write_atomically
from instseg.training import frozen_core as frozen
from instseg.training.loop import step

IMAGES = 8
"""Held-out images that the whole model is timed on, where there are as many."""


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

    Each variant is its first run's model with the trained weights, so that detections are real ones.

    Args:
        folder: ``results/<study>``.
        data_root: as for the sweep.
        device: ``auto``, ``cpu`` or ``cuda``.
        rois: RoIs that the mask head is timed on.
        rounds: measurements of each variant.
        again: measure even where ``speed.json`` is of these very runs and this device.

    Returns:
        The content of ``speed.json``.

    Raises:
        UserError: no finished run, or data, configuration or checkpoint of one can't be used.
    """
    study = read(folder)
    firsts = {label: str(study.counted(label).iloc[0]["folder"]) for label in study.variants}
    configs = {
        label: trained.config_of(study.folder / "runs" / name, data_root, device) for label, name in firsts.items()
    }
    target = prepare(next(iter(configs.values())))
    about = provenance(target)
    what = {"rois": rois, "rounds": rounds, "images": IMAGES, "runs": firsts}
    path = folder / "speed.json"
    if path.exists() and not again:
        old = load_json(path, "delete it and run the benchmark again")
        if isinstance(old, dict) and old.get("what") == what and old["provenance"]["device"] == about["device"]:
            return old

    variants = {label: _load(config, folder / "runs" / firsts[label], target) for label, config in configs.items()}
    makers: dict[str, dict[str, Callable[[], Any]]] = {"head": {}, "inference": {}, "train": {}}
    for label, variant in variants.items():
        makers["head"][label] = _head_work(variant, rois, target)
        makers["inference"][label] = _inference_work(variant, target)
        makers["train"][label] = _train_work(variant, target)
    seconds = {}
    for name, work in progress.bar(iterable=makers.items(), desc="timing", unit="kind"):
        seconds[name] = timing.alternating(work, rounds=rounds, device=target)

    # what the others keep for their next step is no part of a variant's memory
    for variant in variants.values():
        variant.optimizer.zero_grad(set_to_none=True)
    measured = {
        label: {
            "head_ms": timing.spread([1000 * s for s in seconds["head"][label]]),
            "images_per_s": timing.spread([len(variant.images) / s for s in seconds["inference"][label]]),
            "train_images_per_s": timing.spread([len(variant.batch[0]) / s for s in seconds["train"][label]]),
            **_sizes(variant, makers, label, rois, target),
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
        frozen.freeze(model)
    optimizer = config.make_schedule().make_optimizer(model)
    images = [loader.to_unit(image, device) for image in islice(_one_by_one(held_out), IMAGES)]
    (batch,) = training_batches(config, data, 0, 1, device)
    return _Variant(config, model, optimizer, images, batch)


def _one_by_one(held_out: InstanceDataset) -> Iterator[torch.Tensor]:
    for _, (image,) in loader.read_images(held_out, batch_size=1):
        yield image


def _head_work(variant: _Variant, rois: int, device: torch.device) -> Callable[[], Any]:
    make = _random_rois(variant, rois, device)
    labels = torch.ones(rois, dtype=torch.int64, device=device)

    def work() -> None:
        variant.model.eval()
        with torch.inference_mode(), autocast(device, variant.config.schedule.precision):
            variant.model.mask_head.predict(make(), labels)

    return work


def _random_rois(variant: _Variant, rois: int, device: torch.device) -> Callable[[], Any]:
    return timing.random_rois(variant.config.trunk.out_channels, image_size(variant.config), rois, device)


def _inference_work(variant: _Variant, device: torch.device) -> Callable[[], Any]:
    def work() -> None:
        variant.model.eval()
        with torch.inference_mode(), autocast(device, variant.config.schedule.precision):
            for image in variant.images:
                variant.model.detect_rle([image])

    return work


def _train_work(variant: _Variant, device: torch.device) -> Callable[[], Any]:
    schedule = variant.config.make_schedule()

    def end_to_end() -> None:
        variant.model.train()
        torch.manual_seed(0)
        step(variant.model, variant.optimizer, schedule, variant.batch, device)

    def frozen_core() -> None:
        frozen.training_mode(variant.model)
        frozen.step([variant.model], [variant.optimizer], schedule, variant.batch, device, seed=0, iteration=0)

    # the rate at the schedule's end: training on would change nothing that matters to the time
    for group in variant.optimizer.param_groups:
        group["lr"] = 0.0
    return frozen_core if variant.config.protocol == "frozen_core" else end_to_end


def _sizes(
    variant: _Variant, makers: dict[str, dict[str, Callable[[], Any]]], label: str, rois: int, device: torch.device
) -> dict[str, float]:
    model, head = variant.model, variant.model.mask_head
    held = sum(timing.bytes_of(state) for state in (model.state_dict(), variant.optimizer.state_dict()))
    peak = timing.peak_memory(makers["train"][label], device, held)
    variant.optimizer.zero_grad(set_to_none=True)
    return {
        "peak_memory_mib": peak / 2**20,
        "parameters": sum(p.numel() for p in model.parameters()),
        "head_parameters": sum(p.numel() for p in head.parameters()),
        "head_flops_per_roi": timing.head_flops(head, _random_rois(variant, rois, device)),
        "flops_per_image": timing.flops(makers["inference"][label]) / len(variant.images),
    }

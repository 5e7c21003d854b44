"""Times, memory and FLOPs of a study's variants, measured in alternating rounds, into ``speed.json``."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from experiments.benchmark.calls import fixed_optimizer, frozen_core_step, inference, training_step
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
    """A trained model, the calls that are timed and how many images each takes, and the RoIs of the head's."""

    model: MaskRCNN
    optimizer: torch.optim.Optimizer
    calls: dict[str, Callable[[], Any]]
    images: dict[str, int]
    rois: Callable[[], Any]


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
        rois: RoIs that the mask head is timed on.
        rounds: measurements of each variant.
        again: measure even where ``speed.json`` holds the same runs and device.

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

    variants = {label: _load(config, folder / "runs" / runs[label], rois, target) for label, config in configs.items()}
    seconds = {}
    for kind in progress.bar(iterable=("head", "inference", "train"), desc="timing", unit="kind"):
        work = {label: variant.calls[kind] for label, variant in variants.items()}
        seconds[kind] = timing.alternating(work, rounds=rounds, device=target)
    measured = {}
    for label, variant in variants.items():
        model, head, images = variant.model, variant.model.mask_head, variant.images
        held = timing.bytes_of([model.state_dict(), variant.optimizer.state_dict()])
        measured[label] = {
            "head_ms": timing.spread([1000 * s for s in seconds["head"][label]]),
            "images_per_s": timing.spread([images["inference"] / s for s in seconds["inference"][label]]),
            "train_images_per_s": timing.spread([images["train"] / s for s in seconds["train"][label]]),
            "peak_memory_mib": timing.peak_memory(variant.calls["train"], target, held) / 2**20,
            "parameters": sum(p.numel() for p in model.parameters()),
            "head_parameters": sum(p.numel() for p in head.parameters()),
            "head_flops_per_roi": timing.head_flops(head, variant.rois),
            "flops_per_image": timing.flops(variant.calls["inference"]) / images["inference"],
        }
    result = {"provenance": {**about, "finished": now()}, "what": what, "variants": measured}
    write_atomically(path, json.dumps(result, indent=1).encode())
    return result


def _load(config: Config, folder: Path, rois: int, device: torch.device) -> _Variant:
    data, held_out, schedule = config.make_dataset("train"), config.make_dataset("val"), config.make_schedule()
    model = trained.load_model(config, data.num_classes, folder / "checkpoint.pt", device)
    if config.protocol == "frozen_core":
        frozen_core.freeze(model)
    optimizer = fixed_optimizer(schedule, model)
    (batch,) = training_batches(config, data, 0, 1, device)
    if config.protocol == "frozen_core":
        train = frozen_core_step([model], [optimizer], schedule, batch, device)
    else:
        train = training_step(model, optimizer, schedule, batch, device)

    batches = islice(loader.read_images(held_out, batch_size=1), IMAGES)
    images = [loader.to_unit(image, device) for _, (image,) in batches]
    make_rois = timing.random_rois(config.trunk.out_channels, image_size(config), rois, device)
    labels = torch.ones(rois, dtype=torch.int64, device=device)

    def predict() -> None:
        model.mask_head.predict(make_rois(), labels)

    def detect() -> None:
        for image in images:
            model.detect_rle([image])

    calls = {
        "head": inference(model, predict, device, schedule.precision),
        "inference": inference(model, detect, device, schedule.precision),
        "train": train,
    }
    return _Variant(model, optimizer, calls, {"inference": len(images), "train": len(batch[0])}, make_rois)

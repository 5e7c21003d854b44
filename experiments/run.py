"""One run: a configuration in, a folder with ``result.json`` out; skipped when done, resumed when broken off."""

import fcntl
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from experiments.config import Config, torch_device
from experiments.provenance import now, provenance
from experiments.true_boxes import FILE as IN_TRUE_BOXES
from instseg import detector, memory, progress, seeds
from instseg.data import InstanceDataset, loader, transforms
from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.evaluation import coco, true_boxes
from instseg.evaluation.predict import predict
from instseg.files import write_atomically
from instseg.training.loop import train

PANEL_PICTURES = 4
KINDS_LOGGED: tuple[coco.Kind, ...] = ("box", "mask")
"""Whose AP is measured in training, where ``runtime.evaluate_every`` asks for it."""
LOCK = ".lock"
ERROR = "error.txt"
"""What stopped a run, in its folder; gone when the run is tried again."""


def run(config: Config) -> Path:
    """Carry out a run and return its folder; at once where it has been carried out.

    Raises:
        UserError: the configuration or the data can't be used, training diverged, or another process is at it.
    """
    folder = config.folder()
    if (folder / "result.json").exists():
        return folder
    device = prepare(config)
    with only_process(folder):
        if (folder / "result.json").exists():
            return folder
        begun = begin(config, device)
        say_left_out(begun)
        model = build_model(config, begun.data.num_classes).to(device).to(memory_format=torch.channels_last)
        if wants_compiling(config, device):
            model.compile_layers()
        trained = _train(config, model, begun.data, begun.held_out, folder, device)
        results = _predict(config, model, begun.held_out, device, title=f"{config.head.variant}: evaluate")
        finish(begun, model, results, trained, device)
    return folder


@dataclass
class Begun:
    """A run that is being carried out, its folder held."""

    config: Config
    data: InstanceDataset
    held_out: InstanceDataset
    origin: dict[str, Any]
    began: float


def begin(config: Config, device: torch.device) -> Begun:
    """Write down what the run is. What stopped it before is forgotten.

    Raises:
        UserError: the data can't be used.
    """
    folder = config.folder()
    (folder / ERROR).unlink(missing_ok=True)
    began, origin = time.perf_counter(), provenance(device)
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)).encode())
    data, held_out = config.make_dataset("train"), config.make_dataset("val")
    check_same_data(config, write=True)
    return Begun(config, data, held_out, origin, began)


def say_left_out(begun: Begun) -> None:
    """Tell of pictures and objects that are not used."""
    for one, split in ((begun.data, "train"), (begun.held_out, "val")):
        if one.left_out:
            progress.say(f"{one.name} {split}: {len(one.left_out)} left out, the first: {one.left_out[0]}")


def finish(
    begun: Begun,
    model: MaskRCNN,
    results: coco.Results,
    trained: dict[str, float],
    device: torch.device,
    **more: Any,
) -> None:
    """Score a run's predictions, and its masks in true boxes, and write all and ``result.json``, which ends it.

    Args:
        begun: the run.
        model: trained.
        results: its predictions.
        trained: ``seconds`` and ``start`` of its training.
        device: where the model is.
        more: further entries of the provenance.
    """
    config, folder, data, held_out = begun.config, begun.config.folder(), begun.data, begun.held_out
    truth = held_out.ground_truth()
    metrics = scores(config, held_out, results, coco.KINDS)
    write_atomically(folder / "predictions.json", json.dumps(results).encode())
    in_true_boxes = _score_in_true_boxes(config, model, held_out, truth, folder, device)
    result = {
        "schema": 1,
        "hash": config.hash(),
        "study": config.study.name,
        "protocol": config.protocol,
        "variant": config.head.variant,
        "head": {
            "name": config.head.name,
            "options": {**config.head.common(), **config.head.options},
            "control_of": config.head.control_of or None,
        },
        "dataset": config.dataset.name,
        "trunk": config.trunk.name,
        "fold": config.dataset.fold,
        "seed": config.seed,
        "iterations": config.make_schedule().iterations,
        "settings": config.settings(),
        "ground_truth": _store_ground_truth(config, held_out, truth),
        "metrics": metrics,
        "true_boxes": in_true_boxes,
        "left_out": [f"train: {line}" for line in data.left_out] + [f"val: {line}" for line in held_out.left_out],
        "provenance": {
            **begun.origin,
            "finished": now(),
            "train_seconds": trained["seconds"],
            "wall_seconds": time.perf_counter() - begun.began,
            "resumed_from": trained["start"],
            **more,
        },
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=1))
    # another process that found this run taken may have said so
    (folder / ERROR).unlink(missing_ok=True)


def scores(
    config: Config, held_out: InstanceDataset, results: coco.Results, kinds: Sequence[coco.Kind]
) -> dict[str, dict[str, float | None]]:
    """COCO's metrics of predictions, by kind."""
    truth, engine = held_out.ground_truth(), config.evaluation.engine
    return {kind: coco.metrics(coco.evaluate(truth, results, kind, engine)) for kind in kinds}


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
    """What ``runtime.compile`` comes to on a device."""
    return {"true": True, "false": False, "auto": device.type == "cuda"}[config.runtime.compile.lower()]


def check_same_data(config: Config, write: bool = False) -> None:
    """Where a run's data lies is no part of its name; this sees to it that a folder holds one data set's run alone.

    Args:
        config: the run.
        write: note the data in the run's folder, if nothing is noted there yet.

    Raises:
        UserError: the run's folder is of other pictures or annotations.
    """
    now = {split: config.make_dataset(split).fingerprint() for split in ("train", "val")}
    path = config.folder() / "data.json"
    if not path.exists():
        if write:
            write_atomically(path, json.dumps(now))
    elif json.loads(path.read_text()) != now:
        raise UserError(
            f"{config.folder()} is a run on other data than lies in data_root={config.data_root} now; "
            "give a study.name or results_dir of its own, or delete the folder"
        )


def build_model(config: Config, num_classes: int) -> MaskRCNN:
    """The model of a run with its first weights: all but the head's are the same for every head of a seed."""
    config.check_settled()
    with seeds.stream(config.seed, "mask head"):
        head = config.make_head(num_classes)
    with seeds.stream(config.seed, "core"):
        return detector.build(
            config.trunk.name,
            head=head,
            num_classes=num_classes,
            weights=config.trunk.weights,
            norm=config.trunk.norm,
            trainable_layers=config.trunk.trainable_layers,
            out_channels=config.trunk.out_channels,
            min_size=config.dataset.min_size,
            max_size=config.dataset.max_size,
            # the data pipeline brings training pictures to their size
            resize_in_training=False,
            **vars(config.detector),
        )


def training_batches(
    config: Config, data: InstanceDataset, start: int, iterations: int, device: torch.device
) -> Iterator[loader.Batch]:
    """The batches of a run, from iteration ``start`` on."""
    d = config.dataset
    return loader.training_batches(
        data,
        _to_learn_from(data),
        transforms.training(flip=d.flip, min_size=d.train_min_size, max_size=d.train_max_size),
        batch_size=config.schedule.batch_size,
        iterations=iterations,
        seed=config.seed,
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
        seed=config.seed,
        device=device,
        describe=lambda image_id: data.describe(by_id[image_id]),
        evaluate=evaluate,
        evaluate_every=config.runtime.evaluate_every,
        checkpoint_every=config.runtime.checkpoint_every,
        log_every=config.runtime.log_every,
        title=f"{config.head.variant} f{config.dataset.fold} s{config.seed}",
    )


def logged_scores(config: Config, held_out: InstanceDataset, results: coco.Results) -> dict[str, float | None]:
    """What ``runtime.evaluate_every`` puts into ``metrics.jsonl``."""
    return {f"{kind}_AP": found["AP"] for kind, found in scores(config, held_out, results, KINDS_LOGGED).items()}


def _predict(
    config: Config, model: MaskRCNN, held_out: InstanceDataset, device: torch.device, title: str
) -> coco.Results:
    return predict(
        model,
        held_out,
        device=device,
        batch_size=config.evaluation.batch_size,
        workers=config.runtime.workers,
        precision=config.schedule.precision,
        title=title,
    )


def _score_in_true_boxes(
    config: Config,
    model: MaskRCNN,
    held_out: InstanceDataset,
    truth: dict[str, Any],
    folder: Path,
    device: torch.device,
) -> dict[str, Any]:
    masks = true_boxes.predict(
        model,
        held_out,
        truth,
        device=device,
        batch_size=config.evaluation.batch_size,
        workers=config.runtime.workers,
        precision=config.schedule.precision,
    )
    of_masks, of_boundaries = true_boxes.ious(truth, masks)
    each = {"mask_iou": of_masks.round(6).tolist(), "boundary_iou": of_boundaries.round(6).tolist()}
    write_atomically(folder / IN_TRUE_BOXES, json.dumps(each))
    return true_boxes.summary(truth, of_masks, of_boundaries)


def _to_learn_from(data: InstanceDataset) -> list[int]:
    indices = data.learnable()
    if not indices:
        raise UserError(f"{data.name}: none of its {len(data)} training pictures has an instance to learn from")
    return indices


def _store_ground_truth(config: Config, held_out: InstanceDataset, truth: dict[str, Any]) -> str:
    """Store the ground truth and some pictures once for all runs that share them; returns where, from the study."""
    content = json.dumps(truth, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()[:8]
    name = f"ground_truth/{config.dataset.name}-f{config.dataset.fold}-{digest}"
    path = config.study_folder() / f"{name}.json"
    if not path.exists():
        write_atomically(path, content)
    pictures = path.with_name(path.stem + "-pictures.npz")
    if not pictures.exists():
        buffer = io.BytesIO()
        # the most crowded pictures tell heads apart best
        counts = {image["id"]: 0 for image in truth["images"]}
        for annotation in truth["annotations"]:
            counts[annotation["image_id"]] += 1
        index = {image_id: i for i, image_id in enumerate(held_out.image_ids)}
        chosen = sorted(sorted(counts, key=lambda image_id: -counts[image_id])[:PANEL_PICTURES])
        arrays = {f"image_{i}": held_out[index[i]][0].permute(1, 2, 0).contiguous().numpy() for i in chosen}
        np.savez_compressed(buffer, **arrays)
        write_atomically(pictures, buffer.getvalue())
    return f"{name}.json"


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, the folder made where needed, which the system releases even when the process is killed.

    It is a lock of the process alone: loader workers do not inherit it, so they can't hold it past its death.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder}: another process is at this run") from error
        os.utime(folder / LOCK)
        yield

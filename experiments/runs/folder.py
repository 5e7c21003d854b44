"""What a run's folder holds, and how it is written: begun, checked, scored and ended with ``result.json``."""

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

from experiments.config.run import Config
from experiments.runs.provenance import now, provenance
from experiments.runs.study_files import GT_BOXES
from instseg import progress
from instseg.data import InstanceDataset
from instseg.data.dataset import check_same_classes
from instseg.errors import UserError
from instseg.evaluation import coco, gt_boxes
from instseg.files import write_atomically
from instseg.masks.rle import RLE

PANEL_IMAGES = 4
KINDS_LOGGED: tuple[coco.Kind, ...] = ("box", "mask")
"""Whose AP is measured in training, where ``runtime.evaluate_every`` asks for it."""
LOCK = ".lock"
ERROR = "error.txt"
"""What stopped a run, in its folder; gone when the run is tried again."""


@dataclass
class ActiveRun:
    """A run that is being carried out, its folder held."""

    config: Config
    data: InstanceDataset
    held_out: InstanceDataset
    origin: dict[str, Any]
    began: float


def begin(config: Config, device: torch.device) -> ActiveRun:
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
    return ActiveRun(config, data, held_out, origin, began)


def log_skipped(begun: ActiveRun) -> None:
    """Tell of images and objects that are not used."""
    for one, split in ((begun.data, "train"), (begun.held_out, "val")):
        if one.skipped:
            progress.say(f"{one.name} {split}: {len(one.skipped)} left out, the first: {one.skipped[0]}")


def finish(
    begun: ActiveRun, results: coco.Results, in_true_boxes: list[RLE], trained: dict[str, float], **more: Any
) -> None:
    """Score a run's predictions, and its masks in true boxes, and write all and ``result.json``, which ends it.

    Args:
        begun: the run.
        results: its predictions.
        in_true_boxes: its masks as :func:`instseg.evaluation.gt_boxes.predict` gives them.
        trained: ``seconds`` and ``start`` of its training.
        more: further entries of the provenance.
    """
    config, folder, data, held_out = begun.config, begun.config.folder(), begun.data, begun.held_out
    truth = held_out.ground_truth()
    metrics = scores(config, held_out, results, coco.KINDS)
    write_atomically(folder / "predictions.json", json.dumps(results).encode())
    of_masks, of_boundaries = gt_boxes.ious(truth, in_true_boxes)
    each = {"mask_iou": of_masks.round(6).tolist(), "boundary_iou": of_boundaries.round(6).tolist()}
    write_atomically(folder / GT_BOXES, json.dumps(each))
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
        "true_boxes": gt_boxes.summary(truth, of_masks, of_boundaries),
        "left_out": [f"train: {line}" for line in data.skipped] + [f"val: {line}" for line in held_out.skipped],
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


def logged_scores(config: Config, held_out: InstanceDataset, results: coco.Results) -> dict[str, float | None]:
    """What ``runtime.evaluate_every`` puts into ``metrics.jsonl``."""
    return {f"{kind}_AP": found["AP"] for kind, found in scores(config, held_out, results, KINDS_LOGGED).items()}


def check_same_data(config: Config, write: bool = False) -> None:
    """Where a run's data lies is no part of its name; this sees to it that a folder holds one data set's run alone.

    Args:
        config: the run.
        write: note the data in the run's folder, if nothing is noted there yet.

    Raises:
        UserError: the run's folder is of other images or annotations, or the splits are of different classes.
    """
    splits = {split: config.make_dataset(split) for split in ("train", "val")}
    check_same_classes(splits["train"], splits["val"])
    now = {split: data.fingerprint() for split, data in splits.items()}
    path = config.folder() / "data.json"
    if not path.exists():
        if write:
            write_atomically(path, json.dumps(now))
    elif json.loads(path.read_text()) != now:
        raise UserError(
            f"{config.folder()} is a run on other data than lies in data_root={config.data_root} now; "
            "give a study.name or results_dir of its own, or delete the folder"
        )


def _store_ground_truth(config: Config, held_out: InstanceDataset, truth: dict[str, Any]) -> str:
    """Store the ground truth and some images once for all runs that share them; returns where, from the study."""
    content = json.dumps(truth, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()[:8]
    name = f"ground_truth/{config.dataset.name}-f{config.dataset.fold}-{digest}"
    path = config.study_folder() / f"{name}.json"
    if not path.exists():
        write_atomically(path, content)
    images = path.with_name(path.stem + "-images.npz")
    if not images.exists():
        buffer = io.BytesIO()
        # the most crowded images tell heads apart best
        counts = {image["id"]: 0 for image in truth["images"]}
        for annotation in truth["annotations"]:
            counts[annotation["image_id"]] += 1
        index = {image_id: i for i, image_id in enumerate(held_out.image_ids)}
        chosen = sorted(sorted(counts, key=lambda image_id: -counts[image_id])[:PANEL_IMAGES])
        arrays = {f"image_{i}": held_out[index[i]][0].permute(1, 2, 0).contiguous().numpy() for i in chosen}
        np.savez_compressed(buffer, **arrays)
        write_atomically(images, buffer.getvalue())
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

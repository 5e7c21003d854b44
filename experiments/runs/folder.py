"""What the folder of a run holds and how it is written: first the configuration, last ``result.json``."""

import fcntl
import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from instseg.evaluation.kinds import METRIC_KINDS
from instseg.files import write_atomically
from instseg.masks.rle import RLE
from instseg.training.loop import HeadResult

LOCK = ".lock"
"""Held by the process that carries out the run; its time of change is when that process began."""
ERROR = "error.txt"
"""What stopped the run; deleted when the run is tried again."""
PANEL_IMAGES = 4


@dataclass
class ActiveRun:
    """A run that this process carries out; it holds the lock of the folder.

    Attributes:
        data: the training images.
        held_out: the images that it is scored on.
        code: commit, device and versions when it began.
        began: ``time.perf_counter()`` when it began.
        weights: what the provenance says of its first weights and its core.
    """

    config: Config
    data: InstanceDataset
    held_out: InstanceDataset
    code: dict[str, Any]
    began: float
    weights: dict[str, Any] = field(default_factory=dict)


def is_done(config: Config) -> bool:
    """Whether the run has been carried out."""
    return (config.folder() / "result.json").exists()


def begin(config: Config, device: torch.device) -> ActiveRun:
    """Write the configuration into the run's folder, delete what stopped the run before, and open its data; a UserError
    where the data can't be used."""
    folder = config.folder()
    (folder / ERROR).unlink(missing_ok=True)
    began, code = time.perf_counter(), provenance(device)
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)).encode())
    check_same_data(config, write=True)
    return ActiveRun(config, config.make_dataset("train"), config.make_dataset("val"), code, began)


def log_skipped(run: ActiveRun) -> None:
    """Print how many images and objects are not used, and why the first is not."""
    for data, split in ((run.data, "train"), (run.held_out, "val")):
        if data.skipped:
            progress.say(f"{data.name} {split}: {len(data.skipped)} left out, the first: {data.skipped[0]}")


def finish(run: ActiveRun, results: coco.Results, masks_in_gt_boxes: list[RLE], trained: HeadResult) -> None:
    """Score a run's predictions, and its masks in ground-truth boxes (:func:`instseg.evaluation.gt_boxes.predict`);
    write all of it, and ``result.json`` last."""
    config, folder, data, held_out = run.config, run.config.folder(), run.data, run.held_out
    truth, limit = held_out.ground_truth(), config.make_schedule().iterations
    metrics = scores(config, held_out, results, coco.KINDS)
    write_atomically(folder / "predictions.json", json.dumps(results).encode())
    mask_ious, boundary_ious = gt_boxes.ious(truth, masks_in_gt_boxes)
    ious = {"mask_iou": mask_ious.round(6).tolist(), "boundary_iou": boundary_ious.round(6).tolist()}
    write_atomically(folder / GT_BOXES, json.dumps(ious))
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
            "tuned": config.head.tuned or None,
        },
        "dataset": config.dataset.name,
        "trunk": config.trunk.name,
        "fold": config.dataset.fold,
        "seed": config.seed,
        "iterations": limit,
        "trained": {
            "iterations": trained.iterations,
            "tail_start": trained.tail_start,
            "limit_reached": trained.iterations == limit if config.schedule.until == "plateau" else None,
        },
        "settings": config.settings(),
        "ground_truth": _store_ground_truth(config, held_out, truth),
        "metrics": metrics,
        "true_boxes": gt_boxes.summary(truth, mask_ious, boundary_ious),
        "left_out": [f"train: {line}" for line in data.skipped] + [f"val: {line}" for line in held_out.skipped],
        "provenance": {
            **run.code,
            "finished": now(),
            "train_seconds": trained.seconds,
            "wall_seconds": time.perf_counter() - run.began,
            "resumed_from": trained.start,
            **run.weights,
        },
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=1))
    # written by another process that found the run locked
    (folder / ERROR).unlink(missing_ok=True)


def scores(
    config: Config, held_out: InstanceDataset, results: coco.Results, kinds: Sequence[coco.Kind]
) -> dict[str, dict[str, float | None]]:
    """COCO's metrics of predictions, by kind."""
    truth, engine = held_out.ground_truth(), config.evaluation.engine
    return {kind: coco.metrics(coco.evaluate(truth, results, kind, engine)) for kind in kinds}


def logged_scores(config: Config, held_out: InstanceDataset, results: coco.Results) -> dict[str, float | None]:
    """AP of the kinds that are logged, which ``runtime.evaluate_every`` asks for in training, for ``metrics.jsonl``."""
    logged = [kind.name for kind in METRIC_KINDS.values() if kind.logged]
    return {f"{kind}_AP": metrics["AP"] for kind, metrics in scores(config, held_out, results, logged).items()}


def check_same_data(config: Config, write: bool = False) -> None:
    """Check that a run's folder is of the data that the run would use now, which the folder's name does not say; with
    ``write`` the data is noted in the folder, if nothing is noted there yet.

    Raises:
        UserError: the folder is of other images or annotations, the splits are of different classes, or the data or
            the folder's note of it can't be read.
    """
    try:
        splits = {split: config.make_dataset(split) for split in ("train", "val")}
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(f"data_root={config.data_root}: {error.filename}: {error.strerror}") from error
    check_same_classes(splits["train"], splits["val"])
    fingerprints = {split: data.fingerprint() for split, data in splits.items()}
    path = config.folder() / "data.json"
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if write:
            write_atomically(path, json.dumps(fingerprints))
        return
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete {path.parent} to run it again") from error
    if noted != fingerprints:
        raise UserError(
            f"{config.folder()} is a run on other data than lies in data_root={config.data_root} now; "
            "give a study.name or results_dir of its own, or delete the folder"
        )


def _store_ground_truth(config: Config, held_out: InstanceDataset, truth: dict[str, Any]) -> str:
    """Store the ground truth and the images of the panels once for all runs of a study that share them; returns the
    path of the ground truth, from the study's folder."""
    content = json.dumps(truth, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()[:8]
    name = f"ground_truth/{config.dataset.name}-f{config.dataset.fold}-{digest}"
    path = config.study_folder() / f"{name}.json"
    if not path.exists():
        write_atomically(path, content)
    images = path.with_name(f"{path.stem}-images.npz")
    if not images.exists():
        # heads differ most on crowded images
        counts = Counter({image["id"]: 0 for image in truth["images"]})
        counts.update(annotation["image_id"] for annotation in truth["annotations"])
        chosen = sorted(image_id for image_id, _ in counts.most_common(PANEL_IMAGES))
        index = {image_id: i for i, image_id in enumerate(held_out.image_ids)}
        arrays = {f"image_{i}": held_out[index[i]][0].permute(1, 2, 0).contiguous().numpy() for i in chosen}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(images, buffer.getvalue())
    return f"{name}.json"


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Make the folder where needed and lock it; the system frees the lock even when the process is killed.

    The lock is one of POSIX's, which belong to a process: loader workers don't inherit it, and can't hold it when the
    process that started them is dead. A UserError where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder}: another process is at this run") from error
        os.utime(folder / LOCK)
        yield

"""The groups of ``conf/`` that only the experiments know, typed: what each key is for.

The groups ``detector``, ``schedule`` and ``augmentation`` are dataclasses of :mod:`instseg`.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

import heads
from instseg.errors import UserError
from instseg.evaluation import engine
from instseg.statistics.verdict import MARGIN

FILE_KEYS = ("annotations", "images", "val_annotations", "val_images")
"""Those of a data set that name files and folders."""

RENAMED = {"max_train_images": "train_pictures", "max_val_images": "val_pictures"}
"""Keys of a data set that once had another name, which stored configurations and hashes go by."""


@dataclass
class Head:
    """A mask head with its options (``conf/head``).

    Attributes:
        variant: its name in tables.
        name: of the file in ``heads/``.
        class_agnostic: one mask an RoI that serves every class, in place of one a class.
        loss_weight: of all its losses together.
        dice_weight, boundary_weight: of the losses on shape (``instseg.detector.shape_losses``) among them.
        lr_mult, decay_mult: its learning rate and weight decay, in multiples of the schedule's.
        options: the head's own.
        control: as the key ``control`` of the run, for this head alone; None: as that key says.
        paper: where the head is from.
        control_of: of a control: the head that it matches, and both costs or pulls.
        tuned: of a tuned head: the trial that was best, with its settings, its score and the number of trials.
    """

    variant: str = MISSING
    name: str = MISSING
    class_agnostic: bool = False
    loss_weight: float = 1.0
    dice_weight: float = 0.0
    boundary_weight: float = 0.0
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    control: str | None = None
    paper: str = ""
    control_of: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, Any] = field(default_factory=dict)

    def common(self) -> dict[str, Any]:
        """The options that every head has."""
        return {key: getattr(self, key) for key in heads.COMMON}


@dataclass
class DatasetConfig:
    """A data set, its split and the sizes of its images (``conf/dataset``); see ``instseg.data.build``.

    ``annotations, images, val_annotations, val_images`` are for data sets that take files alone (``coco_json``). With
    ``inner_parts`` a run learns from the training images alone but for one in so many, and is scored on these: trials
    of a tuning are such runs.
    """

    name: str = MISSING
    annotations: str | None = None
    images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    fold: int = 0
    inner_parts: int | None = None
    max_train_images: int | None = None
    max_val_images: int | None = None
    train_min_size: list[int] = MISSING
    train_max_size: int = MISSING
    min_size: int = MISSING
    max_size: int = MISSING
    options: dict[str, Any] = field(default_factory=dict)

    def files(self) -> dict[str, Path]:
        """The files and folders that are given, by key."""
        given = {key: getattr(self, key) for key in FILE_KEYS}
        return {key: Path(value).expanduser() for key, value in given.items() if value is not None}

    def settings(self) -> dict[str, Any]:
        """All that can change the numbers: of annotation files a digest of what is in them, and nowhere where anything
        lies."""
        parts = {key: value for key, value in asdict(self).items() if key not in FILE_KEYS}
        parts["options"].pop("download_dir", None)
        for key, old in RENAMED.items():
            # hashes and stored results were made with the old names
            parts[old] = parts.pop(key)
        for key, path in self.files().items():
            if key.endswith("annotations"):
                parts[key] = digest(path, f"dataset.{key}")[:8]
        return parts


@dataclass
class TuningSpace:
    """What a head is tuned over, and by what (``tuning_space``); see :mod:`experiments.config.trials`.

    Attributes:
        lr_mult, decay_mult, loss_weight: lowest and highest, each in multiples of what the study has.
        norms: normalisations of the head to choose from.
        choice: ``each_fold``, by the fold's own training images, or ``first_fold``, once, by those of fold 0 for all.
        score: what trials are chosen by, on the validation images: ``mask_AP``, or ``gt_box_IoU``, the mean IoU of the
            masks in the boxes of the ground truth.
        inner_parts: one in so many training images is held out for validation.
        iterations: of each trial; None: trials are as long as the runs, until a plateau where these are.
    """

    lr_mult: list[float] = field(default_factory=lambda: [0.25, 4.0])
    decay_mult: list[float] = field(default_factory=lambda: [0.1, 10.0])
    loss_weight: list[float] = field(default_factory=lambda: [0.5, 4.0])
    norms: list[str] = field(default_factory=lambda: ["none", "group", "batch"])
    choice: str = "each_fold"
    score: str = "mask_AP"
    inner_parts: int = 5
    iterations: int | None = None


@dataclass
class Trunk:
    """Backbone and pyramid (``conf/trunk``); see ``instseg.detector.trunk.build``."""

    name: str = MISSING
    weights: str | None = None
    norm: str = "frozen"
    trainable_layers: int | None = None
    out_channels: int = 256
    stride_in_1x1: bool = False


@dataclass
class Runtime:
    """How runs are carried out. On one machine only ``threads`` and ``compile`` can change numbers, by rounding.

    Attributes:
        device: ``auto`` (the GPU where there is one), ``cpu`` or ``cuda``.
        workers: processes that read images; 0: the training process does.
        jobs: runs of a sweep that are carried out at a time.
        compile: ``true`` compiles the layers by ``torch.compile``, which takes minutes at first; ``auto`` does so on
            a GPU.
        threads: threads of torch on the CPU in each run; None: as many as there are cores.
        log_every, checkpoint_every, evaluate_every: iterations between them; evaluate_every 0: at the end alone.
    """

    device: str = "auto"
    workers: int = 0
    jobs: int = 1
    compile: str = "auto"
    threads: int | None = None
    log_every: int = 20
    checkpoint_every: int = 1000
    evaluate_every: int = 0


@dataclass
class Evaluation:
    """How runs are scored and compared.

    Attributes:
        batch_size: images predicted at a time.
        engine: what computes COCO's metrics, ``faster_coco_eval`` or ``pycocotools``; the numbers are the same.
        resamples: of the images, for intervals.
        speed: whether a sweep ends with the heads' timings.
    """

    batch_size: int = 4
    engine: str = engine.DEFAULT
    resamples: int = 1000
    speed: bool = True


@dataclass
class Contrast:
    """A comparison that a study names beforehand.

    Attributes:
        variant, rival: names of heads in tables; the difference is the variant's AP minus the rival's.
        question: what the difference answers.
    """

    variant: str = MISSING
    rival: str = MISSING
    question: str = ""


@dataclass
class StudyConfig:
    """A set of runs that make one table (``conf/study``).

    Attributes:
        baseline: what the other variants are compared with.
        contrasts: comparisons that are judged by themselves; with any, all others are exploratory.
        margin: AP points within which variants are equivalent.
    """

    name: str = MISSING
    baseline: str = "fcn"
    contrasts: list[Contrast] = field(default_factory=list)
    margin: float = MARGIN


def digest(path: Path, key: str) -> str:
    """SHA-256 of the file that a key names, computed once in a process; a UserError where it can't be read."""
    try:
        stat = path.stat()
        return _cached_digest(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise UserError(f"{key}={path} can't be read: {error.strerror}") from None


@lru_cache(maxsize=16)
def _cached_digest(path: Path, changed: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

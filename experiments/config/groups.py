"""The typed form of the groups of ``conf/``: what each key of a run is for."""

import hashlib
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

import heads
from instseg.errors import UserError
from instseg.evaluation import engine

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
        dice_weight, boundary_weight: of the losses on shape (``instseg.detector.shape_losses``).
        options: the head's own.
        control: as the key ``control`` of the run, for this head alone; None: as it says.
        paper: where the head is from.
        control_of: of a control that was found: the head that it matches, and both costs.
    """

    variant: str = MISSING
    name: str = MISSING
    class_agnostic: bool = False
    dice_weight: float = 0.0
    boundary_weight: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    control: str | None = None
    paper: str = ""
    control_of: dict[str, Any] = field(default_factory=dict)

    def common(self) -> dict[str, Any]:
        """The options that every head has."""
        return {key: getattr(self, key) for key in heads.COMMON}


@dataclass
class DatasetConfig:
    """A data set, its split and the sizes of its images (``conf/dataset``); see ``instseg.data.build``.

    ``annotations, images, val_annotations, val_images`` are for data sets that take files alone (``coco_json``).
    """

    name: str = MISSING
    annotations: str | None = None
    images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    fold: int = 0
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
        parts = asdict(self)
        parts["options"].pop("download_dir", None)
        for key, old in RENAMED.items():
            # hashes and stored results were made with the old names
            parts[old] = parts.pop(key)
        for key in FILE_KEYS:
            del parts[key]
        for key, path in self.files().items():
            if key.endswith("annotations"):
                parts[key] = _digest(path, f"dataset.{key}")[:8]
        return parts


@dataclass
class Augmentation:
    """What happens to training images (``conf/augmentation``); see ``instseg.data.batches.transforms``."""

    flip: float = 0.5
    vertical_flip: float = 0.0
    scale: list[float] | None = None
    crop: int | None = None
    photometric: float = 0.0
    jpeg: float = 0.0
    jpeg_quality: list[int] = field(default_factory=lambda: [30, 95])
    copy_paste: float = 0.0
    min_area: int = 10
    min_visible: float = 0.1


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
class Detector:
    """RPN and box branch; the names and defaults are torchvision's, but for ``exact_anchors`` and ``roi_aligned``,
    which are detectron2's ways (``instseg.detector.MaskRCNN``)."""

    anchor_sizes: list[list[int]] = field(default_factory=lambda: [[32], [64], [128], [256], [512]])
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    box_features: int = 1024
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_fg_iou_thresh: float = 0.7
    rpn_bg_iou_thresh: float = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_score_thresh: float = 0.0
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_detections_per_img: int = 100
    box_fg_iou_thresh: float = 0.5
    box_bg_iou_thresh: float = 0.5
    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    exact_anchors: bool = False
    roi_aligned: bool = False


@dataclass
class ScheduleConfig:
    """Optimiser, learning rate and length (``conf/schedule``); see ``instseg.training.schedule.Schedule``."""

    iterations: int = MISSING
    batch_size: int = MISSING
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 0.0001
    norm_weight_decay: float | None = None
    warmup: int = 1000
    warmup_factor: float = 0.001
    decay: str = "step"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    clip_norm: float | None = None
    precision: str = "float32"
    reference_batch: int | None = None


@dataclass
class Runtime:
    """How runs are carried out; nothing here can change their numbers on one machine but ``threads`` and ``compile``,
    by rounding.

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
class StudyConfig:
    """A set of runs that make one table (``conf/study``)."""

    name: str = MISSING
    baseline: str = "fcn"


def _digest(path: Path, key: str) -> str:
    """SHA-256 of a file that a key names."""
    try:
        seen = path.stat()
        return _digest_of(path, seen.st_mtime_ns, seen.st_size)
    except OSError as error:
        raise UserError(f"{key}={path} can't be read: {error.strerror}") from None


@lru_cache(maxsize=16)
def _digest_of(path: Path, changed: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

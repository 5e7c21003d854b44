"""The typed form of ``conf/``: what a run is, what it is called, and what can be said against it beforehand."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import heads
from instseg import data, transfer
from instseg.data import InstanceDataset, transforms
from instseg.detector.rois import MaskHead
from instseg.errors import UserError
from instseg.evaluation import engine
from instseg.training.schedule import Schedule

COMPILE = ("auto", "true", "false")

CONTROLS = ("none", "params", "flops")

FILE_KEYS = ("annotations", "images", "val_annotations", "val_images")

PROTOCOLS = ("end_to_end", "frozen_core")


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
    """A data set, its split and the sizes of its pictures (``conf/dataset``); see ``instseg.data.build``.

    ``annotations, images, val_annotations, val_images`` are for data sets that take files alone (``coco_json``).
    """

    name: str = MISSING
    annotations: str | None = None
    images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    fold: int = 0
    train_pictures: int | None = None
    val_pictures: int | None = None
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
        """All that can change the numbers: of annotation files what is in them, and nowhere where anything lies."""
        parts = asdict(self)
        parts["options"].pop("download_dir", None)
        for key in FILE_KEYS:
            del parts[key]
        for key, path in self.files().items():
            if key.endswith("annotations"):
                parts[key] = _digest(path, f"dataset.{key}")
        return parts


@dataclass
class Augmentation:
    """What happens to training pictures (``conf/augmentation``); see ``instseg.data.transforms.training``."""

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
        workers: processes that read pictures; 0: the training process does.
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
        batch_size: pictures predicted at a time.
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


@dataclass
class Config:
    """One run."""

    head: Head = field(default_factory=Head)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    trunk: Trunk = field(default_factory=Trunk)
    detector: Detector = field(default_factory=Detector)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: Runtime = field(default_factory=Runtime)
    evaluation: Evaluation = field(default_factory=Evaluation)
    study: StudyConfig = field(default_factory=StudyConfig)
    protocol: str = "end_to_end"
    control: str = "none"
    head_norm: str = "none"
    init: str | None = None
    core: str | None = None
    seed: int = 0
    data_root: str | None = None
    results_dir: str = "results"

    def make_schedule(self) -> Schedule:
        """The schedule for the batch size that was asked for."""
        return Schedule(**asdict(self.schedule)).scaled()

    def make_head(self, num_classes: int) -> MaskHead:
        """The mask head with new weights."""
        return heads.build(
            self.head.name,
            self.trunk.out_channels,
            num_classes,
            **self.head.common(),
            **self.head.options,
        )

    def make_dataset(self, split: str) -> InstanceDataset:
        """A split of the data set; the same object for every run of this process that asks for the same."""
        d = self.dataset
        images = d.train_pictures if split == "train" else d.val_pictures
        root = None if self.data_root is None else str(Path(self.data_root).expanduser())
        files = tuple(d.files().items())
        return _dataset(d.name, split, d.fold, root, images, files, json.dumps(d.options, sort_keys=True))

    def make_transform(self) -> transforms.Training:
        """What happens to training pictures."""
        d = self.dataset
        return transforms.training(**vars(self.augmentation), min_size=d.train_min_size, max_size=d.train_max_size)

    def check_settled(self) -> None:
        """Raise a ValueError where a control is asked for and not yet found, as the head is another one then."""
        if (self.head.control or self.control) != "none":
            raise ValueError("the control must be found first: experiments.control.resolved")

    def hash(self) -> str:
        """Eight hex digits over everything that can change a run's numbers, and nothing else."""
        self.check_settled()
        parts = asdict(self)
        for key in ("runtime", "study", "data_root", "results_dir", "head_norm", "control"):
            del parts[key]
        parts["evaluation"] = {"batch_size": self.evaluation.batch_size}
        for key in ("variant", "control", "paper", "control_of"):
            del parts["head"][key]
        parts["dataset"] = self.dataset.settings()
        for key in ("init", "core"):
            del parts[key]
        if self.protocol == "frozen_core":
            parts["core"] = self.core_run().hash()
        # where weights lie can't change the numbers, what is in them can
        parts |= {f"{key} weights": transfer.identity(given) for key, given in self.transferred().items()}
        if self.trunk.weights is not None and Path(self.trunk.weights).is_file():
            # where the file lies can't change the numbers, what is in it can
            parts["trunk"]["weights"] = hashlib.sha256(Path(self.trunk.weights).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]

    def transferred(self) -> dict[str, str]:
        """``init`` and ``core``, as far as they are given."""
        return {key: given for key in ("init", "core") if (given := getattr(self, key)) is not None}

    def core_run(self) -> "Config":
        """The run whose detector is frozen under the head, with ``protocol=frozen_core``: the plain FCN end to end and
        all else the same, in a study of its own inside this one's folder, ``results/<study>/cores``."""
        options = {**heads.options("fcn"), "norm": self.head_norm}
        return replace(
            self,
            protocol="end_to_end",
            control="none",
            head=Head(variant="fcn", name="fcn", options=options),
            study=StudyConfig(name="cores", baseline="fcn"),
            results_dir=str(self.study_folder()),
        )

    def settings(self) -> dict[str, Any]:
        """What runs of one study share if their difference is to be the head's alone, flat: ``schedule.lr`` and
        so on. Names of trunk and data set, iterations, seed and fold are told elsewhere."""
        flat: dict[str, Any] = {}
        groups = {key: asdict(getattr(self, key)) for key in ("augmentation", "trunk", "detector", "schedule")}
        for group, values in {"dataset": self.dataset.settings(), **groups}.items():
            flat |= {f"{group}.{key}": value for key, value in values.items()}
        flat |= {key: transfer.short_identity(given) for key, given in self.transferred().items()}
        for key in ("dataset.name", "dataset.fold", "trunk.name", "schedule.iterations"):
            del flat[key]
        return flat

    def study_folder(self) -> Path:
        """``results/<study>``."""
        return Path(self.results_dir) / self.study.name

    def folder(self) -> Path:
        """The run's folder."""
        name = f"{self.head.variant}-{self.dataset.name}-f{self.dataset.fold}-s{self.seed}-{self.hash()}"
        return self.study_folder() / "runs" / name


@lru_cache(maxsize=4)
def _dataset(
    name: str,
    split: str,
    fold: int,
    root: str | None,
    images: int | None,
    files: tuple[tuple[str, Path], ...],
    options: str,
) -> InstanceDataset:
    path = None if root is None else Path(root)
    return data.build(name, split, fold=fold, root=path, images=images, files=dict(files), **json.loads(options))


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


def torch_device(name: str, key: str = "runtime.device") -> torch.device:
    """``auto`` -> the GPU where there is one, else the CPU; ``key`` is what the user gave it by."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"{key}={name}: must be auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key}={name}: torch sees no GPU here; use {key}=cpu")
    return device


def typed(cfg: DictConfig) -> Config:
    """A composed configuration as a :class:`Config`, interpolations resolved."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    return config


def _channels(share: float, *, _root_: DictConfig) -> int:
    """``${channels:0.5}``: half as many as the pyramid has."""
    return max(1, round(float(share) * _root_.trunk.out_channels))


# where processes begin, they import this before they read a configuration
OmegaConf.register_new_resolver("channels", _channels, replace=True)


def stored(path: Path) -> Config:
    """The configuration that a run wrote into its folder.

    Raises:
        UserError: the file is missing or damaged, or of keys that are not known here.
    """
    try:
        loaded = OmegaConf.load(path)
        if OmegaConf.select(loaded, "dataset.flip") is not None:
            # where it was before augmentation was a group
            loaded.augmentation = {"flip": loaded.dataset.pop("flip")}
        merged = OmegaConf.merge(OmegaConf.structured(Config), loaded)
        assert isinstance(merged, DictConfig)
        return typed(merged)
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise UserError(f"{path} can't be used ({reason})") from error


def register() -> None:
    """Make the schema known to Hydra, so that a misspelt key or a value of the wrong type is an error."""
    ConfigStore.instance().store("schema", node=Config)

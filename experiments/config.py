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
from instseg import data, detector
from instseg.data import InstanceDataset
from instseg.detector.rois import MaskHead
from instseg.errors import UserError, unknown_name
from instseg.evaluation import engine
from instseg.training.schedule import Schedule

COMPILE = ("auto", "true", "false")

CONTROLS = ("none", "params", "flops")

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
    """A data set, its split and the sizes of its pictures (``conf/dataset``); see ``instseg.data.build``."""

    name: str = MISSING
    fold: int = 0
    train_images: int | None = None
    val_images: int | None = None
    flip: float = 0.5
    train_min_size: list[int] = MISSING
    train_max_size: int = MISSING
    min_size: int = MISSING
    max_size: int = MISSING
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Trunk:
    """Backbone and pyramid (``conf/trunk``); see ``instseg.detector.trunk.build``."""

    name: str = MISSING
    weights: str | None = None
    norm: str = "frozen"
    trainable_layers: int | None = None
    out_channels: int = 256


@dataclass
class Detector:
    """RPN and box branch; the names and defaults are torchvision's."""

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
    trunk: Trunk = field(default_factory=Trunk)
    detector: Detector = field(default_factory=Detector)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: Runtime = field(default_factory=Runtime)
    evaluation: Evaluation = field(default_factory=Evaluation)
    study: StudyConfig = field(default_factory=StudyConfig)
    protocol: str = "end_to_end"
    control: str = "none"
    head_norm: str = "none"
    seed: int = 0
    data_root: str | None = None
    results_dir: str = "results"

    def check(self) -> None:
        """Find what is wrong before anything is loaded or trained.

        Raises:
            UserError: one line that names the key and what would be right.
        """
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.dataset.name not in data.names():
            raise unknown_name("dataset.name", self.dataset.name, data.names())
        if not 0 <= self.dataset.flip <= 1:
            raise UserError(f"dataset.flip={self.dataset.flip}: must be between 0 and 1")
        if not self.dataset.train_min_size or min(*self.dataset.train_min_size, self.dataset.min_size) < 32:
            raise UserError("dataset.train_min_size and dataset.min_size: at least one size each, 32 pixels or more")
        if len(self.detector.anchor_sizes) != 5:
            raise UserError(
                f"detector.anchor_sizes: one list a level P2..P6, five in all, not {len(self.detector.anchor_sizes)}"
            )
        self._check_ranges()
        if self.trunk.norm == "frozen" and self.trunk.weights is None:
            raise UserError(
                "trunk.norm=frozen needs trunk.weights: statistics of no data can't be frozen; "
                "from scratch use trunk.norm=batch trunk.trainable_layers=null"
            )
        if self.trunk.name in detector.trunk.names() and self.trunk.weights is not None:
            detector.trunk.find_weights(self.trunk.name, self.trunk.weights)
        self.make_schedule()
        # YAML reads true and false as no words
        if self.runtime.compile.lower() not in COMPILE:
            raise unknown_name("runtime.compile", self.runtime.compile, COMPILE)
        if self.evaluation.engine not in engine.ENGINES:
            raise unknown_name("evaluation.engine", self.evaluation.engine, engine.ENGINES)
        torch_device(self.runtime.device)
        with torch.device("meta"):
            detector.trunk.build(
                self.trunk.name, norm=self.trunk.norm, trainable_layers=self.trunk.trainable_layers, out_channels=8
            )
            self.make_head(num_classes=2)

    def _check_ranges(self) -> None:
        sizes = self.detector.anchor_sizes
        if not all(sizes) or min(map(min, sizes)) < 1:
            raise UserError("detector.anchor_sizes: each level needs one or more, 1 pixel or larger")
        if not self.detector.anchor_ratios or min(self.detector.anchor_ratios) <= 0:
            raise UserError(f"detector.anchor_ratios={self.detector.anchor_ratios}: one or more, each above 0")
        d = self.dataset
        if d.max_size < d.min_size or d.train_max_size < max(d.train_min_size):
            raise UserError("dataset.max_size and dataset.train_max_size: at least the size of the short side")
        least = {
            "seed": (self.seed, 0),
            "runtime.jobs": (self.runtime.jobs, 1),
            "runtime.threads": (self.runtime.threads, 1),
            "runtime.workers": (self.runtime.workers, 0),
            "runtime.log_every": (self.runtime.log_every, 1),
            "runtime.checkpoint_every": (self.runtime.checkpoint_every, 1),
            "runtime.evaluate_every": (self.runtime.evaluate_every, 0),
            "evaluation.batch_size": (self.evaluation.batch_size, 1),
            "evaluation.resamples": (self.evaluation.resamples, 1),
            "trunk.out_channels": (self.trunk.out_channels, 1),
        }
        for key, value in vars(self.detector).items():
            if isinstance(value, int):
                least[f"detector.{key}"] = (value, 1)
            elif isinstance(value, float) and not 0 <= value <= 1:
                raise UserError(f"detector.{key}={value}: must be between 0 and 1")
        for part in ("rpn", "box"):
            high, low = (getattr(self.detector, f"{part}_{kind}_iou_thresh") for kind in ("fg", "bg"))
            if high < low:
                raise UserError(
                    f"detector.{part}_fg_iou_thresh={high}: must be at least detector.{part}_bg_iou_thresh={low}"
                )
        for name, (number, low) in least.items():
            if number is not None and number < low:
                raise UserError(f"{name}={number}: must be {low} or more")

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
        images = d.train_images if split == "train" else d.val_images
        root = None if self.data_root is None else str(Path(self.data_root).expanduser())
        return _dataset(d.name, split, d.fold, root, images, json.dumps(d.options, sort_keys=True))

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
        parts["dataset"]["options"].pop("download_dir", None)
        if self.protocol == "frozen_core":
            parts["core"] = self.core().hash()
        if self.trunk.weights is not None and Path(self.trunk.weights).is_file():
            # where the file lies can't change the numbers, what is in it can
            parts["trunk"]["weights"] = hashlib.sha256(Path(self.trunk.weights).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]

    def core(self) -> "Config":
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
        for group in ("dataset", "trunk", "detector", "schedule"):
            flat |= {f"{group}.{key}": value for key, value in asdict(getattr(self, group)).items()}
        for key in ("dataset.name", "dataset.fold", "trunk.name", "schedule.iterations"):
            del flat[key]
        flat["dataset.options"].pop("download_dir", None)
        return flat

    def study_folder(self) -> Path:
        """``results/<study>``."""
        return Path(self.results_dir) / self.study.name

    def folder(self) -> Path:
        """The run's folder."""
        name = f"{self.head.variant}-{self.dataset.name}-f{self.dataset.fold}-s{self.seed}-{self.hash()}"
        return self.study_folder() / "runs" / name


@lru_cache(maxsize=4)
def _dataset(name: str, split: str, fold: int, root: str | None, images: int | None, options: str) -> InstanceDataset:
    path = None if root is None else Path(root)
    return data.build(name, split, fold=fold, root=path, images=images, **json.loads(options))


def torch_device(name: str) -> torch.device:
    """``auto`` -> the GPU where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"runtime.device={name}: must be auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"runtime.device={name}: torch sees no GPU here; use runtime.device=cpu")
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
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        assert isinstance(merged, DictConfig)
        return typed(merged)
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise UserError(f"{path} can't be used ({reason})") from error


def register() -> None:
    """Make the schema known to Hydra, so that a misspelt key or a value of the wrong type is an error."""
    ConfigStore.instance().store("schema", node=Config)

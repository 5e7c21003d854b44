"""The typed form of a run: what it is made of, what it is called, and what it makes."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import heads
from experiments.config.groups import (
    RENAMED,
    DatasetConfig,
    Evaluation,
    Head,
    Runtime,
    StudyConfig,
    Trunk,
    TuningSpace,
    digest,
)
from instseg import data, seeds, transfer
from instseg.data import InstanceDataset
from instseg.data.batches import transforms
from instseg.data.inner_split import InnerSplit
from instseg.detector.mask_head import MaskHead
from instseg.detector.options import DetectorOptions
from instseg.errors import UserError
from instseg.evaluation.predict import Inference
from instseg.training.schedule import Schedule

COMPILE = ("auto", "true", "false")
CONTROLS = ("none", "params", "flops", "pull")
PROTOCOLS = ("end_to_end", "frozen_core")
CORE_HEADS = ("fcn", "unet", "none")


@dataclass(kw_only=True)
class Config:
    """One run.

    What the core asks for, detector, schedule and augmentation, is typed there: the keys of a group are the fields of
    its dataclass. The other groups are in :mod:`experiments.config.groups`; ``conf/config.yaml`` says what the keys
    beside the groups are for.
    """

    head: Head = field(default_factory=Head)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augmentation: transforms.Augmentation = field(default_factory=transforms.Augmentation)
    trunk: Trunk = field(default_factory=Trunk)
    detector: DetectorOptions = field(default_factory=DetectorOptions)
    schedule: Schedule
    runtime: Runtime = field(default_factory=Runtime)
    evaluation: Evaluation = field(default_factory=Evaluation)
    study: StudyConfig = field(default_factory=StudyConfig)
    protocol: str = "end_to_end"
    control: str = "none"
    head_norm: str = "none"
    init: str | None = None
    core: str | None = None
    core_head: str = "fcn"
    tuning: int = 0
    tuning_space: TuningSpace = field(default_factory=TuningSpace)
    seed: int = 0
    data_root: str | None = None
    results_dir: str = "results"

    def make_schedule(self) -> Schedule:
        """The schedule for the batch size that was asked for."""
        return self.schedule.scaled()

    def make_inference(self, device: torch.device) -> Inference:
        """How the run's models are run over images."""
        return Inference(device, self.evaluation.batch_size, self.runtime.workers, self.schedule.precision)

    def make_head(self, num_classes: int) -> MaskHead:
        """The mask head with new weights."""
        options = {**self.head.common(), **self.head.options}
        return heads.build(self.head.name, self.trunk.out_channels, num_classes, **options)

    def make_dataset(self, split: str) -> InstanceDataset:
        """A split of the data set; the same object for every run of this process that asks for the same."""
        d = self.dataset
        images = d.max_train_images if split == "train" else d.max_val_images
        root = None if self.data_root is None else Path(self.data_root).expanduser()
        files, options = tuple(d.files().items()), json.dumps(d.options, sort_keys=True)
        if d.inner_parts is None:
            return _dataset(d.name, split, files, options, fold=d.fold, root=root, images=images)
        whole = _dataset(d.name, "train", files, options, fold=d.fold, root=root, images=d.max_train_images)
        return InnerSplit(whole, split, d.inner_parts)

    def make_transform(self) -> transforms.TrainTransform:
        """The transform of training images."""
        d = self.dataset
        return transforms.TrainTransform(
            **vars(self.augmentation), min_size=d.train_min_size, max_size=d.train_max_size
        )

    def check_resolved(self) -> None:
        """Raise a ValueError where a control is asked for and not yet found, or a tuning not yet done, as the head is
        another one then."""
        if (self.head.control or self.control) != "none":
            raise ValueError("the control must be found first: experiments.config.control.resolved")
        if self.tuning and not self.head.tuned:
            raise ValueError("the head must be tuned first: experiments.runs.tuning.tuned")

    def hash(self) -> str:
        """Eight hex digits over everything that can change a run's numbers, and nothing else."""
        self.check_resolved()
        parts = asdict(self)
        elsewhere = ("head_norm", "control", "init", "core", "core_head", "tuning", "tuning_space")
        for key in ("runtime", "study", "data_root", "results_dir", *elsewhere):
            del parts[key]
        for key in ("variant", "control", "paper", "control_of", "tuned"):
            del parts["head"][key]
        parts["evaluation"] = {"batch_size": self.evaluation.batch_size}
        parts["dataset"] = self.dataset.settings()
        parts["schedule"], parts["detector"] = self.schedule.settings(), self.detector.settings()
        if self.protocol == "frozen_core":
            parts["core"] = self.core_run().hash()
        # of weights it is the content that can change the numbers, not where the file is
        parts |= {f"{key} weights": transfer.identity(given) for key, given in self.transferred().items()}
        if self.trunk.weights is not None and Path(self.trunk.weights).is_file():
            parts["trunk"]["weights"] = digest(Path(self.trunk.weights), "trunk.weights")
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]

    def transferred(self) -> dict[str, str]:
        """Those of ``init`` and ``core`` that are given."""
        return {key: given for key in ("init", "core") if (given := getattr(self, key)) is not None}

    def stream_seed(self) -> int:
        """The seed of a run's random streams: another one in each fold.

        Were it the same in all folds, its effect on a head would be the same, too: the spread over folds would not
        show it, and no number of folds would average it out.
        """
        fold = self.dataset.fold
        return seeds.derive(self.seed, "fold", fold) if fold else self.seed

    def core_run(self) -> "Config":
        """The run whose detector is frozen under the head, with ``protocol=frozen_core``: the plain FCN (or what
        ``core_head`` names) end to end and all else the same, in a study of its own inside this one's folder,
        ``results/<study>/cores``."""
        name = "fcn" if self.core_head == "none" else self.core_head
        options = {**heads.options(name), "norm": self.head_norm}
        # a mask loss of no weight leaves the detector to its box losses
        weight = 0.0 if self.core_head == "none" else 1.0
        return replace(
            self,
            protocol="end_to_end",
            control="none",
            core_head="fcn",
            tuning=0,
            head=Head(variant=name, name=name, loss_weight=weight, options=options),
            study=StudyConfig(name="cores", baseline="fcn"),
            results_dir=str(self.study_folder()),
        )

    def settings(self) -> dict[str, Any]:
        """The settings that runs of a study must share if only their heads are to differ, by key (``schedule.lr``).

        Names of trunk and data set, iterations, seed and fold are not among them; they have columns of their own.
        """
        groups = {"dataset": self.dataset.settings()}
        groups |= {key: asdict(getattr(self, key)) for key in ("augmentation", "trunk")}
        groups["detector"] = self.detector.settings()
        groups["schedule"] = self.schedule.settings()
        flat = {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
        flat |= {key: transfer.short_identity(given) for key, given in self.transferred().items()}
        flat["tuning"] = self.tuning
        if self.protocol == "frozen_core":
            flat["core_head"] = self.core_head
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
    name: str, split: str, files: tuple[tuple[str, Path], ...], options: str, **others: Any
) -> InstanceDataset:
    return data.build(name, split, files=dict(files), **others, **json.loads(options))


def torch_device(name: str, key: str = "runtime.device") -> torch.device:
    """The device that a key names; ``auto``: the GPU where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"{key}={name}: must be auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key}={name}: torch sees no GPU here; use {key}=cpu")
    return device


def to_config(cfg: DictConfig) -> Config:
    """A composed configuration as a :class:`Config`, interpolations resolved; an OmegaConfBaseException where that
    can't be, a UserError where the schedule is none (see :class:`~instseg.training.schedule.Schedule`)."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    return config


def _channels(share: float, *, _root_: DictConfig) -> int:
    """``${channels:0.5}``: half as many as the pyramid has."""
    return max(1, round(float(share) * _root_.trunk.out_channels))


# here, so that every process that reads a configuration has it
OmegaConf.register_new_resolver("channels", _channels, replace=True)


def load_config(path: Path) -> Config:
    """The configuration that a run wrote into its folder; a UserError where it is missing, damaged or of keys that are
    not known here."""
    try:
        stored = OmegaConf.load(path)
        dataset = stored.get("dataset") if isinstance(stored, DictConfig) else None
        for key, old in RENAMED.items():
            if isinstance(dataset, DictConfig) and old in dataset:
                dataset[key] = dataset.pop(old)
        merged = OmegaConf.merge(OmegaConf.structured(Config), stored)
        assert isinstance(merged, DictConfig)
        return to_config(merged)
    except (OSError, OmegaConfBaseException, YAMLError, UserError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise UserError(f"{path} can't be used ({reason})") from error


def register() -> None:
    """Make the schema known to Hydra, so that a misspelt key or a value of the wrong type is an error."""
    ConfigStore.instance().store("schema", node=Config)

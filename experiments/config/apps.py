"""The typed form of ``conf_apps/``: the keys of the small apps, and what can be said against them beforehand."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from experiments.config.run import COMPILE
from instseg.errors import UserError, unknown_name
from instseg.evaluation import engine
from instseg.training.schedule import PRECISIONS

SMALLEST = 32
"""Least height and width of a benchmark's images: one cell of the coarsest map of a backbone."""


@dataclass
class App:
    """What the apps share."""

    def check(self) -> None:
        """Find what is wrong before anything is read.

        Raises:
            UserError: one line that names the key and what would be right.
        """


@dataclass
class Evaluate(App):
    """Keys of ``experiments.evaluate``."""

    annotations: str = MISSING
    predictions: Any = MISSING  # one name, or several
    output: str | None = None
    resamples: int = 1000
    seed: int = 0
    engine: str = engine.DEFAULT

    def names(self) -> list[str]:
        """The results files."""
        return self.predictions if isinstance(self.predictions, list) else [self.predictions]

    def check(self) -> None:
        _not_empty("annotations", self.annotations)
        names = self.names()
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"predictions={self.predictions}: must be the name of a results file, or several: B,C")
        for name in names:
            _not_empty("predictions", name)
            if names.count(name) > 1:
                raise UserError(f"predictions={','.join(names)}: {name} is there twice")
        _not_empty("output", self.output)
        if self.resamples < 2:
            raise UserError(f"resamples={self.resamples}: must be 2 or more; 1000 is usual")
        if self.seed < 0:
            raise UserError(f"seed={self.seed}: must be 0 or more")
        if self.engine not in engine.ENGINES:
            raise unknown_name("engine", self.engine, engine.ENGINES)


@dataclass
class Predict(App):
    """Keys of ``experiments.predict``; ``conf_apps/predict.yaml`` says what each means."""

    input: str = MISSING
    run: Any = MISSING  # one name, or several
    output: str | None = None
    recursive: bool = False
    score: float = 0.5
    max_side: int = 1600
    max_pixels: int = 300_000_000
    results_dir: str = "results"
    device: str = "auto"
    threads: int | None = None

    def names(self) -> list[str]:
        """What was said of the runs."""
        return self.run if isinstance(self.run, list) else [self.run]

    def check(self) -> None:
        for key in ("input", "output", "results_dir"):
            _not_empty(key, getattr(self, key))
        names = self.names()
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"run={self.run}: must be the name of a run or study, or several: A,B")
        for name in names:
            _not_empty("run", name)
        if not 0 <= self.score <= 1:
            raise UserError(f"score={self.score}: must be between 0 and 1")
        _at_least_one("max_side", self.max_side)
        _at_least_one("max_pixels", self.max_pixels)
        if self.threads is not None:
            _at_least_one("threads", self.threads)


@dataclass
class Report(App):
    """Keys of ``experiments.report``."""

    study: str = MISSING
    results_dir: str = "results"
    baseline: str | None = None
    resamples: int | None = None
    data_root: str | None = None
    publish: str | None = None

    def check(self) -> None:
        _is_study(self.study)
        if self.resamples is not None:
            _at_least_one("resamples", self.resamples)
        _not_empty("baseline", self.baseline)
        _not_empty("publish", self.publish)


WHATS = ("study", *sorted(path.stem for path in Path(__file__).parents[1].glob("benchmark/cases/[!_]*.py")))
"""What ``experiments.benchmark`` can measure; all but ``study`` are files in ``experiments/benchmark/cases``."""
PEERS = ("torchvision", "detectron2")
EIGHT = ("fcn", "unet", "hourglass", "resnet_head", "smp", "unet_p2", "pointrend", "refinemask")
"""Heads that ``frozen_core`` trains at once where no others are named."""


@dataclass
class Benchmark(App):
    """Keys of ``experiments.benchmark``; ``conf_apps/benchmark.yaml`` says what each means."""

    what: str = "study"
    study: str = "quick"
    against: list[str] = field(default_factory=lambda: list(PEERS))
    results_dir: str = "results"
    data_root: str | None = None
    device: str = "auto"
    threads: int | None = None
    out: str = "results/speed"
    rounds: int = 7
    rois: int = 100
    head: str | None = None
    augmentation: str | None = None
    heads: list[str] = field(default_factory=lambda: list(EIGHT))
    batch: int | None = None
    image: list[int] | None = None
    instances: int = 8
    classes: int | None = None
    precision: str | None = None
    compile: str | None = None
    images: int = 100
    workers: int | None = None
    iterations: int = 200

    def check(self) -> None:
        if self.what not in WHATS:
            raise unknown_name("what", self.what, WHATS)
        _is_study(self.study)
        for peer in self.against:
            if peer not in PEERS:
                raise unknown_name("against", peer, PEERS)
        if not self.heads or not all(self.heads) or len(set(self.heads)) < len(self.heads):
            raise UserError(f"heads=[{','.join(self.heads)}]: must be names in conf/head, one or more, each once")
        for key in ("head", "augmentation", "precision", "compile", "out"):
            _not_empty(key, getattr(self, key))
        for key in ("threads", "rounds", "rois", "batch", "instances", "images", "workers", "iterations"):
            if (value := getattr(self, key)) is not None:
                _at_least_one(key, value)
        if self.precision is not None and self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.compile is not None and self.compile.lower() not in COMPILE:
            raise unknown_name("compile", self.compile, COMPILE)
        if self.classes is not None and self.classes < 2:
            raise UserError(f"classes={self.classes}: must be 2 or more, the background included")
        if self.image is not None and (len(self.image) != 2 or min(self.image) < SMALLEST):
            given = ",".join(map(str, self.image))
            raise UserError(f"image=[{given}]: must be [height,width] in pixels, each {SMALLEST} or more")


@dataclass
class Data(App):
    """Keys of ``experiments.data`` beside those of a run; ``conf/data.yaml`` says what each means."""

    images: int = 12
    decode: Any = "all"  # or a number
    download: bool = False
    name: str | None = None

    def check(self) -> None:
        _at_least_one("images", self.images)
        if self.decode != "all" and (type(self.decode) is not int or self.decode < 1):
            raise UserError(f"decode={self.decode}: must be all, or how many images of each split, 1 or more")
        if self.name is not None:
            _is_folder("name", self.name, "a folder under results_dir/data")


SCHEMAS: dict[str, type[App]] = {
    "evaluate": Evaluate,
    "predict": Predict,
    "report": Report,
    "benchmark": Benchmark,
}

AnyApp = TypeVar("AnyApp", bound=App)


def register() -> None:
    """Make the schemas known to Hydra, so that a value of the wrong type is an error."""
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(f"schema_{name}", node=schema)
    # plain: it lies beside a run's schema, and one node has one type
    ConfigStore.instance().store("schema_data", node=asdict(Data()))


def to_config(cfg: DictConfig, schema: type[AnyApp]) -> AnyApp:
    """A composed configuration as its dataclass, checked."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, schema)
    config.check()
    return config


def _is_study(name: str) -> None:
    _is_folder("study", name, "a folder under results_dir, such as quick")


def _is_folder(key: str, name: str, what: str) -> None:
    if name in ("", ".", "..") or any(character in name for character in "/\\\0"):
        raise UserError(f"{key}={name}: must be the name of {what}")


def _at_least_one(key: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{key}={value}: must be 1 or more")


def _not_empty(key: str, value: str | None) -> None:
    if value == "":
        raise UserError(f"{key}= is empty: give it a value or leave it out")

"""The typed form of ``conf_apps/``: the keys of the small apps, and the values that they take."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from experiments.config.run import COMPILE
from instseg.errors import UserError, unknown_name
from instseg.evaluation import engine
from instseg.training.schedule import PRECISIONS

WHATS = ("study", *sorted(path.stem for path in Path(__file__).parents[1].glob("benchmark/cases/[!_]*.py")))
"""What ``experiments.benchmark`` can measure; all but ``study`` are files in ``experiments/benchmark/cases``."""
PEERS = ("torchvision", "detectron2")
EIGHT = ("fcn", "unet", "hourglass", "resnet_head", "smp", "unet_p2", "pointrend", "refinemask")
"""Heads that ``frozen_core`` trains at once where no others are named."""
SMALLEST = 32
"""Least height and width of a benchmark's images: one cell of the coarsest map of a backbone."""


def _number(default: Any, least: int = 1, note: str = "") -> Any:
    """A key that takes whole numbers from ``least`` on; the note ends the error."""
    return field(default=default, metadata={"least": least, "note": note})


def _choice(default: str | None, among: Sequence[str]) -> Any:
    """A key that takes one of some names."""
    return field(default=default, metadata={"among": tuple(among)})


def _folder(default: str | None, what: str) -> Any:
    """A key that takes the name of a folder, not a path."""
    return field(default=default, metadata={"folder": what})


@dataclass
class App:
    """What the apps share."""

    def check(self) -> None:
        """Raise a UserError of one line, which names the key and what would be right, before anything is read."""
        for key in fields(self):
            value, limits = getattr(self, key.name), key.metadata
            if value is None:
                continue
            given, values = f"{key.name}={value}", value if isinstance(value, list) else [value]
            if "folder" in limits and (value in ("", ".", "..") or not set("/\\\0").isdisjoint(value)):
                raise UserError(f"{given}: must be the name of {limits['folder']}")
            # an environment variable may be set to nothing
            if (value == "" and key.name != "data_root") or ("names" in limits and "" in values):
                raise UserError(f"{key.name}= is empty: give it a value or leave it out")
            if "names" in limits and not (values and all(isinstance(name, str) for name in values)):
                raise UserError(f"{given}: must be the name of {limits['names']}")
            if "least" in limits and value < limits["least"]:
                raise UserError(f"{given}: must be {limits['least']} or more{limits['note']}")
            for name in values if "among" in limits else []:
                if name not in limits["among"]:
                    raise unknown_name(key.name, name, limits["among"])


@dataclass
class Evaluate(App):
    """Keys of ``experiments.evaluate``."""

    annotations: str = MISSING
    predictions: Any = field(default=MISSING, metadata={"names": "a results file, or several: B,C"})
    output: str | None = None
    resamples: int = _number(1000, least=2, note="; 1000 is usual")
    seed: int = _number(0, least=0)
    engine: str = _choice(engine.DEFAULT, engine.ENGINES)

    def names(self) -> list[str]:
        """The results files."""
        return self.predictions if isinstance(self.predictions, list) else [self.predictions]

    def check(self) -> None:
        super().check()
        (name, count), *_ = Counter(self.names()).most_common(1)
        if count > 1:
            raise UserError(f"predictions={','.join(self.names())}: {name} is there twice")


@dataclass
class Predict(App):
    """Keys of ``experiments.predict``; ``conf_apps/predict.yaml`` says what each means."""

    input: str = MISSING
    run: Any = field(default=MISSING, metadata={"names": "a run or study, or several: A,B"})
    output: str | None = None
    recursive: bool = False
    score: float = 0.5
    max_side: int = _number(1600)
    max_pixels: int = _number(300_000_000)
    results_dir: str = "results"
    device: str = "auto"
    threads: int | None = _number(None)

    def names(self) -> list[str]:
        """The names of runs and studies."""
        return self.run if isinstance(self.run, list) else [self.run]

    def check(self) -> None:
        super().check()
        if not 0 <= self.score <= 1:
            raise UserError(f"score={self.score}: must be between 0 and 1")


@dataclass
class Report(App):
    """Keys of ``experiments.report``."""

    study: str = _folder(MISSING, "a folder under results_dir, such as quick")
    results_dir: str = "results"
    baseline: str | None = None
    resamples: int | None = _number(None)
    data_root: str | None = None
    publish: str | None = None
    publish_predictions: bool = False

    def check(self) -> None:
        super().check()
        if self.publish_predictions and self.publish is None:
            raise UserError("publish_predictions=true: give the folder, publish=results/reference/NAME")


@dataclass
class ErrorRates(App):
    """Keys of ``experiments.error_rates``; ``conf_apps/error_rates.yaml`` says what each means."""

    table: str = _choice("spreads", ("spreads", "verdicts", "tuning"))
    studies: int = _number(1000)
    out: str = "results/error_rates"


@dataclass
class Benchmark(App):
    """Keys of ``experiments.benchmark``; ``conf_apps/benchmark.yaml`` says what each means."""

    what: str = _choice("study", WHATS)
    study: str = _folder("quick", "a folder under results_dir, such as quick")
    against: list[str] = field(default_factory=lambda: list(PEERS), metadata={"among": PEERS})
    results_dir: str = "results"
    data_root: str | None = None
    device: str = "auto"
    threads: int | None = _number(None)
    out: str = "results/speed"
    rounds: int = _number(7)
    rois: int = _number(100)
    head: str | None = None
    augmentation: str | None = None
    heads: list[str] = field(default_factory=lambda: list(EIGHT))
    batch: int | None = _number(None)
    image: list[int] | None = None
    instances: int = _number(8)
    classes: int | None = _number(None, least=2, note=", the background included")
    precision: str | None = _choice(None, PRECISIONS)
    compile: str | None = None
    images: int = _number(100)
    workers: int | None = _number(None)
    iterations: int = _number(200)

    def check(self) -> None:
        super().check()
        # YAML's true and false come as True and False
        if self.compile is not None and self.compile.lower() not in COMPILE:
            raise unknown_name("compile", self.compile, COMPILE)
        if not self.heads or not all(self.heads) or len(set(self.heads)) < len(self.heads):
            raise UserError(f"heads=[{','.join(self.heads)}]: must be names in conf/head, one or more, each once")
        if self.image is not None and (len(self.image) != 2 or min(self.image) < SMALLEST):
            given = ",".join(map(str, self.image))
            raise UserError(f"image=[{given}]: must be [height,width] in pixels, each {SMALLEST} or more")


@dataclass
class Data(App):
    """Keys of ``experiments.data`` beside those of a run; ``conf/data.yaml`` says what each means."""

    images: int = _number(12)
    decode: Any = "all"  # or a number
    download: bool = False
    name: str | None = _folder(None, "a folder under results_dir/data")

    def check(self) -> None:
        super().check()
        if self.decode != "all" and (type(self.decode) is not int or self.decode < 1):
            raise UserError(f"decode={self.decode}: must be all, or how many images of each split, 1 or more")


@dataclass
class GivenSpreads:
    """Keys ``spread.*``, which take the place of a pilot's; :class:`instseg.statistics.power.Spreads` says what each
    is."""

    images: float | None = None
    training: float | None = None
    seed_images: float | None = None
    training_set: float | None = None


@dataclass
class Plan(App):
    """Keys of ``experiments.plan`` beside those of a run; ``conf/plan.yaml`` says what each means."""

    detect: float = 1.0
    power: float = 0.8
    pilot: str | None = _folder(None, "a folder under results_dir, such as quick")
    spread: GivenSpreads = field(default_factory=GivenSpreads)
    images: int | None = _number(None, least=2)
    max_seeds: int = _number(10, least=2)
    baseline_seeds: int | None = _number(None, least=2)
    hours: float | None = None
    freeze: bool = False

    def given_spreads(self) -> dict[str, Any]:
        """The spreads that are given, by name."""
        return {key: value for key, value in vars(self.spread).items() if value is not None}

    def check(self) -> None:
        super().check()
        for key, value in {"detect": self.detect, "hours": self.hours}.items():
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{key}={value:g}: must be above 0")
        if not 0 < self.power < 1:
            raise UserError(f"power={self.power:g}: must be a probability between 0 and 1, such as 0.8")
        for key, value in self.given_spreads().items():
            if not 0 <= value < math.inf:
                raise UserError(f"spread.{key}={value:g}: must be a standard deviation in AP points, 0 or more")


SCHEMAS: dict[str, type[App]] = {
    "error_rates": ErrorRates,
    **{schema.__name__.lower(): schema for schema in (Evaluate, Predict, Report, Benchmark, Data, Plan)},
}
AnyApp = TypeVar("AnyApp", bound=App)


def register() -> None:
    """Make the schemas known to Hydra, so that a value of the wrong type is an error."""
    for name, schema in SCHEMAS.items():
        # those of data and plan are plain: they lie beside a run's schema, and one node has one type
        ConfigStore.instance().store(f"schema_{name}", node=asdict(schema()) if schema in (Data, Plan) else schema)


def to_config(cfg: DictConfig, schema: type[AnyApp]) -> AnyApp:
    """A composed configuration as its dataclass, checked."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, schema)
    config.check()
    return config


def take_own(cfg: DictConfig, schema: type[AnyApp]) -> AnyApp:
    """Take an app's keys out of a configuration that has them beside those of a run."""
    with open_dict(cfg):
        values = {key.name: cfg.pop(key.name) for key in fields(schema)}
    merged = OmegaConf.merge(OmegaConf.structured(schema), values)
    assert isinstance(merged, DictConfig)
    return to_config(merged, schema)

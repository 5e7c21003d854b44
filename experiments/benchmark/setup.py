"""What a benchmark runs on: a study's configuration with the user's changes, and a model with random weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from experiments.benchmark import random_data, reference_models, weights
from experiments.config import checks, control, run
from experiments.config.apps import Benchmark
from experiments.config.run import Config
from experiments.runs.end_to_end import build_model, prepare, wants_compiling
from instseg import progress, timing
from instseg.data.batches.loader import Batch, to_unit
from instseg.detector import MaskRCNN
from instseg.errors import DataError


@dataclass(frozen=True)
class Setup:
    """What a benchmark runs on."""

    options: Benchmark
    config: Config
    """The study's, with the changes that the options make."""
    device: torch.device

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images, in pixels."""
        height, width = self.options.image or control.image_size(self.config)
        return height, width

    @cached_property
    def classes(self) -> int:
        """Number of classes, the background included."""
        if self.options.classes is not None:
            return self.options.classes
        try:
            return self.config.make_dataset("val").num_classes
        except DataError as error:
            raise DataError(f"classes=N must be given where the study's data can't be read: {error}") from error

    @cached_property
    def batch(self) -> Batch:
        """A random training batch, on the CPU."""
        return random_data.batch(self.size, self.config.schedule.batch_size, self.options.instances, self.classes)

    @cached_property
    def images(self) -> list[torch.Tensor]:
        """The batch's images as a detector takes them: (3, H, W) in [0, 1], on the device."""
        return [to_unit(image, self.device) for image in self.batch[0]]

    @property
    def compiles(self) -> bool:
        """Whether our model is compiled; peers are not."""
        return wants_compiling(self.config, self.device)

    @property
    def about_size(self) -> dict[str, Any]:
        """The size of the images, for ``BenchmarkResult.measured``."""
        return {"height": self.size[0], "width": self.size[1]}

    @property
    def about_execution(self) -> dict[str, Any]:
        """Precision and compilation, for ``BenchmarkResult.measured``."""
        return {"precision": self.config.schedule.precision, "compiled": "yes" if self.compiles else "no"}

    def head_config(self, name: str) -> Config:
        """The study's configuration with a head of ``conf/head``, its control found."""
        return control.resolved(load(self.options.study, f"head={name}"), lambda: self.classes)

    def time(self, work: Mapping[str, Callable[[], Any]], device: torch.device | None = None) -> dict[str, list[float]]:
        """Seconds a call of each piece of work in alternating rounds, as many as the user asked for.

        Args:
            work: name -> what is timed.
            device: where it runs; None: :attr:`device`, once compilation and the choice of kernels have ended.
        """
        if device is None and (self.compiles or self.device.type == "cuda"):
            for call in progress.bar(iterable=[*work.values()] * 3, desc="warm up", unit="call"):
                call()
        return timing.alternating(work, rounds=self.options.rounds, device=device or self.device, budget=math.inf)

    def peak_mib(self, call: Callable[[], Any], held: int = 0) -> float:
        """Peak memory of a call in MiB, with ``held`` bytes that were there before."""
        return timing.peak_memory(call, self.device, held) / 2**20

    def model(self) -> MaskRCNN:
        """The study's model, not compiled, with the random weights of :func:`experiments.benchmark.weights.scale`."""
        untrained = replace(self.config, trunk=replace(self.config.trunk, weights=None))
        model = build_model(untrained, self.classes).to(self.device).to(memory_format=torch.channels_last)
        reference = reference_models.faster_rcnn(model, self.config, self.classes).to(self.device)
        weights.scale(model, reference, self.images)
        return model


def make(options: Benchmark) -> Setup:
    """Compose the study's configuration and change it by the user's keys.

    Raises:
        UserError, HydraException: there is no such study or head, or the study can't take a key.
    """
    groups = {"head": options.head, "augmentation": options.augmentation}
    config = load(options.study, *(f"{group}={name}" for group, name in groups.items() if name))
    config.data_root, config.runtime.device = options.data_root, options.device
    # the study's number of threads may be for several runs in parallel
    config.runtime.threads = options.threads
    config.runtime.compile = options.compile or config.runtime.compile
    config.schedule.batch_size = options.batch or config.schedule.batch_size
    config.schedule.precision = options.precision or config.schedule.precision
    if options.image is not None:
        # so that no implementation resizes anything
        dataset = config.dataset
        dataset.min_size, dataset.max_size = min(options.image), max(options.image)
        dataset.train_min_size, dataset.train_max_size = [dataset.min_size], dataset.max_size
    checks.check(config)
    setup = Setup(options, config, prepare(config))
    return replace(setup, config=control.resolved(config, lambda: setup.classes))


def load(study: str, *overrides: str) -> Config:
    """A study's configuration from ``conf/study``."""
    run.register()
    # Hydra is initialised with the files of the app, and refuses others until it is cleared
    GlobalHydra.instance().clear()
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return run.to_config(compose("config", overrides=[f"study={study}", *overrides]))

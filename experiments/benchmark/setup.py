"""What a benchmark runs on: a study's configuration with the user's changes, and a model with random weights."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from experiments.benchmark import random_data, reference_models, weights
from experiments.config import checks, control, run
from experiments.config.apps import Benchmark
from experiments.config.run import Config
from experiments.runs.end_to_end import build_model, prepare, wants_compiling
from instseg.data.batches.loader import Batch, to_unit
from instseg.detector import MaskRCNN
from instseg.errors import DataError


@dataclass(frozen=True)
class Setup:
    """One benchmark.

    Attributes:
        options: what the user asked for.
        config: the study's configuration with these changes.
        device: where everything runs.
    """

    options: Benchmark
    config: Config
    device: torch.device

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images, in pixels."""
        if self.options.image is not None:
            height, width = self.options.image
            return height, width
        return control.image_size(self.config)

    @cached_property
    def classes(self) -> int:
        """Number of classes, the background included."""
        if self.options.classes is not None:
            return self.options.classes
        try:
            return self.config.make_dataset("val").num_classes
        except DataError as error:
            raise DataError(f"classes=N must be given where the study's data is not at hand: {error}") from error

    @cached_property
    def batch(self) -> Batch:
        """One random training batch, on the CPU."""
        count = self.config.schedule.batch_size
        return random_data.batch(self.size, count, self.options.instances, self.classes)

    @cached_property
    def images(self) -> list[torch.Tensor]:
        """The batch's images as a detector takes them: (3, H, W) in [0, 1], on the device."""
        return [to_unit(image, self.device) for image in self.batch[0]]

    @property
    def compiles(self) -> bool:
        """Whether ours is compiled; peers run as they come."""
        return wants_compiling(self.config, self.device)

    def model(self) -> MaskRCNN:
        """The study's model, not yet compiled, its random weights scaled by
        :func:`experiments.benchmark.weights.scale`."""
        untrained = replace(self.config, trunk=replace(self.config.trunk, weights=None))
        model = build_model(untrained, self.classes).to(self.device).to(memory_format=torch.channels_last)
        reference = reference_models.faster_rcnn(model, self.config, self.classes).to(self.device)
        weights.scale(model, reference, self.images)
        return model


def make(options: Benchmark) -> Setup:
    """Compose the study and put the user's keys into it.

    Raises:
        UserError, HydraException: no such study or head, or a key that the study can't take.
    """
    chosen = {"head": options.head, "augmentation": options.augmentation}
    one = load(options.study, *(f"{group}={name}" for group, name in chosen.items() if name))
    one.data_root, one.runtime.device = options.data_root, options.device
    # a study's own number may be for several runs side by side
    one.runtime.threads = options.threads
    if options.batch is not None:
        one.schedule.batch_size = options.batch
    if options.precision is not None:
        one.schedule.precision = options.precision
    if options.compile is not None:
        one.runtime.compile = options.compile
    if options.image is not None:
        # so that no implementation resizes anything
        one.dataset.min_size, one.dataset.max_size = min(options.image), max(options.image)
        one.dataset.train_min_size, one.dataset.train_max_size = [one.dataset.min_size], one.dataset.max_size
    checks.check(one)
    setup = Setup(options, one, prepare(one))
    return replace(setup, config=control.resolved(one, lambda: setup.classes))


def load(study: str, *overrides: str) -> Config:
    """A study's configuration as of ``conf/study``."""
    run.register()
    # an app's own files are what Hydra is at work on
    GlobalHydra.instance().clear()
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return run.to_config(compose("config", overrides=[f"study={study}", *overrides]))

"""A training step of several heads at once on a frozen core, and of each of them end to end."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from experiments.benchmark.calls import fixed_optimizer, training_step
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup, load
from experiments.config import control
from experiments.config.run import Config
from experiments.runs.end_to_end import build_model
from instseg import progress
from instseg.detector import MaskRCNN
from instseg.training import frozen_core
from instseg.training.step import split

GOAL = 0.25
"""The largest ratio that eight heads on R50-FPN at 800 pixels should have."""
SHARES = (1.0, 0.5, 0.25)
"""Numbers of RoIs that are timed, as shares of the most that an image may have."""
TOUCHING = 1e-6
"""IoU from which a proposal is positive here, so that enough of the random ones are."""


def measure(setup: Setup) -> BenchmarkResult:
    """Rows for each number of RoIs: an end-to-end step of every head, one after the other; a step of all heads at once;
    the same and a step of the core's own training. Then the end-to-end step of each head with the most RoIs.

    The more RoIs there are, the larger is the heads' part of a step, and the less a shared trunk saves.
    """
    detector = replace(setup.config.detector, box_fg_iou_thresh=TOUCHING, box_bg_iou_thresh=TOUCHING)
    setup = replace(setup, config=replace(setup.config, detector=detector))
    configs = {name: _config(setup, name) for name in setup.options.heads}
    trained_core, fixed_core = setup.model(), setup.model()
    apart_models = _models(setup, configs, trained_core)
    shared_models = _models(setup, configs, fixed_core)
    for model in shared_models.values():
        frozen_core.freeze(model)
    if setup.compiles:
        for core_model, models in ((trained_core, apart_models), (fixed_core, shared_models)):
            core_model.compile_layers()
            for model in models.values():
                model.mask_head.compile()
    core, together = "the core", f"{len(shared_models)} heads at once, frozen_core"
    steps = {
        f"{name}, end_to_end": _end_to_end(setup, model) for name, model in {core: trained_core, **apart_models}.items()
    }
    steps[together] = _at_once(setup, list(shared_models.values()))
    # with too few proposals, two fractions give the same number of RoIs
    fractions = {
        _count_rois(setup, fixed_core, fraction): fraction
        for fraction in (detector.box_positive_fraction * share for share in SHARES)
    }
    work = {
        f"{rois} RoIs: {name}": _with_fraction(fraction, fixed_core if name == together else trained_core, call)
        for rois, fraction in fractions.items()
        for name, call in steps.items()
    }
    if setup.compiles or setup.device.type == "cuda":
        # compilation and the choice of kernels end before the clock starts
        for call in progress.bar(iterable=[*work.values()] * 3, desc="warm up", unit="step"):
            call()
    seconds = setup.time(work)

    images = len(setup.batch[0])
    rows = []
    for rois in fractions:
        apart, at_once = f"{rois} RoIs: {len(configs)} heads apart, end_to_end", f"{rois} RoIs: {together}"
        with_core = f"{at_once}, and the core's training"
        seconds[apart] = _sums(seconds[f"{rois} RoIs: {name}, end_to_end"] for name in configs)
        seconds[with_core] = _sums([seconds[at_once], seconds[f"{rois} RoIs: {core}, end_to_end"]])
        rows += [Row(name, seconds[name], images, apart) for name in (apart, at_once, with_core)]
    alone = [f"{max(fractions)} RoIs: {name}, end_to_end" for name in configs]
    rows += [Row(name, seconds[name], images) for name in alone]
    measured = {
        "heads": " ".join(configs),
        "images": images,
        "rois": " ".join(map(str, fractions)),
        **setup.about_size,
        "classes": setup.classes,
        "trunk": setup.config.trunk.name,
        **setup.about_execution,
    }
    note = f"The goal for eight heads, resnet50 and 800 pixels: at most {GOAL} times as long as apart."
    return BenchmarkResult(rows, "images", measured, [note])


def _sums(rounds: Iterable[list[float]]) -> list[float]:
    """The seconds of several pieces of work together, round by round."""
    return [sum(times) for times in zip(*rounds, strict=True)]


def _with_fraction(fraction: float, detector: MaskRCNN, call: Callable[[], Any]) -> Callable[[], Any]:
    """A step in which at most this fraction of the sampled proposals is positive."""

    def work() -> Any:
        detector.options.box_positive_fraction = fraction
        return call()

    return work


def _count_rois(setup: Setup, detector: MaskRCNN, fraction: float) -> int:
    """Number of RoIs of the whole batch at this fraction."""
    frozen_core.training_mode(detector)
    detector.options.box_positive_fraction = fraction
    torch.manual_seed(0)
    return sum(len(detector.rois(*part)[0]) for part in split(setup.batch, setup.config.make_schedule(), setup.device))


def _config(setup: Setup, name: str) -> Config:
    config = control.resolved(load(setup.options.study, f"head={name}"), num_classes=lambda: setup.classes)
    return replace(setup.config, head=config.head, trunk=replace(setup.config.trunk, weights=None))


def _models(setup: Setup, configs: dict[str, Config], core: MaskRCNN) -> dict[str, MaskRCNN]:
    models = {}
    for name, config in configs.items():
        model = build_model(config, setup.classes).to(setup.device).to(memory_format=torch.channels_last)
        frozen_core.share_core(model, core)
        models[name] = model
    return models


def _end_to_end(setup: Setup, model: MaskRCNN) -> Callable[[], Any]:
    schedule = setup.config.make_schedule()
    optimizer = fixed_optimizer(schedule, model)
    step = training_step(model, optimizer, schedule, setup.batch, setup.device)

    def work() -> None:
        step()
        optimizer.zero_grad(set_to_none=True)

    return work


def _at_once(setup: Setup, models: list[MaskRCNN]) -> Callable[[], Any]:
    schedule = setup.config.make_schedule()
    optimizers = [fixed_optimizer(schedule, model) for model in models]

    def work() -> None:
        for model in models:
            frozen_core.training_mode(model)
        results = frozen_core.step(models, optimizers, schedule, setup.batch, setup.device, seed=0, iteration=0)
        for losses in results:
            if isinstance(losses, FloatingPointError):
                raise losses
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)

    return work

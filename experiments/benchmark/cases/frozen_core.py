"""Training steps of several heads at once on a frozen core, against the end-to-end trainings that they replace."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup, load
from experiments.config import control
from experiments.config.run import Config
from experiments.runs.end_to_end import build_model
from instseg import progress, timing
from instseg.detector import MaskRCNN
from instseg.training import frozen_core
from instseg.training.loop import split, step

GOAL = 0.25
"""The largest ratio that eight heads on R50-FPN at 800 pixels should have."""
SHARES = (1.0, 0.5, 0.25)
"""Of the RoIs that an image may have, the part that it has."""
TOUCHING = 1e-6
"""IoU from which a proposal is a positive here, so that random ones are enough of both kinds."""


def measure(setup: Setup) -> BenchmarkResult:
    """Rows for each number of RoIs: one step of every head end to end, one after the other; one step of all of them at
    once; the same and a step of the core's own training. Then each head's end-to-end step with the most RoIs.

    An image has as many RoIs as the study allows, or a share of them. The more there are, the larger is the heads'
    part of a step, and the less one trunk for all of them saves.
    """
    full = replace(setup.config.detector, box_fg_iou_thresh=TOUCHING, box_bg_iou_thresh=TOUCHING)
    setup = replace(setup, config=replace(setup.config, detector=full))
    configs = {name: _config(setup, name) for name in setup.options.heads}
    learning, still = setup.model(), setup.model()
    own = _models(setup, configs, learning)
    shared = _models(setup, configs, still)
    for model in shared.values():
        frozen_core.freeze(model)
    if setup.compiles:
        for one, models in ((learning, own), (still, shared)):
            one.compile_layers()
            for model in models.values():
                model.mask_head.compile()
    core, together = "the core", f"{len(shared)} heads at once, frozen_core"
    steps = {f"{name}, end_to_end": _end_to_end(setup, model) for name, model in {core: learning, **own}.items()}
    steps[together] = _at_once(setup, list(shared.values()))
    # where there are too few proposals for it, two shares are of one number
    fractions = {_rois(setup, still, one): one for one in (full.box_positive_fraction * share for share in SHARES)}
    work = {
        f"{rois} RoIs: {name}": _learning_from(fraction, still if name == together else learning, call)
        for rois, fraction in fractions.items()
        for name, call in steps.items()
    }
    if setup.compiles or setup.device.type == "cuda":
        # compilers and choosers of kernels are done before the clock runs
        for call in progress.bar(iterable=[*work.values()] * 3, desc="warm up", unit="step"):
            call()
    seconds = timing.alternating(work, rounds=setup.options.rounds, device=setup.device, budget=math.inf)

    images = len(setup.batch[0])
    rows = []
    for rois in fractions:
        apart, at_once = f"{rois} RoIs: {len(own)} heads apart, end_to_end", f"{rois} RoIs: {together}"
        with_core = f"{at_once}, and the core's training"
        each = [seconds[f"{rois} RoIs: {name}, end_to_end"] for name in own]
        seconds[apart] = [sum(times) for times in zip(*each, strict=True)]
        of_core = seconds[f"{rois} RoIs: {core}, end_to_end"]
        seconds[with_core] = [sum(times) for times in zip(seconds[at_once], of_core, strict=True)]
        rows += [Row(name, seconds[name], images, apart) for name in (apart, at_once, with_core)]
    most = max(fractions)
    rows += [Row(f"{most} RoIs: {one}, end_to_end", seconds[f"{most} RoIs: {one}, end_to_end"], images) for one in own]
    measured = {
        "heads": " ".join(own),
        "images": images,
        "rois": " ".join(map(str, fractions)),
        "height": setup.size[0],
        "width": setup.size[1],
        "classes": setup.classes,
        "trunk": setup.config.trunk.name,
        "precision": setup.config.schedule.precision,
        "compiled": "yes" if setup.compiles else "no",
    }
    note = f"The goal for eight heads, resnet50 and 800 pixels: at most {GOAL} times as long as apart."
    return BenchmarkResult(rows, "images", measured, [note])


def _learning_from(fraction: float, detector: MaskRCNN, call: Callable[[], Any]) -> Callable[[], Any]:
    """A step in which at most this part of the drawn proposals is positive."""

    def work() -> Any:
        detector.options.box_positive_fraction = fraction
        return call()

    return work


def _rois(setup: Setup, still: MaskRCNN, fraction: float) -> int:
    """How many RoIs the batch then has, all images together."""
    frozen_core.training_mode(still)
    still.options.box_positive_fraction = fraction
    torch.manual_seed(0)
    return sum(len(still.rois(*part)[0]) for part in split(setup.batch, setup.config.make_schedule(), setup.device))


def _config(setup: Setup, name: str) -> Config:
    chosen = control.resolved(load(setup.options.study, f"head={name}"), num_classes=lambda: setup.classes)
    trunk = replace(setup.config.trunk, weights=None)
    return replace(setup.config, head=chosen.head, trunk=trunk)


def _models(setup: Setup, configs: dict[str, Config], core: MaskRCNN) -> dict[str, MaskRCNN]:
    models = {}
    for name, config in configs.items():
        model = build_model(config, setup.classes).to(setup.device).to(memory_format=torch.channels_last)
        frozen_core.share_core(model, core)
        models[name] = model
    return models


def _optimizer(setup: Setup, model: MaskRCNN) -> torch.optim.Optimizer:
    optimizer = setup.config.make_schedule().make_optimizer(model)
    # the weights stay as they are, so that every step is like the first
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer


def _end_to_end(setup: Setup, model: MaskRCNN) -> Callable[[], Any]:
    optimizer, schedule = _optimizer(setup, model), setup.config.make_schedule()

    def work() -> None:
        model.train()
        torch.manual_seed(0)
        step(model, optimizer, schedule, setup.batch, setup.device)
        optimizer.zero_grad(set_to_none=True)

    return work


def _at_once(setup: Setup, models: list[MaskRCNN]) -> Callable[[], Any]:
    optimizers, schedule = [_optimizer(setup, model) for model in models], setup.config.make_schedule()

    def work() -> None:
        for model in models:
            frozen_core.training_mode(model)
        found = frozen_core.step(models, optimizers, schedule, setup.batch, setup.device, seed=0, iteration=0)
        for losses in found:
            if isinstance(losses, FloatingPointError):
                raise losses
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)

    return work

"""A training step of several heads at once on a frozen core, and of each of them end to end."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from experiments.benchmark.calls import fixed_optimizer, frozen_core_step, training_step
from experiments.benchmark.outcome import BenchmarkResult, Row
from experiments.benchmark.setup import Setup
from experiments.runs.end_to_end import build_model
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
    schedule = setup.config.make_schedule()
    names = setup.options.heads
    trained_core, fixed_core = setup.model(), setup.model()
    apart_models, shared_models = _models(setup, trained_core), _models(setup, fixed_core)
    for model in shared_models:
        frozen_core.freeze(model)
    if setup.compiles:
        for core_model, models in ((trained_core, apart_models), (fixed_core, shared_models)):
            core_model.compile_layers()
            for model in models:
                model.mask_head.compile()
    core, together = "the core", f"{len(names)} heads at once, frozen_core"
    steps = {}
    for name, model in zip([core, *names], [trained_core, *apart_models], strict=True):
        optimizer = fixed_optimizer(schedule, model)
        steps[f"{name}, end_to_end"] = training_step(model, optimizer, schedule, setup.batch, setup.device)
    optimizers = [fixed_optimizer(schedule, model) for model in shared_models]
    steps[together] = frozen_core_step(shared_models, optimizers, schedule, setup.batch, setup.device)
    # with too few proposals, two fractions give the same number of RoIs
    fractions = {
        _count_rois(setup, fixed_core, fraction): fraction
        for fraction in (detector.box_positive_fraction * share for share in SHARES)
    }
    seconds = setup.time(
        {
            f"{rois} RoIs: {name}": _with_fraction(fraction, fixed_core if name == together else trained_core, step)
            for rois, fraction in fractions.items()
            for name, step in steps.items()
        }
    )
    images = len(setup.batch[0])
    rows = []
    for rois in fractions:
        apart, at_once = f"{rois} RoIs: {len(names)} heads apart, end_to_end", f"{rois} RoIs: {together}"
        with_core = f"{at_once}, and the core's training"
        # round by round
        seconds[apart] = np.sum([seconds[f"{rois} RoIs: {name}, end_to_end"] for name in names], axis=0).tolist()
        seconds[with_core] = np.add(seconds[at_once], seconds[f"{rois} RoIs: {core}, end_to_end"]).tolist()
        rows += [Row(name, seconds[name], images, apart) for name in (apart, at_once, with_core)]
    lone = [f"{max(fractions)} RoIs: {name}, end_to_end" for name in names]
    rows += [Row(name, seconds[name], images) for name in lone]
    measured = {
        "heads": " ".join(names),
        "images": images,
        "rois": " ".join(map(str, fractions)),
        **setup.about_size,
        "classes": setup.classes,
        "trunk": setup.config.trunk.name,
        **setup.about_execution,
    }
    note = f"The goal for eight heads, resnet50 and 800 pixels: at most {GOAL} times as long as apart."
    return BenchmarkResult(rows, "images", measured, [note])


def _with_fraction(fraction: float, detector: MaskRCNN, step: Callable[[], Any]) -> Callable[[], Any]:
    """A step in which at most this fraction of the sampled proposals is positive."""

    def call() -> Any:
        detector.options.box_positive_fraction = fraction
        return step()

    return call


def _count_rois(setup: Setup, detector: MaskRCNN, fraction: float) -> int:
    """Number of RoIs of the whole batch at this fraction."""
    frozen_core.training_mode(detector)
    detector.options.box_positive_fraction = fraction
    torch.manual_seed(0)
    return sum(len(detector.rois(*part)[0]) for part in split(setup.batch, setup.config.make_schedule(), setup.device))


def _models(setup: Setup, core: MaskRCNN) -> list[MaskRCNN]:
    """A model with the core and each head."""
    models = []
    untrained = replace(setup.config.trunk, weights=None)
    for name in setup.options.heads:
        config = replace(setup.config, head=setup.head_config(name).head, trunk=untrained)
        model = build_model(config, setup.classes).to(setup.device).to(memory_format=torch.channels_last)
        frozen_core.share_core(model, core)
        models.append(model)
    return models

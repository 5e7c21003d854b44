"""Checks of a run's configuration, made before anything is loaded or trained."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter

import torch

from experiments.config.run import COMPILE, CORE_HEADS, PROTOCOLS, Config, torch_device
from experiments.config.trials import MULTIPLES
from heads._blocks import NORMS
from instseg import data, detector, transfer
from instseg.errors import UserError, unknown_name
from instseg.evaluation import engine

LEAST = {
    **dict.fromkeys(("seed", "tuning", "runtime.workers", "runtime.evaluate_every"), 0),
    **dict.fromkeys(("runtime.jobs", "runtime.threads", "runtime.log_every", "runtime.checkpoint_every"), 1),
    **dict.fromkeys(("evaluation.batch_size", "evaluation.resamples", "trunk.out_channels"), 1),
    "tuning_space.iterations": 1,
    **dict.fromkeys(("dataset.inner_parts", "tuning_space.inner_parts"), 2),
}
"""Smallest values of keys that are whole numbers, or None."""


def check(config: Config) -> None:
    """Raise a UserError of one line, which names the key and what would be right."""
    names = {
        "protocol": PROTOCOLS,
        "core_head": CORE_HEADS,
        "dataset.name": data.names(),
        "evaluation.engine": engine.ENGINES,
    }
    for key, known in names.items():
        if (name := attrgetter(key)(config)) not in known:
            raise unknown_name(key, name, known)
    data.check_files(config.dataset.name, config.dataset.files())
    _check_ranges(config)
    _check_tuning(config)
    _check_transfer(config)
    _check_augmentation(config)
    _check_contrasts(config)
    if config.trunk.norm == "frozen" and config.trunk.weights is None and not config.transferred():
        raise UserError(
            "trunk.norm=frozen needs trunk.weights, or init: statistics of no data can't be frozen; "
            "from scratch use trunk.norm=batch trunk.trainable_layers=null"
        )
    if config.trunk.name in detector.trunk.names() and config.trunk.weights is not None and not config.transferred():
        detector.trunk.find_weights(config.trunk.name, config.trunk.weights)
    # given as true or false, YAML makes booleans of them, which come here as True and False
    if config.runtime.compile.lower() not in COMPILE:
        raise unknown_name("runtime.compile", config.runtime.compile, COMPILE)
    torch_device(config.runtime.device)
    with torch.device("meta"):
        detector.trunk.build(**vars(replace(config.trunk, weights=None, out_channels=8)))
        config.make_head(num_classes=2)


@contextmanager
def errors_of(key: str) -> Iterator[None]:
    """Put the key before errors, which begin with its value."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}={error}") from error


def _check_tuning(config: Config) -> None:
    space = config.tuning_space
    if config.tuning and "pull" in (config.control, config.head.control):
        raise UserError(f"tuning={config.tuning}: control=pull sets the weight of the loss, which tuning would change")
    for key in MULTIPLES:
        bounds = getattr(space, key)
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < math.inf:
            raise UserError(f"tuning_space.{key}={bounds}: must be [low,high], both above 0")
    if not space.norms:
        raise UserError("tuning_space.norms=[]: at least one is needed")
    for norm in space.norms:
        if norm not in NORMS:
            raise unknown_name("tuning_space.norms", norm, NORMS)
    for key, known in {"choice": ("each_fold", "first_fold"), "score": ("mask_AP", "gt_box_IoU")}.items():
        if (value := getattr(space, key)) not in known:
            raise unknown_name(f"tuning_space.{key}", value, known)


def _check_transfer(config: Config) -> None:
    if config.core is not None and config.protocol != "frozen_core":
        raise UserError(
            f"core={config.core}: only protocol=frozen_core has a core; to go on training from these weights give "
            f"init={config.core}"
        )
    if config.core is not None and config.core_head != "fcn":
        raise UserError(f"core_head={config.core_head}: core={config.core} is a core already, which is not trained")
    if config.protocol != "frozen_core" and config.core_head != "fcn":
        raise UserError(f"core_head={config.core_head}: only protocol=frozen_core has a core")
    for key, given in config.transferred().items():
        with errors_of(key):
            transfer.find(given)


def _check_ranges(config: Config) -> None:
    sizes = config.detector.anchor_sizes
    if len(sizes) != 5:
        raise UserError(f"detector.anchor_sizes: one list a level P2..P6, five in all, not {len(sizes)}")
    if not all(sizes) or min(map(min, sizes)) < 1:
        raise UserError("detector.anchor_sizes: each level needs one or more, 1 pixel or larger")
    if not config.detector.anchor_ratios or min(config.detector.anchor_ratios) <= 0:
        raise UserError(f"detector.anchor_ratios={config.detector.anchor_ratios}: one or more, each above 0")
    d = config.dataset
    if not d.train_min_size or min(*d.train_min_size, d.min_size) < 32:
        raise UserError("dataset.train_min_size and dataset.min_size: at least one size each, 32 pixels or more")
    if d.max_size < d.min_size or d.train_max_size < max(d.train_min_size):
        raise UserError("dataset.max_size and dataset.train_max_size: at least the size of the short side")
    detector_keys = {f"detector.{key}": value for key, value in vars(config.detector).items()}
    numbers = [key for key, value in detector_keys.items() if type(value) is int]
    for key, low in {**LEAST, **dict.fromkeys(numbers, 1)}.items():
        value = attrgetter(key)(config)
        if value is not None and value < low:
            raise UserError(f"{key}={value}: must be {low} or more")
    fractions = [f"augmentation.{key}" for key in ("flip", "vertical_flip", "photometric", "jpeg", "copy_paste")]
    weight = detector_keys.pop("detector.mask_loss_weight")
    if not 0 <= weight < math.inf:
        raise UserError(f"detector.mask_loss_weight={weight}: must be 0 or more")
    fractions += ["augmentation.min_visible", *(key for key, value in detector_keys.items() if type(value) is float)]
    for key in fractions:
        if not 0 <= (value := attrgetter(key)(config)) <= 1:
            raise UserError(f"{key}={value}: must be between 0 and 1")
    for part in ("rpn", "box"):
        high, low = (getattr(config.detector, f"{part}_{kind}_iou_thresh") for kind in ("fg", "bg"))
        if high < low:
            raise UserError(
                f"detector.{part}_fg_iou_thresh={high}: must be at least detector.{part}_bg_iou_thresh={low}"
            )


def _check_augmentation(config: Config) -> None:
    a = config.augmentation
    if a.scale is not None and not (len(a.scale) == 2 and 0 < a.scale[0] <= a.scale[1] < math.inf):
        raise UserError(f"augmentation.scale={a.scale}: must be [low,high], both above 0, or null")
    if a.scale is not None and a.crop is None and a.scale[1] > 1:
        raise UserError(f"augmentation.scale={a.scale}: above 1 only with augmentation.crop, which bounds the images")
    if a.crop is not None and a.crop < 32:
        raise UserError(f"augmentation.crop={a.crop}: must be 32 pixels or more, or null")
    if len(a.jpeg_quality) != 2 or not 1 <= a.jpeg_quality[0] <= a.jpeg_quality[1] <= 100:
        raise UserError(f"augmentation.jpeg_quality={a.jpeg_quality}: must be [low,high], from 1 to 100")
    if a.min_area < 1:
        raise UserError(f"augmentation.min_area={a.min_area}: must be 1 or more")


def _check_contrasts(config: Config) -> None:
    if not 0 < config.study.margin < math.inf:
        raise UserError(f"study.margin={config.study.margin:g}: must be above 0, in AP points")
    pairs = [(contrast.variant, contrast.rival) for contrast in config.study.contrasts]
    for variant, rival in pairs:
        if not variant or not rival or variant == rival:
            raise UserError(f"study.contrasts: {variant!r} against {rival!r}: must be the names of two variants")
        if pairs.count((variant, rival)) + pairs.count((rival, variant)) > 1:
            raise UserError(f"study.contrasts: {variant} against {rival} is there twice")

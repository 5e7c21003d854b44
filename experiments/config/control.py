"""Controls: an FCN of the cost of another head, to tell whether that head is better only because it is bigger.

``control=params`` or ``control=flops`` replaces the chosen head by the FCN of as many parameters, or FLOPs. Its depth
and width are found here and written into the run's configuration. ``control=pull``, which needs training, is in
:mod:`experiments.runs.pull_control`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import heads
from experiments.config.groups import Head
from experiments.config.run import CONTROLS, Config
from instseg import timing
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import UserError, unknown_name

TOLERANCE = 0.02
MOST_CONVS, MOST_WIDTH = 16, 4096
ROIS = 100
"""RoIs that heads which also read whole maps share them among."""
META = torch.device("meta")
UNITS = {"params": "parameters", "flops": "FLOPs per RoI"}


def resolved(config: Config, num_classes: Callable[[], int] | None = None) -> Config:
    """The configuration with its control in the head's place, where it asks for one; else the same.

    Args:
        config: a checked configuration.
        num_classes: gives the background and the classes; None: the data set is asked.

    Raises:
        UserError: no FCN matches, the head is that FCN itself, the data set can't be read, or the control is one that
            needs training.
    """
    by = kind(config)
    if by == "none":
        return config
    if by == "pull":
        raise UserError("control=pull is found by training: only experiments.sweep and experiments.train take it")
    classes = config.make_dataset("val").num_classes if num_classes is None else num_classes()
    return replace(config, control="none", head=_matching(config, by, classes))


def kind(config: Config) -> str:
    """Which control a configuration asks for; ``none`` where it asks for none. A UserError for an unknown one."""
    by = config.head.control or config.control
    if by not in CONTROLS:
        raise unknown_name("control", by, CONTROLS)
    return by


def _matching(config: Config, by: str, classes: int) -> Head:
    head = config.head
    rois = timing.random_rois(config.trunk.out_channels, image_size(config), ROIS, META)
    wanted = cost(config.make_head(classes), by, rois)
    known: dict[str, Any] = {**heads.options(head.name), **head.options}
    shared: dict[str, Any] = {key: known[key] for key in ("norm", "roi_size", "output_size") if key in known}
    options = {"class_agnostic": head.class_agnostic, **shared}

    def cost_of(convs: int, width: int) -> float:
        with META:
            fcn = heads.build("fcn", config.trunk.out_channels, classes, **options, convs=convs, width=width)
        return cost(fcn, by, rois)

    # groups of one channel would be another normalisation
    candidates = _candidates(cost_of, wanted, steps=(8, 1) if shared.get("norm") == "group" else (1,))
    control = next((candidate for candidate in candidates if abs(candidate[2] / wanted - 1) <= TOLERANCE), None)
    if control is None:
        raise UserError(
            f"control={by}: no FCN of 1 to {MOST_CONVS} convolutions comes within {TOLERANCE:.0%} of "
            f"{head.variant}'s {wanted:,.0f} {UNITS[by]}"
        )
    convs, width, costs = control
    if head.name == "fcn" and convs == known["convs"] and width == (known["width"] or config.trunk.out_channels):
        raise UserError(f"control={by}: {head.variant} is its own control; leave it out of a sweep with control={by}")
    matched = {"variant": head.variant, "name": head.name, "options": head.options}
    return replace(
        head,
        variant=f"fcn_{by}_of_{head.variant}",
        name="fcn",
        options={"convs": convs, "width": width, **shared},
        paper="",
        control="none",
        control_of={**matched, "by": by, "wanted": wanted, "found": costs},
    )


def _candidates(
    cost_of: Callable[[int, int], float], wanted: float, steps: Sequence[int]
) -> Iterator[tuple[int, int, float]]:
    """(convs, width, cost) of the best width for each depth, the depths nearest to the FCN's own first."""
    usual = heads.options("fcn")["convs"]
    for step in steps:
        widths = range(step, MOST_WIDTH + 1, step)
        for convs in sorted(range(1, MOST_CONVS + 1), key=lambda n: abs(n - usual)):
            # the cost rises with the width: the first width that is not too small, or the one before
            i = bisect_left(widths, wanted, key=partial(cost_of, convs))
            costs = {width: cost_of(convs, width) for width in widths[max(i - 1, 0) : i + 1]}
            best = min(costs, key=lambda width: abs(costs[width] - wanted))
            yield convs, best, costs[best]


def cost(head: MaskHead, by: str, rois: Callable[[], RoIs]) -> float:
    """Parameters of a head (``params``), or FLOPs that it predicts a RoI's mask with (``flops``), RoIAlign left out.

    Nothing is computed: the head goes to torch's ``meta`` device, where ``rois`` must be.
    """
    if by == "params":
        return sum(p.numel() for p in head.parameters())
    return timing.head_flops(head.eval().to(META), rois)


def image_size(config: Config) -> tuple[int, int]:
    """(H, W) of an image of the largest size that evaluation makes, of aspect 4:3 where it may be."""
    d = config.dataset
    return d.min_size, min(d.max_size, d.min_size * 4 // 3)

"""``control=pull``: in place of a head the plain FCN, its mask loss weighted so that it pulls at the pyramid as hard.

How hard a head pulls (:mod:`instseg.detector.measured_pyramid`) shows only in training. So the head and FCNs of several
weights are trained over the first tenth of the run's iterations, at the rates of the whole schedule, always with seed 0
and on fold 0: all runs of a variant in a study have the same control. These short runs lie in ``results/<study>/pull``.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import heads
from experiments.config import control
from experiments.config.groups import Head, StudyConfig
from experiments.config.run import Config
from experiments.runs import end_to_end, frozen_core
from experiments.runs.folder import begin, check_same_data, only_process
from experiments.runs.study import load_json
from instseg import device as memory
from instseg import progress
from instseg.detector.measured_pyramid import PULLS
from instseg.errors import UserError
from instseg.files import write_atomically
from instseg.training.loop import train
from instseg.training.schedule import Schedule

TOLERANCE = 0.05
ROUNDS = 5
"""Corrections of the weight, after that of 1."""
PART = 10
"""The pulls over the first of so many parts of a training are matched."""
FILE = "pull.json"
"""In a short run's folder, written last: the means of its pulls, and the iterations that they are over."""


@dataclass(kw_only=True)
class FirstPart(Schedule):
    """The first iterations of a schedule, at the rates of the whole of it."""

    whole: Schedule

    def lr_at(self, iteration: int, tail: tuple[int, int] | None = None) -> float:
        return self.whole.lr_at(iteration)


def resolved(config: Config) -> Config:
    """As :func:`experiments.config.control.resolved`, and for ``control=pull`` by training.

    Raises:
        UserError: nothing matches, the head is that FCN itself, or a short run can't be carried out.
    """
    if control.kind(config) != "pull":
        return control.resolved(config)
    head = config.head
    known = {**heads.options(head.name), **head.options}
    norm = {"norm": known["norm"]} if "norm" in known else {}
    fcn = Head(
        variant=f"fcn_pull_of_{head.variant}",
        name="fcn",
        class_agnostic=head.class_agnostic,
        options={**heads.options("fcn"), **norm},
        control="none",
    )
    if _is_plain(head, fcn, config.trunk.out_channels):
        raise UserError(f"control=pull: {head.variant} is its own control; leave it out of a sweep with control=pull")
    first = replace(config, control="none", seed=0, dataset=replace(config.dataset, fold=0))
    wanted = _pull(first, replace(head, control="none"))
    weight, pull = _match(first, fcn, wanted, head.variant)
    matched = {"variant": head.variant, "name": head.name, "options": {**head.common(), **head.options}}
    fcn = replace(fcn, loss_weight=weight, control_of={**matched, "by": "pull", "wanted": wanted, "found": pull})
    return replace(config, control="none", head=fcn)


def first_part(iterations: int) -> int:
    """How many iterations the first tenth of a training has."""
    return math.ceil(iterations / PART)


def next_weight(trials: Sequence[tuple[float, float]], wanted: float) -> float:
    """The weight to try next, with four figures, by a step of the secant method in the logarithms.

    Args:
        trials: weights and their pulls so far, the last one last.
    """
    points = [(math.log(weight), math.log(pull)) for weight, pull in trials]
    x, y = points[-1]
    slope = 1.0
    if len(points) > 1 and points[-2][0] != x:
        slope = (y - points[-2][1]) / (x - points[-2][0])
    # a pull grows about as its weight does: other slopes are of chance
    slope = slope if 1 / 3 < slope < 3 else 1.0
    return float(f"{math.exp(x + (math.log(wanted) - y) / slope):.4g}")


def _is_plain(head: Head, fcn: Head, channels: int) -> bool:
    """Whether a head is the plain FCN, whatever its weight."""
    options = {**fcn.options, **head.options}
    options["width"] = None if options.get("width") == channels else options.get("width")
    common = {**head.common(), "loss_weight": fcn.loss_weight}
    return head.name == "fcn" and options == fcn.options and common == fcn.common()


def _match(config: Config, fcn: Head, wanted: float, variant: str) -> tuple[float, float]:
    """The weight with which an FCN pulls as hard as wanted, and its pull."""
    trials: list[tuple[float, float]] = []
    weight = 1.0
    for _ in range(1 + ROUNDS):
        pull = _pull(config, replace(fcn, variant="fcn", loss_weight=weight))
        trials.append((weight, pull))
        share = f"{pull / wanted:.2f} of its pull"
        progress.say(f"control=pull of {variant}: the FCN with loss_weight={weight:g} has {share}")
        if abs(pull / wanted - 1) <= TOLERANCE:
            return weight, pull
        weight = next_weight(trials, wanted)
    weight, pull = min(trials, key=lambda trial: abs(math.log(trial[1] / wanted)))
    raise UserError(
        f"control=pull: no weight was found at which the FCN pulls within {TOLERANCE:.0%} of {variant}; the nearest, "
        f"head.loss_weight={weight:g}, has {pull / wanted:.3f} of its pull"
    )


def _pull(config: Config, head: Head) -> float:
    """The mean pull of a head's mask losses over the first part of a run, which is trained where it is not yet."""
    config = replace(config, head=head)
    # a folder of its own, but the cores of the study
    stored = replace(config, study=StudyConfig(name="pull", baseline="fcn"), results_dir=str(config.study_folder()))
    path = stored.folder() / FILE
    if path.exists():
        check_same_data(stored)
    else:
        with only_process(stored.folder()):
            if not path.exists():
                write_atomically(path, json.dumps(_measure(config, stored)))
    content = load_json(path, f"delete {path.parent} to measure it again")
    pull = content.get(PULLS[0]) if isinstance(content, dict) else None
    if not isinstance(pull, float) or not 0 < pull < math.inf:
        raise UserError(f"control=pull: {path} has {PULLS[0]}={pull}; a head without a pull has no control by it")
    return pull


def _measure(config: Config, stored: Config) -> dict[str, Any]:
    """Train the first part of a run in the folder of ``stored``, and give the means of its pulls."""
    device = end_to_end.prepare(config)
    active = begin(stored, device)
    data, folder, whole = active.data, stored.folder(), config.make_schedule()
    iterations = first_part(whole.iterations)
    # too short for a plateau
    schedule = FirstPart(**{**vars(whole), "iterations": iterations, "until": "iterations"}, whole=whole)
    index = {image_id: i for i, image_id in enumerate(data.image_ids)}
    protocol = frozen_core if config.protocol == "frozen_core" else end_to_end
    try:
        (outcome,) = train(
            protocol.first_models([replace(active, config=config)], device),
            schedule,
            lambda start: end_to_end.training_batches(config, data, start, iterations, device),
            [folder],
            seed=config.stream_seed(),
            device=device,
            core_is_frozen=config.protocol == "frozen_core",
            describe=lambda image_id: data.describe(index[image_id]),
            checkpoint_every=config.runtime.checkpoint_every,
            log_every=1,
            title=f"pull of {config.head.variant}, loss × {config.head.loss_weight:g}",
        )
    except Exception as error:
        if (why := memory.ran_out(error)) is None:
            raise
        raise UserError(f"{folder}: out of memory ({why}); schedule.accumulate=2 needs less") from error
    if outcome.error is not None:
        raise UserError(f"control=pull: {folder}: {outcome.error}") from outcome.error
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: sum(line[name] for line in lines) / len(lines) for name in PULLS} | {"iterations": len(lines)}

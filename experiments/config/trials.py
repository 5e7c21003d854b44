"""Trials of a tuning: the same quasi-random points of the same space for every variant.

Sivaprasad et al. (*Optimizer Benchmarking Needs to Account for Hyperparameter Tuning*, ICML 2020) ask for the same
budget for all; AlgoPerf (Dahl et al., 2023) for quasi-random points of a space that is stated beforehand.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import qmc

import heads
from experiments.config.groups import StudyConfig, TuningSpace
from experiments.config.run import Config

STUDY = "tuning"
"""Name of the study of trials inside a study's folder."""
MULTIPLES = ("lr_mult", "decay_mult", "loss_weight")
TUNED = (*MULTIPLES, "norm")
"""What is tuned: keys of a head, and its option ``norm``."""
Settings = dict[str, Any]


def points(space: TuningSpace, count: int) -> list[dict[str, Any]]:
    """The points of the trials behind the first: multiples, evenly spread over their logarithms, and a norm.

    They are Sobol's sequence, not scrambled and without its origin: the same on every machine, and those of a smaller
    budget are the first of a larger one.
    """
    sequence = qmc.Sobol(len(TUNED), scramble=False)
    sequence.fast_forward(1)
    rows = sequence.random(count) if count else np.zeros((0, len(TUNED)))
    chosen = []
    for row in rows:
        point: dict[str, Any] = {}
        for key, share in zip(MULTIPLES, row, strict=False):
            low, high = getattr(space, key)
            point[key] = float(f"{low * (high / low) ** share:.4g}")
        chosen.append({**point, "norm": space.norms[int(row[-1] * len(space.norms))]})
    return chosen


def settings(config: Config) -> list[Settings]:
    """The settings of each trial of a head; those of the first are the head's own.

    A head without the option ``norm`` keeps what it has.
    """
    head = config.head
    options = {**heads.options(head.name), **head.options}
    own: Settings = {key: getattr(head, key) for key in MULTIPLES}
    own |= {"norm": options["norm"]} if "norm" in options else {}
    trials = [own]
    for point in points(config.tuning_space, config.tuning - 1):
        multiplied = {key: float(f"{own[key] * point[key]:.4g}") for key in MULTIPLES}
        trials.append({**multiplied, **({"norm": point["norm"]} if "norm" in own else {})})
    return trials


def with_settings(config: Config, chosen: Settings) -> Config:
    """The run with a trial's settings."""
    multiples = {key: chosen[key] for key in MULTIPLES}
    options = {**config.head.options, **({"norm": chosen["norm"]} if "norm" in chosen else {})}
    return replace(config, head=replace(config.head, **multiples, options=options))


def trial(config: Config, chosen: Settings, fold: int) -> Config:
    """The run of a trial: it learns from the training images of a fold but for some, and is scored on these."""
    space, schedule = config.tuning_space, config.schedule
    if space.iterations is not None:
        schedule = replace(schedule, iterations=space.iterations, until="iterations")
    return replace(
        with_settings(config, chosen),
        schedule=schedule,
        dataset=replace(config.dataset, fold=fold, inner_parts=space.inner_parts),
        seed=0,
        tuning=0,
        study=StudyConfig(name=STUDY, baseline=config.study.baseline),
        results_dir=str(config.study_folder()),
    )


def fold_of_choice(config: Config) -> int:
    """The fold whose training images a run's settings are chosen by."""
    return config.dataset.fold if config.tuning_space.choice == "each_fold" else 0


def space_of(space: TuningSpace) -> dict[str, Any]:
    """The space as ``tuning.json`` has it."""
    multiples = {key: getattr(space, key) for key in MULTIPLES}
    return {key: {"low": low, "high": high, "log": True} for key, (low, high) in multiples.items()} | {
        "norm": {"values": list(space.norms)}
    }

"""How often the suite's verdicts are right and wrong: ``python -m experiments.error_rates table=NAME``.

The tables of ``docs/statistics.md`` and ``docs/tuning.md`` are what this prints.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from experiments.config import apps, cli
from experiments.render.table import MISSING, Table
from instseg import progress
from instseg.statistics.simulation import RULES, ArtificialStudy, Choice, Tuning, rates, with_restless_head
from instseg.statistics.verdict import MARGIN

Rows = Iterator[tuple[dict[str, str], Callable[[int], dict[str, Any]]]]
"""What names each row, and what counts its numbers on so many studies."""

_RESTLESS = {
    "none": None,
    "one head, 25 times": (1, 25),
    "one head, 400 times": (1, 400),
    "the baseline, 25 times": (0, 25),
    "the baseline, 400 times": (0, 400),
}
_CONTRASTS = 3


def percent(share: float | None) -> str:
    """``4.8 %``."""
    return MISSING if share is None else f"{100 * share:.1f} %"


def spreads() -> Rows:
    """False alarms and power of three rules, for eight heads of which one, or the baseline, is restless."""
    for folds, seeds in ((1, 2), (1, 3), (1, 5), (3, 1), (5, 1), (5, 2)):
        for words, restless in _RESTLESS.items():
            yield (
                {"folds × seeds": f"{folds} × {seeds}", "variance between trainings": words},
                partial(_spreads, folds=folds, seeds=seeds, restless=restless),
            )


def _spreads(studies: int, folds: int, seeds: int, restless: tuple[int, int] | None) -> dict[str, Any]:
    study = ArtificialStudy(folds=folds, seeds=seeds, training_images=0.7 if folds > 1 else 0.0)
    helped = ArtificialStudy(**{**vars(study), "effects": (3.0, *study.effects[1:])})
    if restless is not None:
        study, helped = (with_restless_head(each, *restless) for each in (study, helped))
    equal, planted = rates(study, studies, RULES), rates(helped, studies, RULES, seed=8)
    row: dict[str, Any] = {}
    for rule in RULES:
        alone, family, power = equal[rule].own, equal[rule].any_told_apart, planted[rule].better[0]
        row |= {f"{rule}: a head": alone, f"{rule}: any head": family, f"{rule}: power": power}
    return row


def verdicts() -> Rows:
    """Verdicts on three comparisons that are named beforehand, by the true difference of the first in margins."""
    for folds, seeds in ((1, 3), (1, 5), (1, 10), (5, 1), (5, 3)):
        for margins in (0.0, 0.5, 1.0, 2.0):
            yield (
                {"folds × seeds": f"{folds} × {seeds}", "true difference": f"{margins:g} margins"},
                partial(_verdicts, folds=folds, seeds=seeds, margins=margins),
            )


def _verdicts(studies: int, folds: int, seeds: int, margins: float) -> dict[str, Any]:
    study = ArtificialStudy(
        effects=(margins * MARGIN,) * _CONTRASTS,
        folds=folds,
        seeds=seeds,
        image=0.3,
        own_image=0.2,
        training=0.3,
        training_images=0.1 if folds > 1 else 0.0,
    )
    counted = rates(study, studies)["own"]
    return {
        "better": counted.better.mean(),
        "worse": counted.worse.mean(),
        "equivalent": counted.equivalent.mean(),
        "undecided": counted.undecided.mean(),
        "any false": counted.any_told_apart if margins == 0 else counted.any_equivalent if margins >= 1 else None,
    }


def tuning() -> Rows:
    """False alarms where settings are chosen before the runs, by where and on how noisy scores."""
    for folds, seeds in ((5, 2), (1, 3)):
        yield (
            {"folds × seeds": f"{folds} × {seeds}", "chosen in": "untuned", "noise": "–"},
            partial(_tuning, folds=folds, seeds=seeds, chosen=None),
        )
        choices: list[Choice] = ["each fold", "first fold"] if folds > 1 else ["each fold"]
        for choice in choices:
            for noise in (0.5, 1.0, 2.0, 4.0):
                chosen = Tuning(validation=noise, choice=choice)
                yield (
                    {"folds × seeds": f"{folds} × {seeds}", "chosen in": choice, "noise": f"{noise:g}"},
                    partial(_tuning, folds=folds, seeds=seeds, chosen=chosen),
                )


def _tuning(studies: int, folds: int, seeds: int, chosen: Tuning | None) -> dict[str, Any]:
    study = ArtificialStudy(folds=folds, seeds=seeds, image=1.0, own_image=0.0, training=1.0, tuning=chosen)
    counted = rates(study, studies)["own"]
    return {
        "own interval excludes 0": counted.own,
        "a head told apart": counted.told_apart.mean(),
        "any head told apart": counted.any_told_apart,
    }


TABLES: dict[str, Callable[[], Rows]] = {"spreads": spreads, "verdicts": verdicts, "tuning": tuning}


def make(name: str, studies: int) -> Table:
    """A table of :data:`TABLES`; its numbers are shares of heads or of studies."""
    numbers, text = [], []
    rows = list(TABLES[name]())
    with progress.bar(total=len(rows), desc=name, unit="row") as bar:
        for names, count in rows:
            shares = count(studies)
            numbers.append(names | shares)
            text.append(names | {key: percent(share) for key, share in shares.items()})
            bar.update()
    return Table(pd.DataFrame(numbers), pd.DataFrame(text), f"{studies:,} artificial studies a row.")


def _job(cfg: DictConfig) -> None:
    config = apps.to_config(cfg, apps.ErrorRates)
    table = make(config.table, config.studies)
    written = table.write(Path(config.out) / config.table, "csv", "md")
    print(table.markdown(), f"written to {', '.join(map(str, written))}", sep="\n")


if __name__ == "__main__":
    apps.register()
    cli.run(cli.app("pkg://experiments.conf_apps", "error_rates", _job))

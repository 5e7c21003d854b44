"""The trials of a study's tuning, from its ``tuning.json``; the tuning itself is in ``experiments.runs``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from experiments.runs.study import load_json, natural
from instseg.errors import UserError

FILE = "tuning.json"
Choice = Literal["each_fold", "first_fold"]
Settings = dict[str, float | str]


class ScoredTrial(NamedTuple):
    """A trial of a variant in a fold.

    Attributes:
        number: 0 is the study's own recipe.
        score: on the validation images, in percent; nan where training diverged.
    """

    variant: str
    fold: int
    number: int
    settings: Settings
    score: float


@dataclass(frozen=True)
class Tuning:
    """What ``tuning.json`` holds.

    Attributes:
        budget: trials of each variant in each fold.
        metric: what a score is, such as ``mask_AP``.
        choice: whether each fold chooses anew, or all take what the first has chosen. It may stand in the file with a
            space in place of the underscore.
        choices: of settings that take one of some values, the values, by name.
        trials: all of them.
        chosen: the trials that were chosen.
    """

    budget: int
    metric: str
    choice: Choice
    choices: dict[str, list[str]]
    trials: list[ScoredTrial]
    chosen: list[ScoredTrial]

    @property
    def variants(self) -> list[str]:
        """All variants with trials, in natural order."""
        return sorted({trial.variant for trial in self.trials}, key=natural)

    def scores(self, variant: str) -> dict[int, NDArray[np.float64]]:
        """By fold (budget,) the scores of a variant's trials, nan where training diverged; of the folds whose trials
        are all there."""
        by_fold: dict[int, dict[int, float]] = {}
        for trial in self.trials:
            if trial.variant == variant:
                by_fold.setdefault(trial.fold, {})[trial.number] = trial.score
        return {
            fold: np.asarray([scores[number] for number in range(self.budget)])
            for fold, scores in sorted(by_fold.items())
            if len(scores) == self.budget
        }

    def unfinished(self) -> list[str]:
        """A line for each variant and fold of which trials are missing."""
        pairs = {(trial.variant, trial.fold) for trial in self.trials}
        missing = [pair for pair in pairs if pair[1] not in self.scores(pair[0])]
        return [
            f"{FILE}: {variant} has not all {self.budget} trials of fold {fold} yet; the fold is left out"
            for variant, fold in sorted(missing, key=lambda pair: (natural(pair[0]), pair[1]))
        ]

    def chosen_by_fold(self, variant: str) -> dict[int, ScoredTrial]:
        """What a variant has chosen."""
        chosen = {trial.fold: trial for trial in self.chosen if trial.variant == variant}
        return dict(sorted(chosen.items()))


def read_tuning(folder: Path) -> Tuning | None:
    """The content of a study's ``tuning.json``, or None where there is none; a ``UserError`` says how it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    remedy = "delete it and sweep again with the same tuning"
    content = load_json(path, remedy)
    try:
        choice, space = content["choice"].replace(" ", "_"), content["space"]
        if choice not in get_args(Choice):
            raise ValueError(f"choice is none of {', '.join(get_args(Choice))}")
        if not isinstance(content["budget"], int) or content["budget"] < 1:
            raise ValueError("budget is no whole number above 0")
        tuning = Tuning(
            content["budget"],
            str(content["score"]),
            choice,
            {key: list(map(str, values["values"])) for key, values in space.items() if "values" in values},
            [_trial(entry) for entry in content["trials"]],
            [_trial(entry) for entry in content["chosen"]],
        )
        keys = [trial[:3] for trial in tuning.trials]
        if len(set(keys)) < len(keys):
            raise ValueError("a trial is there twice")
        if not all(0 <= trial.number < tuning.budget for trial in tuning.trials):
            raise ValueError(f"a trial's number is none of 0 to {tuning.budget - 1}")
        if not {trial[:3] for trial in tuning.chosen} <= set(keys):
            raise ValueError("a chosen trial is none of the trials")
    except KeyError as error:
        raise UserError(f"{path} is damaged (it has no {error}): {remedy}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    return tuning


def _trial(entry: dict[str, Any]) -> ScoredTrial:
    score = entry["score"]
    return ScoredTrial(
        str(entry["variant"]),
        int(entry["fold"]),
        int(entry["trial"]),
        dict(entry["settings"]),
        float("nan") if score is None else float(score),
    )

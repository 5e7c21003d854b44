"""``tuning=N``: N trials of every variant, and the settings that did best on images held out of the training images."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config import trials
from experiments.config.run import Config
from experiments.runs import frozen_core
from experiments.runs.folder import ERROR, check_same_data, is_done
from experiments.runs.pool import Pool
from experiments.runs.study import load_json
from instseg import progress
from instseg.errors import UserError
from instseg.files import write_atomically

FILE = "tuning.json"
"""In a study's folder: the budget, the space, all trials with their scores, and what was chosen."""
DIVERGED = "training is not finite"
"""How the reason begins that a trial which diverged leaves; such a trial counts as the worst."""


@dataclass(frozen=True)
class Trial:
    """A trial of a variant."""

    variant: str
    fold: int
    number: int
    settings: trials.Settings
    config: Config


def tuned(configs: Sequence[Config], pool: Pool) -> list[Config]:
    """The runs with their heads tuned, where they ask for it; trials that are not done are carried out first.

    Writes :data:`FILE`, with what earlier sweeps tuned in the same space.

    Raises:
        UserError: a trial failed otherwise than by diverging, or all of a head's diverged.
    """
    asking = [config for config in configs if config.tuning and not config.head.tuned]
    if not asking:
        return list(configs)
    planned = _plan(asking)
    _carry_out([trial for group in planned.values() for trial in group], pool)
    scores = {key: [_score(trial) for trial in group] for key, group in planned.items()}
    best = {key: _best(planned[key], values) for key, values in scores.items()}
    folder = asking[0].study_folder()
    write_atomically(folder / FILE, json.dumps(_content(asking[0], planned, scores, best, folder), indent=1))
    result = []
    for config in configs:
        if config.tuning and not config.head.tuned:
            key = _key(config)
            number = best[key]
            chosen = planned[key][number].settings
            record = {"trial": number, "of": config.tuning, "score": scores[key][number], "settings": chosen}
            config = trials.with_settings(config, chosen)
            config = replace(config, head=replace(config.head, tuned=record))
        result.append(config)
    return result


def _key(config: Config) -> tuple[str, int]:
    return config.head.variant, trials.fold_of_choice(config)


def _plan(configs: Sequence[Config]) -> dict[tuple[str, int], list[Trial]]:
    """The trials by variant and fold."""
    planned: dict[tuple[str, int], list[Trial]] = {}
    for config in configs:
        key = _key(config)
        group = [
            Trial(*key, number, settings, trials.trial(config, settings, key[1]))
            for number, settings in enumerate(trials.settings(config))
        ]
        before = planned.setdefault(key, group)
        if [trial.config.hash() for trial in before] != [trial.config.hash() for trial in group]:
            raise UserError(
                f"tuning={config.tuning}: runs of {config.head.variant} in fold {key[1]} differ in more than fold and "
                "seed, so one tuning can't serve them: sweep over one setting at a time"
            )
    return planned


def _carry_out(planned: Sequence[Trial], pool: Pool) -> None:
    todo = [trial for trial in planned if not is_done(trial.config) and not _diverged(trial.config)]
    heads = len({(trial.variant, trial.fold) for trial in planned})
    progress.say(f"tuning: {len(planned)} trials of {heads} heads and folds, {len(planned) - len(todo)} of them done")
    for trial in todo:
        check_same_data(trial.config)
    configs = list({trial.config.folder(): trial.config for trial in todo}.values())
    pool.run_all([[config] for config in configs if config.protocol == "end_to_end"])
    pool.run_all(frozen_core.groups(configs))
    for trial in planned:
        folder = trial.config.folder()
        if is_done(trial.config):
            # hundreds of trials: what is chosen is trained anew
            (folder / "checkpoint.pt").unlink(missing_ok=True)
        elif not _diverged(trial.config):
            path = folder / ERROR
            why = path.read_text() if path.exists() else "its process ended before it did"
            raise UserError(f"trial {trial.number} of {trial.variant}, {folder.name}, failed: {why}")


def _diverged(config: Config) -> bool:
    path = config.folder() / ERROR
    return path.exists() and path.read_text().startswith(DIVERGED)


def _score(trial: Trial) -> float | None:
    """A trial's score in percent; None where it diverged, or nothing could be scored."""
    if not is_done(trial.config):
        return None
    path = trial.config.folder() / "result.json"
    result = load_json(path, "delete it to rerun")
    by_boxes = trial.config.tuning_space.score == "gt_box_IoU"
    try:
        value = result["true_boxes"]["mask_IoU"] if by_boxes else result["metrics"]["mask"]["AP"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged (it has no {error}): delete it to rerun") from error
    return None if value is None or math.isnan(value) else float(value)


def _best(group: Sequence[Trial], scores: Sequence[float | None]) -> int:
    """The number of the best trial; of several the first."""
    known = [(score, -number) for number, score in enumerate(scores) if score is not None]
    if not known:
        trial = group[0]
        raise UserError(
            f"all {len(group)} trials of {trial.variant} in fold {trial.fold} diverged; lower rates may help: "
            "schedule.lr or tuning_space.lr_mult"
        )
    return -max(known)[1]


def _content(
    config: Config,
    planned: dict[tuple[str, int], list[Trial]],
    scores: dict[tuple[str, int], list[float | None]],
    best: dict[tuple[str, int], int],
    folder: Path,
) -> dict[str, Any]:
    space = config.tuning_space
    content: dict[str, Any] = {
        "budget": config.tuning,
        "score": space.score,
        "choice": space.choice,
        "inner_parts": space.inner_parts,
        "space": trials.space_of(space),
    }
    rows, chosen = [], []
    for key, group in planned.items():
        for trial, score in zip(group, scores[key], strict=True):
            run = str(trial.config.folder().relative_to(folder))
            about = {"variant": trial.variant, "fold": trial.fold, "trial": trial.number}
            rows.append({**about, "settings": trial.settings, "score": score, "run": run})
        chosen.append({key: value for key, value in rows[best[key] - len(group)].items() if key != "run"})
    earlier = load_json(folder / FILE, "delete it to tune again") if (folder / FILE).is_file() else {}
    kept = []
    if all(earlier.get(key) == value for key, value in content.items()):
        kept = sorted({(row["variant"], row["fold"]) for row in earlier["trials"]} - set(planned))
    elif earlier:
        progress.say(f"{folder / FILE}: replaced, as what it held was tuned with another budget or space")
    for name, new in (("trials", rows), ("chosen", chosen)):
        content[name] = [row for row in earlier.get(name, []) if (row["variant"], row["fold"]) in kept] + new
    return content

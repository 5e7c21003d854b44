"""Train the variants of a study and compare them: ``python -m experiments.sweep [study=NAME] [key=value ...]``.

Without arguments this is the study ``quick``. ``key=a,b,c`` sweeps. Finished runs are skipped and broken ones
resumed, so the same command can be given again at any time.
"""

import json
import sys
import traceback
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments import cli, config, speed, study_report
from experiments.config import Config
from experiments.run import run
from instseg.errors import UserError
from instseg.training.checkpoint import write_atomically

_planned: list[Config] = []
_failures: list[tuple[str, str]] = []


class Plan(Callback):
    """Before the first run: compose and check every run of the sweep, load its data, and say what will be done."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Hydra turns exceptions in callbacks into warnings, all but an exit
        try:
            _planned[:] = plan(config)
        except UserError as error:
            cli.fail(str(error))
        except (hydra.errors.HydraException, OmegaConfBaseException) as error:
            cli.fail(cli.one_line(error))


def plan(sweep: DictConfig) -> list[Config]:
    """Every run of a sweep, in order, checked; prints them.

    Raises:
        UserError: a run's configuration or data can't be used.
    """
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={value}" for key, value in (sweep.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*params, *sweep.hydra.overrides.task])
    runs = []
    for chosen in BasicSweeper.split_arguments(overrides, None)[0]:
        runs.append(_typed(loader.load_sweep_config(sweep, list(chosen))))
        runs[-1].check()
    folders = [one.folder() for one in runs]
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            raise UserError(f"two runs of this sweep are the same, {folder.name}: sweep over different values")
    todo = [one for one in runs if not (one.folder() / "result.json").exists()]
    print(f"study {runs[0].study.name}: {len(runs)} runs, {len(runs) - len(todo)} of them done", flush=True)
    for one in runs:
        state = "to do" if one in todo else "done"
        if one in todo and (one.folder() / "checkpoint.pt").exists():
            state = "to be resumed"
        print(f"  {one.folder().name}: {state}")
    # what is wrong with the data is found now and not between two runs
    for one in todo:
        for split in ("train", "val"):
            data = one.make_dataset(split)
            if data.left_out:
                print(
                    f"  {data.name} {split}: {len(data.left_out)} annotations left out, the first: {data.left_out[0]}"
                )
    return runs


@hydra.main(version_base="1.3", config_path="conf", config_name="sweep")
def _job(cfg: DictConfig) -> None:
    one = _typed(cfg)
    try:
        run(one)
    except UserError as error:
        _failures.append((one.folder().name, str(error)))
    except Exception as error:
        # the other variants go on; this one is reported at the end
        traceback.print_exc()
        _failures.append((one.folder().name, f"{type(error).__name__}: {error}"))


def _typed(cfg: DictConfig) -> Config:
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return config.typed(cfg)


def main() -> int:
    """Run the study, then write and print its tables; 1 where a run failed."""
    config.register()
    _job()
    if not _planned:
        # --help, --cfg and the like
        return 0
    study = _planned[0]
    folder = study.study_folder()
    finished = any((one.folder() / "result.json").exists() for one in _planned)
    if finished:
        about = {"baseline": study.study.baseline, "resamples": study.evaluation.resamples}
        write_atomically(folder / "study.json", json.dumps(about).encode())
        if study.evaluation.speed:
            speed.measure_study(folder, data_root=study.data_root, device=study.runtime.device)
        print(study_report.build(folder, study.study.baseline, study.evaluation.resamples))
    for name, why in _failures:
        print(f"failed: {name}: {why}", file=sys.stderr)
    if _failures:
        print(f"{len(_failures)} of {len(_planned)} runs failed", file=sys.stderr)
    return 1 if _failures else 0


if __name__ == "__main__":
    # Hydra loads the callback by its module's name; under that name, not __main__, lies the list that it fills
    from experiments import sweep

    cli.run(sweep.main)

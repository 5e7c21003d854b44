"""Train the variants of a study and compare them: ``python -m experiments.sweep [study=NAME] [key=value ...]``.

Without arguments this is the study ``quick``. ``key=a,b,c`` sweeps. Finished runs are skipped and broken ones
resumed, so the same command can be given again at any time.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.benchmark import study as speed
from experiments.config import checks, cli, control
from experiments.config import run as config
from experiments.config.run import Config
from experiments.report import build
from experiments.runs import first_weights, frozen_core, shared_boxes
from experiments.runs.end_to_end import run
from experiments.runs.folder import ERROR, LOCK, check_same_data
from experiments.runs.provenance import now, provenance
from instseg import progress
from instseg.errors import UserError
from instseg.files import write_atomically

GIVEN_UP = "INSTSEG_GIVEN_UP"
_planned: list[Config] = []
_kills: Counter[str] = Counter()


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
        one = _typed(loader.load_sweep_config(sweep, list(chosen)))
        checks.check(one)
        runs.append(control.resolved(one))
    folders = [one.folder() for one in runs]
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            raise UserError(f"two runs of this sweep are the same, {folder.name}: sweep over different values")
    todo = [one for one in runs if not (one.folder() / "result.json").exists()]
    # what is wrong with the data or with weights is found now and not between two runs
    for one in runs if todo else []:
        check_same_data(one)
    first_weights.check(todo)
    print(f"study {runs[0].study.name}: {len(runs)} runs, {len(runs) - len(todo)} of them done")
    for one in runs:
        begun = (one.folder() / "checkpoint.pt").exists()
        state = "done" if one not in todo else "to be resumed" if begun else "to do"
        print(f"  {one.folder().name}: {state}, {one.make_schedule().iterations} iterations")
    for group in frozen_core.groups(todo):
        core = frozen_core.core_of(group[0])
        heads = ", ".join(one.head.variant for one in group)
        if group[0].core is None:
            state = f"{core.hash()}, {'done' if frozen_core.is_done(core) else 'trained first'}"
        else:
            state = f"loaded from {group[0].core}"
        print(f"  at once on core f{core.dataset.fold} s{core.seed}, {state}: {heads}")
    sys.stdout.flush()
    return runs


def _carry_out() -> None:
    """All runs of the sweep; where a run's process is killed, which ends those beside it too, the rest goes on."""
    while True:
        began = time.time()
        try:
            _job()
            _groups()
            return
        except TerminatedWorkerError:
            torn = [one for one in _planned if _was_running(one, since=began)]
            print(f"a process was killed while it ran {', '.join(one.folder().name for one in torn)}", file=sys.stderr)
            for one in torn:
                _kills[one.hash()] += 1
                if _kills[one.hash()] == 2:
                    why = "its process was killed twice; is there enough memory? runtime.jobs=1 needs less"
                    write_atomically(one.folder() / ERROR, why)
            # read by the processes that are started next
            os.environ[GIVEN_UP] = ",".join(run for run, count in _kills.items() if count >= 2)
            if not torn:
                raise


def _was_running(one: Config, since: float) -> bool:
    folder = one.folder()
    ended = (folder / "result.json").exists() or (folder / ERROR).exists()
    return not ended and (folder / LOCK).exists() and (folder / LOCK).stat().st_mtime >= since - 1


@hydra.main(version_base="1.3", config_path="conf", config_name="sweep")
def _job(cfg: DictConfig) -> None:
    """One run. It may be carried out by a process of its own, so what went wrong goes through a file."""
    number = HydraConfig.get().job.num
    one = control.resolved(_typed(cfg))
    if one.protocol == "frozen_core" or one.hash() in _given_up():
        return
    if one.runtime.jobs > 1:
        _side_by_side(number, one)
    try:
        run(one)
    except Exception as error:
        _note([one], error)


def _groups() -> None:
    """The runs of ``frozen_core``, after all others: each group is one job."""
    groups = frozen_core.groups(
        one for one in _planned if not frozen_core.is_done(one) and one.hash() not in _given_up()
    )
    if groups:
        jobs = groups[0][0].runtime.jobs
        Parallel(n_jobs=jobs, batch_size=1)(delayed(_group)(number, group) for number, group in enumerate(groups))


def _group(number: int, group: list[Config]) -> None:
    """One group, perhaps in a process of its own."""
    if group[0].runtime.jobs > 1:
        _side_by_side(number, group[0])
    try:
        errors = frozen_core.run_group(group)
        for one in group:
            if one.hash() in errors:
                _note([one], errors[one.hash()])
    except Exception as error:
        _note(group, error)


def _given_up() -> list[str]:
    return os.environ.get(GIVEN_UP, "").split(",")


def _side_by_side(number: int, one: Config) -> None:
    progress.use_line(number % one.runtime.jobs)
    _end_with(os.getppid())


def _note(runs: list[Config], error: Exception) -> None:
    """Write what stopped some runs into their folders: the others go on, and these are reported at the end."""
    expected = isinstance(error, UserError)
    if not expected:
        traceback.print_exception(error)
    why = str(error) if expected else f"{type(error).__name__}: {error}"
    for one in runs:
        if not frozen_core.is_done(one):
            write_atomically(one.folder() / ERROR, why)


def _log(path: Path, began: float) -> None:
    """Add to the sweeps of a study how long this one took, report and all, where it carried out any run."""
    results = [one.folder() / "result.json" for one in _planned]
    done = [path for path in results if path.exists()]
    carried_out = sum(path.stat().st_mtime >= began - 1 for path in done)
    if carried_out == 0:
        return
    runtime = _planned[0].runtime
    line = {
        "seconds": time.time() - began,
        "carried_out": carried_out,
        "done_before": len(done) - carried_out,
        "failed": len(results) - len(done),
        "jobs": runtime.jobs,
        **provenance(config.torch_device(runtime.device)),
        "finished": now(),
    }
    with path.open("a") as file:
        file.write(f"{json.dumps(line)}\n")


def _end_with(parent: int) -> None:
    """End this process when its parent ends, so that a killed sweep leaves no run behind that holds its folder."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _typed(cfg: DictConfig) -> Config:
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return config.to_config(cfg)


def main() -> int:
    """Run the study, then write and print its tables; 1 where a run failed."""
    config.register()
    if not any(argument.startswith("-") for argument in sys.argv[1:]):
        # the configuration says so too, but where it can't be composed Hydra would blame the commas
        sys.argv.append("--multirun")
    began = time.time()
    _carry_out()
    if not _planned:
        # --help, --cfg and the like
        return 0
    study = _planned[0]
    folder = study.study_folder()
    untimed = unshared = ""
    failed = [one for one in _planned if not (one.folder() / "result.json").exists()]
    if len(failed) < len(_planned):
        about = {"baseline": study.study.baseline, "resamples": study.evaluation.resamples}
        write_atomically(folder / "study.json", json.dumps(about).encode())
        try:
            shared_boxes.measure(folder, study.study.baseline, data_root=study.data_root, device=study.runtime.device)
        except UserError as error:
            unshared = str(error)
        if study.evaluation.speed:
            try:
                speed.measure_study(folder, data_root=study.data_root, device=study.runtime.device)
            except UserError as error:
                # the tables of AP don't hang on it
                untimed = str(error)
        print(build.build(folder, study.study.baseline, study.evaluation.resamples))
        _log(folder / "sweeps.jsonl", began)
    for one in failed:
        path = one.folder() / ERROR
        why = path.read_text() if path.exists() else "its process ended before it did"
        print(f"failed: {one.folder().name}: {why}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(_planned)} runs failed", file=sys.stderr)
    if untimed:
        print(f"not timed: {untimed}", file=sys.stderr)
    if unshared:
        print(f"no masks in shared boxes: {unshared}", file=sys.stderr)
    return 1 if failed or untimed or unshared else 0


if __name__ == "__main__":
    # Hydra loads the callback by its module's name; under that name, not __main__, lies the list that it fills
    from experiments import sweep

    cli.run(sweep.main)

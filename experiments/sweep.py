"""Train the variants of a study and compare them: ``python -m experiments.sweep [study=NAME] [key=value ...]``.

Without arguments this is the study ``quick``. ``key=a,b,c`` sweeps. Finished runs are skipped and broken ones
resumed, so the same command can be given again at any time.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

from omegaconf import DictConfig

from experiments.benchmark import study as speed
from experiments.config import checks, cli, expand, run
from experiments.config.run import Config
from experiments.report import build
from experiments.runs import first_weights, frozen_core, pull_control, shared_boxes, tuning
from experiments.runs.folder import ERROR, check_same_data, is_done
from experiments.runs.pool import LocalPool
from experiments.runs.provenance import now, provenance
from instseg.errors import UserError
from instseg.files import write_atomically


def plan(configs: Sequence[Config]) -> list[Config]:
    """Check all runs of a sweep, their data and first weights; print and return the runs, their controls found and
    their heads tuned. What can't be used, and runs that are the same, are a UserError."""
    for config in configs:
        checks.check(config)
    configs = [pull_control.resolved(config) for config in configs]
    configs = tuning.tuned(configs, LocalPool(configs[0].runtime.jobs))
    for folder, count in Counter(config.folder() for config in configs).items():
        if count > 1:
            raise UserError(f"two runs of this sweep are the same, {folder.name}: sweep over different values")
    todo = [config for config in configs if not is_done(config)]
    for config in configs if todo else []:
        check_same_data(config)
    first_weights.check(todo)
    print(f"study {configs[0].study.name}: {len(configs)} runs, {len(configs) - len(todo)} of them done")
    for config in configs:
        state = "to be resumed" if (config.folder() / "checkpoint.pt").exists() else "to do"
        state = "done" if is_done(config) else state
        schedule = config.make_schedule()
        most = "at most " if schedule.until == "plateau" else ""
        print(f"  {config.folder().name}: {state}, {most}{schedule.iterations} iterations")
    for group in frozen_core.groups(todo):
        core = frozen_core.core_of(group[0])
        state = f"{core.hash()}, {'done' if is_done(core) else 'trained first'}"
        state = state if group[0].core is None else f"loaded from {group[0].core}"
        heads = ", ".join(config.head.variant for config in group)
        print(f"  at once on core f{core.dataset.fold} s{core.seed}, {state}: {heads}")
    sys.stdout.flush()
    return configs


def carry_out(configs: Sequence[Config]) -> list[Config]:
    """Carry out all runs of a sweep that are not done, and return those that failed."""
    pool = LocalPool(configs[0].runtime.jobs)
    pool.run_all([[config] for config in configs if config.protocol == "end_to_end" and not is_done(config)])
    # afterwards, as the study's own FCN end to end may be the core of a group
    pool.run_all(frozen_core.groups(config for config in configs if not is_done(config)))
    return [config for config in configs if not is_done(config)]


def compare(configs: Sequence[Config]) -> list[str]:
    """Measure what compares the finished runs of a study, write its tables and plots, and print the tables; returns
    what could not be measured, and why."""
    study, folder = configs[0], configs[0].study_folder()
    baseline, resamples = study.study.baseline, study.evaluation.resamples
    contrasts = [asdict(contrast) for contrast in study.study.contrasts]
    described = {"baseline": baseline, "resamples": resamples, "margin": study.study.margin, "contrasts": contrasts}
    write_atomically(folder / "study.json", json.dumps(described))
    root, device = study.data_root, study.runtime.device
    measures: dict[str, Callable[[], object]] = {
        "no masks in shared boxes": lambda: shared_boxes.measure(folder, baseline, data_root=root, device=device)
    }
    if study.evaluation.speed:
        measures["not timed"] = lambda: speed.measure_study(folder, data_root=root, device=device)
    missing = []
    for what, measure in measures.items():
        try:
            measure()
        except UserError as error:
            # the tables of AP do not need it
            missing.append(f"{what}: {error}")
    print(build.build(folder, baseline, resamples))
    return missing


def log(configs: Sequence[Config], failed: int, began: float) -> None:
    """Add a line to the study's ``sweeps.jsonl``, unless no run was carried out: how long the sweep took, report and
    all, for how many runs, and on what."""
    results = [config.folder() / "result.json" for config in configs if is_done(config)]
    # times of files may lag behind the clock
    carried_out = sum(path.stat().st_mtime >= began - 1 for path in results)
    if carried_out == 0:
        return
    runtime = configs[0].runtime
    line = {
        "seconds": time.time() - began,
        "carried_out": carried_out,
        "done_before": len(results) - carried_out,
        "failed": failed,
        "jobs": runtime.jobs,
        **provenance(run.torch_device(runtime.device)),
        "finished": now(),
    }
    with (configs[0].study_folder() / "sweeps.jsonl").open("a") as file:
        file.write(f"{json.dumps(line)}\n")


def _job(began: float, for_runs: Sequence[str], _: DictConfig) -> int:
    """The whole sweep; 1 where a run failed or something could not be measured."""
    configs = plan(expand.expand(for_runs))
    failed = carry_out(configs)
    problems = []
    for config in failed:
        path = config.folder() / ERROR
        why = path.read_text() if path.exists() else "its process ended before it did"
        problems.append(f"failed: {config.folder().name}: {why}")
    if failed:
        problems.append(f"{len(failed)} of {len(configs)} runs failed")
    if len(failed) < len(configs):
        problems += compare(configs)
        log(configs, len(failed), began)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def main() -> int | None:
    """Run the study, then write and print its tables."""
    run.register()
    began, for_runs = time.time(), expand.take_for_runs()
    return cli.app("pkg://experiments.conf", "config", partial(_job, began, for_runs))()


if __name__ == "__main__":
    cli.run(main)

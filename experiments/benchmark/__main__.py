"""Time things on this machine: ``python -m experiments.benchmark what=WHAT study=NAME``; ``--help`` lists them.

Without ``what`` the trained variants of a study are timed against each other.
"""

import importlib
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from experiments.benchmark import cases, outcome, setup, study
from experiments.config import apps, cli
from experiments.report import cost
from experiments.runs.study import read


def _job(cfg: DictConfig) -> None:
    options = apps.to_config(cfg, apps.Benchmark)
    if options.what == "study":
        _study(options)
        return
    made = setup.make(options)
    # fails before minutes of measuring where the results can't be written
    Path(options.out).mkdir(parents=True, exist_ok=True)
    result = importlib.import_module(f"{cases.__name__}.{options.what}").measure(made)
    print(outcome.write(result, options, made.config, made.device))


def _study(options: apps.Benchmark) -> None:
    folder = Path(options.results_dir) / options.study
    measured = study.measure_study(
        folder, data_root=options.data_root, device=options.device, rois=options.rois, rounds=options.rounds, again=True
    )
    table = cost.speed_table(measured, read(folder).variants)
    table.write(folder / cost.SECTION.name, *cost.SECTION.endings)
    print(table.text.to_markdown(index=False))


if __name__ == "__main__":
    sys.argv[1:] = [cli.as_list("against|heads", argument) for argument in sys.argv[1:]]
    apps.register()
    # conf_apps/benchmark.yaml shows them in --help
    OmegaConf.register_new_resolver("benchmarks", cases.help_text)
    cli.run(cli.app("pkg://experiments.conf_apps", "benchmark", _job))

"""Time things on this machine: ``python -m experiments.benchmark what=WHAT study=NAME``; ``--help`` lists them.

Without ``what`` the trained variants of a study are timed against each other.
"""

import importlib
import sys
from pathlib import Path

from omegaconf import DictConfig

from experiments import app_config, cli, speed, tables
from experiments.aggregate import read
from experiments.benchmarks import outcome, setup


def _job(cfg: DictConfig) -> None:
    options = app_config.typed(cfg, app_config.Benchmark)
    if options.what == "study":
        _study(options)
        return
    made = setup.make(options)
    # what can't be written is said before minutes of measuring
    Path(options.out).mkdir(parents=True, exist_ok=True)
    found = importlib.import_module(f"experiments.benchmarks.{options.what}").measure(made)
    print(outcome.write(found, options, made.config, made.device))


def _study(options: app_config.Benchmark) -> None:
    folder = Path(options.results_dir) / options.study
    measured = speed.measure_study(
        folder, data_root=options.data_root, device=options.device, rois=options.rois, rounds=options.rounds, again=True
    )
    frame = tables.speed_frame(measured, read(folder).variants)
    tables.write_speed(folder, frame, measured)
    print(tables.speed_text(frame).to_markdown(index=False))


if __name__ == "__main__":
    sys.argv[1:] = [cli.as_list("against|heads", argument) for argument in sys.argv[1:]]
    app_config.register()
    cli.run(cli.app("pkg://experiments.conf_apps", "benchmark", _job))

"""One run: ``python -m experiments.train [head=NAME] [study=NAME] [key=value ...]``; see ``experiments.sweep``."""

import json

from omegaconf import DictConfig

from experiments.config import checks, cli, run
from experiments.runs import end_to_end, frozen_core, pull_control, tuning
from experiments.runs.pool import LocalPool


def _job(cfg: DictConfig) -> None:
    """Carry the run out and print its metrics."""
    config = run.to_config(cfg)
    checks.check(config)
    (config,) = tuning.tuned([pull_control.resolved(config)], LocalPool(config.runtime.jobs))
    folder = frozen_core.run_alone(config) if config.protocol == "frozen_core" else end_to_end.run(config)
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    for kind, numbers in metrics.items():
        print(kind, "  ".join(f"{k} {'–' if v is None else format(v, '.1f')}" for k, v in numbers.items()))
    print(folder)


if __name__ == "__main__":
    run.register()
    cli.run(cli.app("pkg://experiments.conf", "config", _job))

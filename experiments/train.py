"""One run: ``python -m experiments.train [head=NAME] [study=NAME] [key=value ...]``; see ``experiments.sweep``."""

import json

from omegaconf import DictConfig

from experiments.config import checks, cli, control
from experiments.config import run as config
from experiments.runs import frozen_core
from experiments.runs.end_to_end import run


def _job(cfg: DictConfig) -> None:
    one = config.to_config(cfg)
    checks.check(one)
    one = control.resolved(one)
    folder = frozen_core.run_alone(one) if one.protocol == "frozen_core" else run(one)
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    for kind, numbers in metrics.items():
        print(kind, "  ".join(f"{k} {'–' if v is None else format(v, '.1f')}" for k, v in numbers.items()))
    print(folder)


def main() -> None:
    """Carry the run out and print its metrics."""
    config.register()
    cli.app("pkg://experiments.conf", "config", _job)()


if __name__ == "__main__":
    cli.run(main)

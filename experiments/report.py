"""Rebuild a study's tables and plots from its files: ``python -m experiments.report study=NAME``."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments import cli, study_report
from experiments.publish import publish
from instseg.errors import UserError


def _job(cfg: DictConfig) -> None:
    folder = Path(cfg.results_dir) / cfg.study
    if not folder.is_dir():
        known = sorted(p.parent.name for p in Path(cfg.results_dir).glob("*/runs"))
        raise UserError(f"no study in {folder}; studies there: {', '.join(known) or 'none'}")
    about: dict[str, Any] = {"baseline": "fcn", "resamples": 1000}
    if (folder / "study.json").exists():
        about |= json.loads((folder / "study.json").read_text())
    about |= {key: cfg[key] for key in about if cfg[key] is not None}
    print(study_report.build(folder, about["baseline"], about["resamples"]))
    if cfg.publish is not None:
        written = publish(folder, Path(cfg.publish))
        print(f"published to {cfg.publish}: {len(written)} files")


if __name__ == "__main__":
    cli.run(cli.app("pkg://experiments.conf_apps", "report", _job))

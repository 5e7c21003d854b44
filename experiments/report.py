"""Rebuild a study's tables and plots from its files: ``python -m experiments.report study=NAME``."""

import json
from pathlib import Path

from omegaconf import DictConfig

from experiments import cli, study_report
from instseg.errors import UserError


def _job(cfg: DictConfig) -> None:
    folder = Path(cfg.results_dir) / cfg.study
    if not folder.is_dir():
        known = sorted(p.parent.name for p in Path(cfg.results_dir).glob("*/runs"))
        raise UserError(f"no study in {folder}; studies there: {', '.join(known) or 'none'}")
    baseline = cfg.baseline
    if baseline is None:
        about = folder / "study.json"
        baseline = json.loads(about.read_text())["baseline"] if about.exists() else "fcn"
    print(study_report.build(folder, baseline, cfg.resamples))


if __name__ == "__main__":
    cli.run(cli.app("pkg://experiments.conf_apps", "report", _job))

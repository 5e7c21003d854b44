"""Rebuild a study's tables and plots from its files: ``python -m experiments.report study=NAME``."""

from pathlib import Path

from omegaconf import DictConfig

from experiments.config import apps, cli
from experiments.report import build
from experiments.report.publish import publish
from experiments.runs.study import about
from instseg.errors import UserError


def _job(cfg: DictConfig) -> None:
    config = apps.to_config(cfg, apps.Report)
    folder = Path(config.results_dir) / config.study
    if not folder.is_dir():
        known = sorted(p.parent.name for p in Path(config.results_dir).glob("*/runs"))
        raise UserError(f"no study in {folder}; studies there: {', '.join(known) or 'none'}")
    own = about(folder)
    print(build.build(folder, config.baseline or own.baseline, config.resamples or own.resamples, config.data_root))
    if config.publish is not None:
        written = publish(folder, Path(config.publish), predictions=config.publish_predictions)
        print(f"published to {config.publish}: {len(written)} files")


if __name__ == "__main__":
    apps.register()
    cli.run(cli.app("pkg://experiments.conf_apps", "report", _job))

"""Rebuild a study's tables and plots from its files: ``python -m experiments.report study=NAME``."""

from pathlib import Path

from omegaconf import DictConfig

from experiments import app_config, cli, study_report
from experiments.aggregate import load_json
from experiments.publish import publish
from instseg.errors import UserError


def about(folder: Path) -> tuple[str, int]:
    """A study's baseline and number of bootstrap replicates, from its ``study.json`` where there is one.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / "study.json"
    if not path.exists():
        return "fcn", 1000
    remedy = "delete it, and give baseline= and resamples= where they aren't fcn and 1000"
    found = load_json(path, remedy)
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it holds no object): {remedy}")
    baseline, resamples = found.get("baseline", "fcn"), found.get("resamples", 1000)
    if not isinstance(baseline, str) or not baseline:
        raise UserError(f"{path} is damaged (baseline is no name): {remedy}")
    if not isinstance(resamples, int) or isinstance(resamples, bool) or resamples < 1:
        raise UserError(f"{path} is damaged (resamples is no whole number above 0): {remedy}")
    return baseline, resamples


def _job(cfg: DictConfig) -> None:
    config = app_config.typed(cfg, app_config.Report)
    folder = Path(config.results_dir) / config.study
    if not folder.is_dir():
        known = sorted(p.parent.name for p in Path(config.results_dir).glob("*/runs"))
        raise UserError(f"no study in {folder}; studies there: {', '.join(known) or 'none'}")
    baseline, resamples = about(folder)
    print(study_report.build(folder, config.baseline or baseline, config.resamples or resamples, config.data_root))
    if config.publish is not None:
        written = publish(folder, Path(config.publish))
        print(f"published to {config.publish}: {len(written)} files")


if __name__ == "__main__":
    app_config.register()
    cli.run(cli.app("pkg://experiments.conf_apps", "report", _job))

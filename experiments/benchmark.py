"""Time a study's variants against each other on this machine: ``python -m experiments.benchmark study=NAME``."""

from pathlib import Path

from omegaconf import DictConfig

from experiments import cli, speed, tables
from experiments.aggregate import read


def _job(cfg: DictConfig) -> None:
    folder = Path(cfg.results_dir) / cfg.study
    measured = speed.measure_study(
        folder, data_root=cfg.data_root, device=cfg.device, rois=cfg.rois, rounds=cfg.rounds, again=True
    )
    frame = tables.speed_frame(measured, read(folder).variants)
    tables.write_speed(folder, frame, measured)
    print(tables.speed_text(frame).to_markdown(index=False))


if __name__ == "__main__":
    cli.run(cli.app("pkg://experiments.conf_apps", "benchmark", _job))

"""Time a study's variants against each other on this machine: ``python -m experiments.benchmark study=NAME``."""

from pathlib import Path

from omegaconf import DictConfig

from experiments import app_config, cli, speed, tables
from experiments.aggregate import read


def _job(cfg: DictConfig) -> None:
    config = app_config.typed(cfg, app_config.Benchmark)
    folder = Path(config.results_dir) / config.study
    measured = speed.measure_study(
        folder, data_root=config.data_root, device=config.device, rois=config.rois, rounds=config.rounds, again=True
    )
    frame = tables.speed_frame(measured, read(folder).variants)
    tables.write_speed(folder, frame, measured)
    print(tables.speed_text(frame).to_markdown(index=False))


if __name__ == "__main__":
    app_config.register()
    cli.run(cli.app("pkg://experiments.conf_apps", "benchmark", _job))

"""Configurations as the command line would compose them."""

from hydra import compose, initialize_config_module

from experiments.config import apps, run
from experiments.config.apps import Benchmark
from experiments.config.run import Config


def composed(*overrides: str) -> Config:
    run.register()
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return run.to_config(compose("config", overrides=list(overrides)))


def benchmark_options(*overrides: str) -> Benchmark:
    apps.register()
    with initialize_config_module("experiments.conf_apps", version_base="1.3"):
        return apps.to_config(compose("benchmark", overrides=list(overrides)), Benchmark)

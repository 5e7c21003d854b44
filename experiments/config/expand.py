"""Sweeps as Hydra writes them, ``key=a,b,c``, expanded to a configuration for each combination of values."""

import sys
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.config.run import Config, to_config
from instseg.errors import UserError

MULTIRUN_FLAGS = ("-m", "--multirun")
CONFIG_FLAGS = ("-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path")


def take_for_runs(app_keys: Collection[str] = ()) -> list[str]:
    """Take the overrides that concern the single runs alone (:func:`is_for_runs`) off the command line, which Hydra
    then gets, and return them; ``app_keys`` are an app's own keys, beside those of a run."""
    arguments = sys.argv[1:]
    flags = [argument for argument in arguments if argument.startswith("-")]
    # with other flags, such as --help and --cfg job, Hydra prints something and needs all arguments
    if not all(flag.partition("=")[0] in (*MULTIRUN_FLAGS, *CONFIG_FLAGS) for flag in flags):
        return []
    overrides = [argument for argument in arguments if argument not in flags and "=" in argument]
    for_runs = [each for each in overrides if _top_key(each) not in app_keys and is_for_runs(each)]
    sys.argv[1:] = [argument for argument in arguments if argument not in (*for_runs, *MULTIRUN_FLAGS)]
    return for_runs


def _top_key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def is_for_runs(argument: str) -> bool:
    """Whether an override concerns the single runs alone: it sweeps, or sets a key inside a group, which may exist
    for the values of a sweep alone (``head=unet,smp head.options.depth=2``)."""
    override = OverridesParser.create().parse_override(argument)
    return override.is_sweep_override() or ("." in override.key_or_group and not override.is_hydra_override())


def combinations(params: Mapping[str, Any], overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a sweep; the last key that sweeps changes fastest. A UserError for a sweep without
    values, or over an interval.

    Args:
        params: what a study sweeps over, key by key.
        overrides: from the command line; they replace those of the same key.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    choices: dict[str, list[str]] = {}
    for override in parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *overrides]):
        key, text = override.get_key_element(), str(override.input_line)
        if override.is_interval_sweep():
            raise UserError(f"{text}: an interval has no values to go through; write {key}=a,b,c")
        swept = override.is_sweep_override()
        choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()] if swept else [text]
        if not choices[key]:
            raise UserError(f"{text}: a sweep over no values")
    return [list(chosen) for chosen in product(*choices.values())]


def expand(overrides: Sequence[str], app_keys: Collection[str] = ()) -> list[Config]:
    """The configuration of each run of a sweep, in order.

    To be called inside ``hydra.main``: the study that it has composed says by ``hydra.sweeper.params`` what else is
    swept over.

    Args:
        overrides: those for runs (:func:`is_for_runs`), which Hydra was not given.
        app_keys: an app's own keys, which no run has.

    Raises:
        UserError, HydraException, OmegaConfBaseException: a run's configuration can't be composed.
    """
    hydra = HydraConfig.get()
    task = [override for override in hydra.overrides.task if _top_key(override) not in app_keys]
    chosen = combinations(hydra.sweeper.params or {}, [*task, *overrides])
    name = "config" if app_keys else hydra.job.config_name
    return [to_config(compose(name, [*hydra.overrides.hydra, *combination])) for combination in chosen]

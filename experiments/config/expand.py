"""Sweeps as Hydra writes them, ``key=a,b,c``, expanded to a configuration for each combination of values."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.config.run import Config, to_config
from instseg.errors import UserError


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


def expand(overrides: Sequence[str]) -> list[Config]:
    """The configuration of each run of a sweep, in order.

    To be called inside ``hydra.main``: the study that it has composed says by ``hydra.sweeper.params`` what else is
    swept over.

    Args:
        overrides: those for runs (:func:`is_for_runs`), which Hydra was not given.

    Raises:
        UserError, HydraException, OmegaConfBaseException: a run's configuration can't be composed.
    """
    hydra = HydraConfig.get()
    chosen = combinations(hydra.sweeper.params or {}, [*hydra.overrides.task, *overrides])
    return [to_config(compose(hydra.job.config_name, [*hydra.overrides.hydra, *combination])) for combination in chosen]

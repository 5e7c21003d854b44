"""``init`` and ``core``: weights that were trained before go into a run's model; what does not fit is printed."""

import json
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from experiments.config.checks import errors_of
from experiments.config.run import Config, load_config
from instseg import progress, transfer
from instseg.data import InstanceDataset
from instseg.detector import MaskRCNN
from instseg.errors import UserError


def check(configs: Sequence[Config]) -> None:
    """Read all weights that some runs need once, fetching what must be fetched; a UserError where that can't be."""
    for key, given in dict.fromkeys(pair for config in configs for pair in config.transferred().items()):
        with errors_of(key):
            transfer.read(given)


def start(
    models: Sequence[MaskRCNN], config: Config, data: InstanceDataset, heads_alone: bool = False
) -> list[dict[str, Any]]:
    """Put the weights of ``init``, where it is given, into models that have their first weights, or into their mask
    heads alone, and print what fits; returns for each model entries of its run's provenance. A UserError where they
    can't be used."""
    if config.init is None:
        return [_provenance(config, None)] * len(models)
    reports = _load("init", config.init, models, config, data, core=not heads_alone)
    for model, report in zip(models, reports, strict=True):
        head = f", {type(model.mask_head).__name__}" if heads_alone else ""
        progress.say(f"init={config.init}{head}: {report.line()}")
    return [_provenance(config, report) for report in reports]


def make_core(model: MaskRCNN, config: Config, data: InstanceDataset) -> None:
    """Put the weights of ``core`` into a model, but for its mask head, which is not used; a UserError where not all of
    them fit."""
    assert config.core is not None
    (report,) = _load("core", config.core, [model], config, data, head=False)
    if report.new:
        raise UserError(
            f"core={config.core} must fit as it is, for {data.name}'s {data.num_classes} classes, the background "
            f"included: {report.line()}; init={config.core} would train on from it"
        )
    progress.say(f"core={config.core}: {report.line()}")


def _provenance(config: Config, report: transfer.Report | None) -> dict[str, Any]:
    names = {key: transfer.label(given) for key, given in config.transferred().items()}
    if report is not None:
        names["mask_head"] = "trained" if report.has_head else "new"
    return {"first_weights": names} if names else {}


def _load(
    key: str, given: str, models: Sequence[MaskRCNN], config: Config, data: InstanceDataset, **parts: bool
) -> list[transfer.Report]:
    """Put weights into the models' parts (see :func:`instseg.transfer.load`)."""
    with errors_of(key):
        source = transfer.read(given)
        if parts.get("core", True):
            _say_what_differs(key, config, source)
        names = [category["name"] for category in data.categories]
        return [transfer.load(model, source, names, **parts) for model in models]


def _say_what_differs(key: str, config: Config, source: transfer.Source) -> None:
    """Print which keys had other values when the weights were trained, and whether they may have seen held-out
    images."""
    trained_as, origin = source.trained_as, _origin(source.name)
    if origin is not None:
        trained_as = _values(origin)
        now, then = config.dataset, origin.dataset
        if now.name == then.name and now.fold != then.fold:
            progress.say(
                f"{key}={source.name} was trained on fold {then.fold} of {now.name} and may have seen the images "
                f"that fold {now.fold} holds out: AP will be too good"
            )
    values = _values(config)
    differing = [f"{k}={json.dumps(v).replace(' ', '')}" for k, v in trained_as.items() if values[k] != v]
    if differing:
        progress.say(f"{key}={source.name} fits worse than it could: it was trained with {' '.join(differing)}")


def _origin(given: str) -> Config | None:
    """The configuration of the run that weights are from, where that lies beside them."""
    weights = transfer.find(given)
    if not isinstance(weights, Path) or not (path := weights.parent / "config.yaml").is_file():
        return None
    try:
        return load_config(path)
    except UserError as error:
        progress.say(f"{error}: it is not checked what the weights beside it were trained with")
        return None


def _values(config: Config) -> dict[str, Any]:
    """The values of the keys that weights depend on."""
    return {key: attrgetter(key)(config) for key in transfer.TRAINED_AS}

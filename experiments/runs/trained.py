"""Runs that have been carried out, as models again."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from experiments.config.run import Config, load_config
from experiments.runs.end_to_end import build_model
from instseg.data import InstanceDataset
from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.training import checkpoint


def config_of(folder: Path, data_root: str | None, device: str) -> Config:
    """The configuration of the run in a folder, for this machine.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        config = load_config(folder / "config.yaml")
    except UserError as error:
        raise UserError(f"{error}; delete {folder} to run it again") from error
    config.data_root, config.runtime.device, config.runtime.workers = data_root, device, 0
    return config


def load_model(config: Config, num_classes: int, path: Path, device: torch.device) -> MaskRCNN:
    """A model with the weights of a checkpoint.

    Args:
        config: of the run.
        num_classes: the background included.
        path: the run's ``checkpoint.pt``, which holds the whole model.
        device: where the model goes.

    Raises:
        UserError: the checkpoint can't be used.
    """
    state = checkpoint.load(path, device)["model"]
    # the checkpoint holds all weights; the ImageNet ones need not be at hand
    config = replace(config, trunk=replace(config.trunk, weights=None))
    model = build_model(config, num_classes).to(device).to(memory_format=torch.channels_last)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path} is of another model than {path.parent / 'config.yaml'} tells of") from error
    return model


def held_out(study_dir: Path, run: str, ground_truth: str, data_root: str | None) -> InstanceDataset:
    """The images that a run was scored on, which must still be annotated as they were then.

    Args:
        study_dir: ``results/<study>``.
        run: name of the run's folder.
        ground_truth: what it was scored against, a path from the study's folder.
        data_root: where the data set lies; None: where the run found it.

    Raises:
        UserError: the data set can't be opened, or holds other annotations now.
    """
    config = load_config(study_dir / "runs" / run / "config.yaml")
    # with a root that is given, nothing is downloaded
    config.data_root = data_root or config.data_root or config.dataset.options.get("download_dir")
    data = config.make_dataset("val")
    now = json.dumps(data.ground_truth(), sort_keys=True)
    if json.loads(now) != json.loads((study_dir / ground_truth).read_text(encoding="utf-8")):
        raise UserError(f"data_root={config.data_root} holds other annotations now than the runs were scored on")
    return data

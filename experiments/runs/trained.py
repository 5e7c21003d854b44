"""Finished runs, found by the names that people give them, and their trained models."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.config.run import Config, load_config
from experiments.runs.end_to_end import build_untrained
from experiments.runs.study import Study, about, labelled, load_json, read
from instseg.data import InstanceDataset
from instseg.detector import MaskRCNN
from instseg.errors import UserError, unknown_name
from instseg.training import checkpoint


@dataclass
class Trained:
    """A finished run.

    Attributes:
        label: its variant, and what distinguishes the run from others of that variant that were asked for.
        categories: COCO's, ``{"id": int, "name": str}``; label ``i + 1`` is the i-th.
    """

    label: str
    folder: Path
    config: Config
    categories: list[dict[str, Any]]

    def model(self, device: torch.device) -> MaskRCNN:
        """The trained model; raises as :func:`load_model`."""
        return load_model(self.config, len(self.categories) + 1, self.folder / "checkpoint.pt", device)

    def trained_at(self) -> int:
        """When its weights were written, in nanoseconds: it changes when the same run is trained anew."""
        return (self.folder / "checkpoint.pt").stat().st_mtime_ns


def load_model(config: Config, num_classes: int, path: Path, device: torch.device) -> MaskRCNN:
    """A model with the weights of a run's ``checkpoint.pt``; ``num_classes`` counts the background.

    Raises:
        UserError: the checkpoint is missing, damaged or of another model.
    """
    state = checkpoint.load(path, device)["model"]
    model = build_untrained(config, num_classes, device)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path} is of another model than {path.parent / 'config.yaml'} describes; delete {path.parent} to train "
            "it again"
        ) from error
    return model


def config_of(folder: Path, data_root: str | None, device: str) -> Config:
    """The configuration of the run in a folder, for this machine; a UserError where it is missing or damaged."""
    try:
        config = load_config(folder / "config.yaml")
    except UserError as error:
        raise UserError(f"{error}; delete {folder} to run it again") from error
    config.data_root, config.runtime.device, config.runtime.workers = data_root, device, 0
    return config


def held_out(study_dir: Path, run: str, ground_truth: str, data_root: str | None) -> InstanceDataset:
    """The images that a run of a study was scored on, which must still be annotated as they were then.

    Args:
        run: name of the run's folder.
        ground_truth: what it was scored against, a path from the study's folder.
        data_root: where the data set lies; None: where the run used it.

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


def find(names: Sequence[str], results_dir: Path) -> list[Trained]:
    """The runs that are meant by names.

    A name is the folder of a run, its ``checkpoint.pt``, or the folder of a study, which stands for the first run of
    each variant; under ``results_dir`` they go by ``study/run``, ``study/variant`` and ``study``.

    Raises:
        UserError: there is no such run, it is unfinished or damaged, or it is given twice.
    """
    folders = [folder for name in names for folder in _folders(name, results_dir)]
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            raise UserError(f"run={','.join(names)}: {folder} is there twice")
    rows = _disambiguated(folders)
    return [
        Trained(row["variant"], folder, load_config(folder / "config.yaml"), _categories(folder, row["ground_truth"]))
        for folder, row in rows.items()
    ]


def _disambiguated(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Each run's row; a variant that several runs have gets what they differ in: study, fold and seed, or hash."""
    studies = {folder: folder.resolve().parents[1] for folder in folders}
    rows: dict[Path, dict[str, Any]] = {}
    # study by study: the settings of two studies differ in too much to name it
    for study in set(studies.values()):
        members = [folder for folder in folders if studies[folder] == study]
        rows |= zip(members, labelled(members), strict=True)
    rows = {folder: rows[folder] for folder in folders}
    suffixes = {
        folder: (studies[folder].name, f"f{row['fold']} s{row['seed']}", row["hash"]) for folder, row in rows.items()
    }
    for n in range(3):
        by_variant: dict[str, set[str]] = {}
        for folder, row in rows.items():
            by_variant.setdefault(row["variant"], set()).add(suffixes[folder][n])
        for folder, row in rows.items():
            if len(by_variant[row["variant"]]) > 1:
                row["variant"] += f", {suffixes[folder][n]}"
    return rows


def _folders(name: str, results_dir: Path) -> list[Path]:
    study, _, run = name.rstrip("/").rpartition("/")
    candidates = [Path(name).expanduser(), results_dir / name, results_dir / study / "runs" / run]
    folder = next((path for path in candidates if _is_run_or_study(path)), None)
    if folder is None:
        if study and (results_dir / study / "runs").is_dir():
            return [_first_run(read(results_dir / study), run, name)]
        raise _unknown(name, candidates[0], results_dir)
    if folder.is_file():
        folder = folder.parent
    if (folder / "runs").is_dir():
        runs = read(folder)
        return [_first_run(runs, label, name) for label in runs.ordered(about(folder).baseline)]
    if not (folder / "result.json").is_file():
        done = sorted(path.parent.name for path in folder.parent.glob("*/result.json"))
        raise UserError(
            f"run={name}: {folder} is not finished (it has no result.json); finished beside it: "
            f"{', '.join(done) or 'none'}"
        )
    return [folder]


def _is_run_or_study(path: Path) -> bool:
    """Whether a run or a study lies there: other folders may bear a study's name, such as ``heads/``."""
    if path.name == "checkpoint.pt":
        return path.is_file()
    return (path / "config.yaml").is_file() or (path / "runs").is_dir()


def _first_run(study: Study, label: str, name: str) -> Path:
    """The folder of a variant's first run, in the order of folds and seeds."""
    if label not in study.variants:
        raise unknown_name("run", name, (f"{study.folder.name}/{known}" for known in study.variants))
    return study.folder / "runs" / str(study.counted(label).iloc[0]["folder"])


def _unknown(name: str, path: Path, results_dir: Path) -> UserError:
    if path.exists():
        return UserError(f"run={name}: {path} is no run (it has no config.yaml) and no study (it has no runs/)")
    studies = {result.parents[2].name for result in results_dir.glob("*/runs/*/result.json")}
    if not studies:
        return UserError(f"run={name}: no such folder, and {results_dir} holds no finished run")
    return unknown_name("run", name, studies)


def _categories(folder: Path, ground_truth: str | None) -> list[dict[str, Any]]:
    """Those of the run's data, from the ground truth that the study keeps: the data set itself need not be at hand."""
    if ground_truth is None:
        raise UserError(f"{folder / 'result.json'} names no ground truth, which the names of classes come from")
    path = folder.parents[1] / ground_truth
    if not path.is_file():
        raise UserError(f"{folder}: the names of its classes are in {path}, which is missing")
    try:
        categories = load_json(path, "copy it from where the run was made")["categories"]
        return [{"id": int(category["id"]), "name": str(category["name"])} for category in categories]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it holds no list of categories with id and name") from error

"""Finished runs, found by the names that people give them, and their trained models."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.config.run import Config, load_config
from experiments.runs.study import Study, about, labelled, load_json, read
from experiments.runs.trained import load_model
from instseg.detector import MaskRCNN
from instseg.errors import UserError, unknown_name


@dataclass
class Trained:
    """A finished run.

    Attributes:
        label: its variant, with as much more as tells it from the other runs that were asked for.
        folder: the run's.
        config: what it was trained by.
        categories: COCO's, ``{"id": int, "name": str}``; label ``i + 1`` is the i-th.
    """

    label: str
    folder: Path
    config: Config
    categories: list[dict[str, Any]]

    def model(self, device: torch.device) -> MaskRCNN:
        """The trained model.

        Raises:
            UserError: its checkpoint is gone or of another model.
        """
        return load_model(self.config, len(self.categories) + 1, self.folder / "checkpoint.pt", device)

    def trained_at(self) -> int:
        """When its weights were written, in nanoseconds: the same run trained anew is told apart by it."""
        return (self.folder / "checkpoint.pt").stat().st_mtime_ns


def find(names: Sequence[str], results_dir: Path) -> list[Trained]:
    """The runs that are meant by names.

    Args:
        names: each the folder of a run, its ``checkpoint.pt``, or the folder of a study, which stands for the first
            run of each variant; under ``results_dir`` they go by ``study/run``, ``study/variant`` and ``study``.
        results_dir: where studies lie.

    Raises:
        UserError: there is no such run, it is unfinished or damaged, or it is there twice.
    """
    folders = [folder for name in names for folder in _folders(name, results_dir)]
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            raise UserError(f"run={','.join(names)}: {folder} is there twice")
    rows = disambiguated(folders)
    return [
        Trained(
            rows[folder]["variant"],
            folder,
            load_config(folder / "config.yaml"),
            _categories(folder, rows[folder]["ground_truth"]),
        )
        for folder in folders
    ]


def disambiguated(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Each run's row; to a variant that several have is added what tells them apart: study, fold and seed, or hash."""
    rows: dict[Path, dict[str, Any]] = {}
    studies = {folder: folder.resolve().parents[1] for folder in folders}
    # runs of two studies differ in all kinds of settings, too many to be told
    for study in set(studies.values()):
        own = [folder for folder in folders if studies[folder] == study]
        rows |= zip(own, labelled(own), strict=True)
    for folder, row in rows.items():
        row["tell"] = [studies[folder].name, f"f{row['fold']} s{row['seed']}", row["hash"]]
    for n in range(3):
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows.values():
            groups.setdefault(row["variant"], []).append(row)
        for group in groups.values():
            if len({row["tell"][n] for row in group}) > 1:
                for row in group:
                    row["variant"] += f", {row['tell'][n]}"
    return rows


def _folders(name: str, results_dir: Path) -> list[Path]:
    study, _, run = name.rstrip("/").rpartition("/")
    candidates = [Path(name).expanduser(), results_dir / name, results_dir / study / "runs" / run]
    folder = next((path for path in candidates if _is_one(path)), None)
    if folder is None:
        if study and (results_dir / study / "runs").is_dir():
            return [_first(read(results_dir / study), run, name)]
        raise _unknown(name, candidates[0], results_dir)
    if folder.is_file():
        folder = folder.parent
    if (folder / "runs").is_dir():
        found = read(folder)
        return [_first(found, label, name) for label in found.ordered(about(folder)[0])]
    if not (folder / "result.json").is_file():
        done = sorted(path.parent.name for path in folder.parent.glob("*/result.json"))
        raise UserError(
            f"run={name}: {folder} is not finished (it has no result.json); finished beside it: "
            f"{', '.join(done) or 'none'}"
        )
    return [folder]


def _is_one(path: Path) -> bool:
    """Whether a run or a study lies there; what else bears a study's name, such as ``heads/``, is none."""
    if path.name == "checkpoint.pt":
        return path.is_file()
    return (path / "config.yaml").is_file() or (path / "runs").is_dir()


def _first(study: Study, label: str, name: str) -> Path:
    """The folder of a variant's first run, in the order of folds and seeds."""
    if label not in study.variants:
        raise unknown_name("run", name, (f"{study.folder.name}/{known}" for known in study.variants))
    return study.folder / "runs" / str(study.counted(label).iloc[0]["folder"])


def _unknown(name: str, path: Path, results_dir: Path) -> UserError:
    if path.exists():
        return UserError(f"run={name}: {path} is no run (it has no config.yaml) and no study (it has no runs/)")
    studies = {found.parents[2].name for found in results_dir.glob("*/runs/*/result.json")}
    if not studies:
        return UserError(f"run={name}: no such folder, and {results_dir} holds no finished run")
    return unknown_name("run", name, studies)


def _categories(folder: Path, ground_truth: str | None) -> list[dict[str, Any]]:
    """Those of the run's data, which need not be at hand: the study keeps them with the ground truth."""
    if ground_truth is None:
        raise UserError(f"{folder / 'result.json'} names no ground truth, which the names of classes come from")
    path = folder.parents[1] / ground_truth
    if not path.is_file():
        raise UserError(f"{folder}: the names of its classes are in {path}, which is missing")
    try:
        categories = load_json(path, "copy it from where the run was made")["categories"]
        return [{"id": int(one["id"]), "name": str(one["name"])} for one in categories]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it holds no list of categories with id and name") from error

"""Copy what is worth keeping of a study: tables, plots and where the numbers come from, but no weights and no data."""

import gzip
import shutil
from pathlib import Path, PurePath

from omegaconf import DictConfig, OmegaConf

from experiments.config.groups import FILE_KEYS
from experiments.report.build import SECTIONS
from experiments.report.section import Section
from experiments.runs.study import read
from instseg.errors import UserError
from instseg.files import write_atomically

SOURCES = ("study.json", "plan.json", "speed.json", "tuning.json", "sweeps.jsonl")
PREDICTIONS = "predictions"
"""Folder of the predictions of a publication, and of what they are scored against."""


def publish(study_dir: Path, to: Path, *, predictions: bool = False) -> list[Path]:
    """Copy a study's tables, plots, ``speed.json`` and the configuration of each run into an empty or old ``to``; with
    ``predictions`` each run's predictions and ground truth, too, from which all intervals can be worked out again.

    Images go along only where all of them are generated ones: photographs of data sets may not be passed on.

    ``to`` is made, or replaced as a whole where an earlier publication lies there; nothing else is ever replaced.
    Returns the files written.

    Raises:
        UserError: the report was not built, a run comes from code with uncommitted changes, ``to`` holds
            something else than a publication, or predictions are asked for on images that are not generated.
    """
    study = read(study_dir)
    if not (study_dir / "ap.csv").exists():
        raise UserError(f"{study_dir} has no ap.csv: build the report first")
    unclean = study.runs[study.runs["dirty"] != False]  # noqa: E712  (None: no checkout)
    if len(unclean):
        raise UserError(
            f"{study_dir}: {len(unclean)} runs come from code that is in no commit, the first: "
            f"{unclean.iloc[0]['folder']}; commit, delete these runs and sweep again"
        )
    generated = set(study.runs["dataset"]) == {"generated"}
    if predictions and not generated:
        raise UserError(
            f"{study_dir}: predictions are published of generated images alone, as the ground truth goes along"
        )
    names = [name for section in SECTIONS if generated or not section.photographs for name in _published(section)]
    if to.exists():
        if not _is_publication(to):
            raise UserError(f"publish={to}: holds something else than published tables; give a new or empty folder")
        shutil.rmtree(to)
    written = []
    for name in (*names, *SOURCES):
        if (study_dir / name).exists():
            written.append(write_atomically(to / name, (study_dir / name).read_bytes()))
    for folder in study.runs["folder"]:
        config = _without_places(study_dir / "runs" / folder / "config.yaml")
        written.append(write_atomically(to / "configs" / f"{folder}.yaml", config.encode()))
    if predictions:
        files = {f"{folder}.json": study_dir / "runs" / folder / "predictions.json" for folder in study.runs["folder"]}
        files |= {Path(name).name: study_dir / name for name in study.runs["ground_truth"].unique()}
        for name, source in files.items():
            packed = gzip.compress(source.read_bytes(), mtime=0)
            written.append(write_atomically(to / PREDICTIONS / f"{name}.gz", packed))
    return written


def _published(section: Section, *, former: bool = False) -> list[str]:
    """Names of a section's files that are kept: of images the PNG alone, as its PDF is many times larger."""
    return [name for name in section.files(former=former) if not (section.photographs and name.endswith(".pdf"))]


def _without_places(path: Path) -> str:
    """A run's configuration without where its data, weights and results lie."""
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    for keys, part in ((("data_root", "results_dir"), config), (FILE_KEYS, config.get("dataset", {}))):
        for key in keys:
            part.pop(key, None)
    OmegaConf.select(config, "dataset.options", default={}).pop("download_dir", None)
    for key in ("init", "core", "trunk.weights"):
        if given := OmegaConf.select(config, key):
            place = PurePath(str(given))
            name = place.parent if place.name == "checkpoint.pt" else place
            OmegaConf.update(config, key, name.name)
    return OmegaConf.to_yaml(config)


def _is_publication(folder: Path) -> bool:
    """Whether a folder holds only what :func:`publish` writes, so that nothing of a user's is lost with it."""
    known = {
        *SOURCES,
        "configs",
        PREDICTIONS,
        *(name for section in SECTIONS for name in _published(section, former=True)),
    }
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= known:
        return False
    endings = {"configs": ".yaml", PREDICTIONS: ".gz"}
    return all(path.suffix == ending for name, ending in endings.items() for path in folder.glob(f"{name}/*"))

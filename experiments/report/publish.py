"""Copy what is worth keeping of a study: tables, plots and where the numbers come from, but no weights and no data."""

import math
import shutil
from pathlib import Path, PurePath

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from experiments.config.groups import FILE_KEYS
from experiments.render import table as tables
from experiments.runs.study import Study, read
from instseg.errors import UserError
from instseg.files import write_atomically

_WRITTEN = ("ap", "win_tie_loss", "ap_by_object", "speed", "true_boxes", "shared_boxes")
TABLES = (*(f"{table}.{ending}" for table in _WRITTEN for ending in ("csv", "md", "tex")), "runs.csv", "runs.md")
PLOTS = ("learning_curves", "ap_latency", "forest", "win_tie_loss", "ap_by_object")
IMAGES = ("panels.png", "disagreement.png")
"""Of generated images alone."""
SOURCES = ("study.json", "speed.json", "sweeps.jsonl")


def publish(study_dir: Path, to: Path) -> list[Path]:
    """Copy a study's tables, plots, ``speed.json`` and the configuration of each run into an empty or old ``to``.

    Images go along only where all of them are generated ones: photographs of data sets may not be passed on.

    Args:
        study_dir: ``results/<study>``, with a report built.
        to: made, or replaced as a whole where an earlier publication lies there; nothing else is ever replaced.

    Returns:
        The files written.

    Raises:
        UserError: the report was not built, a run comes from code with uncommitted changes, or ``to`` holds
            something else than a publication.
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
    names = [*TABLES, *SOURCES, *(f"{plot}.{ending}" for plot in PLOTS for ending in ("png", "pdf"))]
    if set(study.runs["dataset"]) == {"generated"}:
        names += IMAGES
    if to.exists():
        if not _is_publication(to):
            raise UserError(f"publish={to}: holds something else than published tables; give a new or empty folder")
        shutil.rmtree(to)
    written = []
    for name in names:
        if (study_dir / name).exists():
            written.append(write_atomically(to / name, (study_dir / name).read_bytes()))
    for folder in study.runs["folder"]:
        config = _without_places(study_dir / "runs" / folder / "config.yaml")
        written.append(write_atomically(to / "configs" / f"{folder}.yaml", config.encode()))
    if (study_dir / "speed.csv").exists():
        written.append(write_atomically(to / "summary.md", summary(study, study_dir)))
    return written


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
    known = {*TABLES, *SOURCES, *IMAGES, "summary.md", "configs"}
    known |= {f"{plot}.{ending}" for plot in PLOTS for ending in ("png", "pdf")}
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= known:
        return False
    return all(path.suffix == ".yaml" for path in folder.glob("configs/*"))


def summary(study: Study, study_dir: Path) -> str:
    """The table for a README: AP, difference to the baseline, and cost of each variant."""
    ap, speed = pd.read_csv(study_dir / "ap.csv"), pd.read_csv(study_dir / "speed.csv").set_index("variant")
    rows = []
    for _, row in ap.iterrows():
        cost = speed.loc[row["variant"]]
        rows.append(
            {
                "mask head": row["variant"],
                **{f"{kind} AP": tables.mean_std(row, f"{kind}_AP") for kind in tables.kinds(ap)},
                "Δ mask AP [95 %]": tables.difference(row, "mask_AP"),
                "head parameters": _number(cost["head_parameters"], 0),
                "MFLOP/RoI": _number(cost["head_flops_per_roi"] / 1e6, 1),
                "ms/100 RoIs": _number(cost["head_ms_median"], 1),
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True) + "\n"


def _number(value: float, digits: int) -> str:
    """A number, or "–" for what was not measured."""
    return tables.MISSING if math.isnan(value) else f"{value:,.{digits}f}"

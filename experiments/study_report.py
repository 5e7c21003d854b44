"""Everything that can be said about a study, from its files alone: tables, plots, panels, and a text."""

from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import pandas as pd

from experiments import panels, plots, tables
from experiments.aggregate import Study, read
from experiments.compare import compare


def build(study_dir: Path, baseline: str, resamples: int = 1000) -> str:
    """Write the tables, plots and panels of a study into its folder, from any subset of finished runs.

    Output of an earlier build that can't be made now is removed, so that all files tell of the same runs.

    Args:
        study_dir: ``results/<study>``.
        baseline: the variant that the others are compared with; may be absent.
        resamples: bootstrap replicates for the intervals.

    Returns:
        The text for the terminal: tables, files, what was skipped and why, unfinished runs.

    Raises:
        UserError: there is no finished run, or ``result.json`` or ``speed.json`` is damaged.
    """
    study = read(study_dir)
    speed = tables.read_speed(study)
    ap = compare(study, baseline, resamples)
    order = list(ap["variant"])

    written = tables.write_ap(study_dir, ap, baseline, resamples)
    written += tables.write_runs(study_dir, study.runs)
    skipped: list[str] = []
    frame = None
    if speed is None:
        skipped.append("speed table and AP against cost: there is no speed.json; run the benchmark first")
        _remove(study_dir, "speed.csv", "speed.md", "speed.tex", "ap_latency.png", "ap_latency.pdf")
    else:
        frame = tables.speed_frame(speed, order)
        written += tables.write_speed(study_dir, frame, speed)
        unmeasured = [label for label in order if label not in speed["variants"]]
        if unmeasured:
            study.notes.append(f"speed.json has no {', '.join(unmeasured)}")
        written += _ap_against_cost(study_dir, ap, frame, order, skipped)
    written += _learning_curves(study, order, skipped)
    written += _panels(study, order, skipped)

    parts = [
        f"{study_dir.name}: {len(study.runs)} finished and {len(study.unfinished)} unfinished runs, "
        f"{len(order)} variants, baseline {baseline}",
        tables.terminal(ap, frame),
    ]
    parts.append(f"written to {study_dir}: {_listed(study_dir, written)}")
    parts += [f"skipped: {line}" for line in skipped]
    parts += [f"note: {line}" for line in study.notes]
    return "\n\n".join(parts[:3]) + "\n" + "".join(f"{line}\n" for line in parts[3:])


def _ap_against_cost(
    folder: Path, ap: pd.DataFrame, speed: pd.DataFrame, order: list[str], skipped: list[str]
) -> list[Path]:
    written = plots.draw(folder / "ap_latency", lambda: plots.ap_against_cost(ap, speed, order))
    if not written:
        skipped.append("AP against cost: no variant has both mask AP and a timing or FLOPs")
        _remove(folder, "ap_latency.png", "ap_latency.pdf")
    return written


def _learning_curves(study: Study, order: list[str], skipped: list[str]) -> list[Path]:
    logs = plots.read_logs(study, order)
    missing = [key for key in plots.CURVES if not plots.logged(logs, key)]
    if missing:
        skipped.append(f"learning curves of {', '.join(missing)}: in no run's metrics.jsonl")
    written = plots.draw(study.folder / "learning_curves", lambda: plots.learning_curves(logs, order))
    if not written:
        _remove(study.folder, "learning_curves.png", "learning_curves.pdf")
    return written


def _panels(study: Study, order: list[str], skipped: list[str]) -> list[Path]:
    folder = study.folder
    why = "no stored pictures (ground_truth/*-pictures.npz) with predictions"
    pictures: list[panels.Picture] = []
    try:
        pictures = panels.collect(study, order)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        why = f"a file can't be used ({type(error).__name__}: {error})"
    written = plots.draw(folder / "panels", partial(panels.grid, pictures, order))
    if not written:
        skipped.append(f"panels: {why}")
        _remove(folder, "panels.png", "panels.pdf")
    names = panels.file_names(order)
    for label in order:
        written += plots.draw(folder / "panels" / names[label], partial(panels.grid, pictures, [label]))
    old = [path for path in (folder / "panels").glob("*.p*") if path.suffix in (".png", ".pdf")]
    _remove(folder / "panels", *(path.name for path in old if path not in written))
    return written


def _listed(folder: Path, paths: list[Path]) -> str:
    """``ap.csv|md|tex, runs.csv|md, ...``"""
    endings: dict[str, list[str]] = {}
    for path in paths:
        stem, _, ending = path.relative_to(folder).as_posix().rpartition(".")
        endings.setdefault(stem, []).append(ending)
    return ", ".join(f"{stem}.{'|'.join(found)}" for stem, found in endings.items())


def _remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)

"""Everything that can be said about a study, from its files alone: tables, plots, panels, and a text."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import pandas as pd
from matplotlib.figure import Figure

from experiments.render import plot, table
from experiments.report import details_tables, disagreement, gt_boxes, panels, predictions, rows
from experiments.report.compare import compare
from experiments.report.predictions import Details
from experiments.runs import shared_boxes
from experiments.runs.study import Study, read
from instseg.errors import DataError

_UNUSABLE = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile)


def build(study_dir: Path, baseline: str, resamples: int = 1000, data_root: str | None = None) -> str:
    """Write the tables, plots and panels of a study into its folder, from any subset of finished runs.

    Output of an earlier build that can't be made now is removed, so that all files tell of the same runs.

    Args:
        study_dir: ``results/<study>``.
        baseline: the variant that the others are compared with; may be absent.
        resamples: bootstrap replicates for the intervals.
        data_root: where the data sets lie, for images on which heads differ; None: where the runs found them.

    Returns:
        The text for the terminal: tables, files, what was skipped and why, unfinished runs.

    Raises:
        UserError: there is no finished run, or ``result.json`` or ``speed.json`` is damaged.
    """
    study = read(study_dir)
    speed = table.read_speed(study)
    ap = compare(study, baseline, resamples)
    order = list(ap["variant"])

    written = table.write_ap(study_dir, ap, baseline, resamples)
    written += table.write_runs(study_dir, study.runs)
    skipped: list[str] = []
    frame = None
    if speed is None:
        skipped.append("speed table and AP against cost: there is no speed.json; run the benchmark first")
        _remove(study_dir, "speed.csv", "speed.md", "speed.tex", "ap_latency.png", "ap_latency.pdf")
    else:
        frame = table.speed_frame(speed, order)
        written += table.write_speed(study_dir, frame, speed)
        unmeasured = [label for label in order if label not in speed["variants"]]
        if unmeasured:
            study.notes.append(f"speed.json has no {', '.join(unmeasured)}")
        why = "no variant has both mask AP and a timing or FLOPs"
        written += _plot(study_dir, "ap_latency", partial(plot.ap_against_cost, ap, frame, order), why, skipped)
    written += _learning_curves(study, order, skipped)
    written += _panels(study, order, skipped)
    written += _plot(study_dir, "forest", partial(rows.forest, ap), "no variant has a difference", skipped)
    found = predictions.read(study)
    outcomes = predictions.win_tie_loss(found.images, ap)
    written += _win_tie_loss(study_dir, outcomes, ap, skipped)
    written += _ap_by_object(study, found, ap, skipped)
    written += _disagreement(study, found, ap, data_root, skipped)

    in_true_boxes = gt_boxes.compare(study, ap, resamples)
    written += _true_boxes(study_dir, in_true_boxes, resamples, skipped)

    in_shared_boxes = shared_boxes.compare(study, baseline, resamples)
    written += _shared_boxes(study_dir, in_shared_boxes, baseline, resamples, ap, skipped)

    parts = [
        f"{study_dir.name}: {len(study.runs)} finished and {len(study.unfinished)} unfinished runs, "
        f"{len(order)} variants, baseline {baseline}",
        "\n\n".join(
            [
                table.terminal(ap, frame),
                *_shared_boxes_text(in_shared_boxes, baseline),
                *_true_boxes_text(in_true_boxes),
                *_outcomes_text(outcomes),
            ]
        ),
    ]
    parts.append(f"written to {study_dir}: {_listed(study_dir, written)}")
    parts += [f"skipped: {line}" for line in skipped]
    parts += [f"note: {line}" for line in study.notes]
    return "\n\n".join(parts[:3]) + "\n" + "".join(f"{line}\n" for line in parts[3:])


def _true_boxes(folder: Path, found: pd.DataFrame, resamples: int, skipped: list[str]) -> list[Path]:
    if len(found):
        return gt_boxes.write(folder, found, resamples)
    skipped.append("masks in true boxes: no run has them; those of earlier versions don't")
    _remove(folder, "true_boxes.csv", "true_boxes.md", "true_boxes.tex")
    return []


def _true_boxes_text(found: pd.DataFrame) -> list[str]:
    if not len(found):
        return []
    return [table.fitted(gt_boxes.text(found)), "IoU in percent of masks in the objects' own boxes; *: real"]


def _shared_boxes(
    folder: Path, found: pd.DataFrame, baseline: str, resamples: int, ap: pd.DataFrame, skipped: list[str]
) -> list[Path]:
    if len(found):
        return shared_boxes.write(folder, found, baseline, resamples)
    if (ap["protocol"] != "frozen_core").any():
        skipped.append("masks in shared boxes: no run has them; the sweep makes them when it is given again")
    _remove(folder, "shared_boxes.csv", "shared_boxes.md", "shared_boxes.tex")
    return []


def _shared_boxes_text(found: pd.DataFrame, baseline: str) -> list[str]:
    if not len(found):
        return []
    return [table.fitted(shared_boxes.text(found)), f"masks in the boxes that {baseline} found, the same for all"]


def _plot(folder: Path, stem: str, make: Callable[[], Figure | None], why: str, skipped: list[str]) -> list[Path]:
    """Draw a plot; where there is nothing to draw, say why and remove an older one."""
    written = plot.draw(folder / stem, make)
    if not written:
        skipped.append(f"{stem}: {why}")
        _remove(folder, f"{stem}.png", f"{stem}.pdf")
    return written


def _learning_curves(study: Study, order: list[str], skipped: list[str]) -> list[Path]:
    logs = plot.read_logs(study, order)
    missing = [key for key in plot.CURVES if not plot.logged(logs, key)]
    if missing:
        skipped.append(f"learning curves of {', '.join(missing)}: in no run's metrics.jsonl")
    written = plot.draw(study.folder / "learning_curves", lambda: plot.learning_curves(logs, order))
    if not written:
        _remove(study.folder, "learning_curves.png", "learning_curves.pdf")
    return written


def _panels(study: Study, order: list[str], skipped: list[str]) -> list[Path]:
    why = "no stored images (ground_truth/*-images.npz) with predictions"
    images: list[panels.Column] = []
    try:
        images = panels.collect(study, order)
    except _UNUSABLE as error:
        why = f"a file can't be used ({type(error).__name__}: {error})"
    makers = {label: partial(panels.grid, images, [label]) for label in order}
    return _with_folder(study.folder, "panels", partial(panels.grid, images, order), makers, why, skipped)


def _win_tie_loss(folder: Path, outcomes: pd.DataFrame, ap: pd.DataFrame, skipped: list[str]) -> list[Path]:
    written = _plot(
        folder, "win_tie_loss", lambda: rows.win_tie_loss(outcomes, ap), "no variant can be compared", skipped
    )
    if not written:
        _remove(folder, *(f"win_tie_loss.{ending}" for ending in ("csv", "md", "tex")))
        return []
    return details_tables.write_win_tie_loss(folder, outcomes) + written


def _outcomes_text(outcomes: pd.DataFrame) -> list[str]:
    if outcomes.empty:
        return []
    text = details_tables.win_tie_loss_text(outcomes).drop(columns="compared with")
    about = "held-out images by the mean mask IoU of their objects, better or worse than the baseline's by more than"
    return [table.fitted(text), f"{about} {predictions.TIE}"]


def _ap_by_object(study: Study, found: Details, ap: pd.DataFrame, skipped: list[str]) -> list[Path]:
    thirds = predictions.by_complexity(found, study, list(ap["variant"]))
    make = partial(rows.ap_by_object, ap, thirds)
    return details_tables.write_ap_by_object(study.folder, ap, thirds) + _plot(
        study.folder, "ap_by_object", make, "no variant has AP by size or complexity", skipped
    )


def _disagreement(
    study: Study, found: Details, ap: pd.DataFrame, data_root: str | None, skipped: list[str]
) -> list[Path]:
    order, rivals = list(ap["variant"]), dict(predictions.rivals(ap))
    why = "no image at hand on which two variants differ"
    chosen: dict[str, list[panels.Column]] = {}
    try:
        chosen = disagreement.choose(study, found, ap, data_root)
    except (*_UNUSABLE, DataError) as error:
        why = f"a file can't be used ({type(error).__name__}: {error})"
    makers = {
        label: partial(panels.grid, chosen.get(label, []), [other, label], disagreement.about(study, label, other))
        for label, other in rivals.items()
    }
    overview = partial(panels.grid, chosen.get("", []), order, disagreement.about(study, "", ""))
    return _with_folder(study.folder, "disagreement", overview, makers, why, skipped)


def _with_folder(
    folder: Path,
    stem: str,
    overview: Callable[[], Figure | None],
    makers: Mapping[str, Callable[[], Figure | None]],
    why: str,
    skipped: list[str],
) -> list[Path]:
    """A plot of all variants, and in the folder of its name one of each; older ones of others are removed."""
    written = _plot(folder, stem, overview, why, skipped)
    names = panels.file_names(list(makers))
    for label, make in makers.items():
        written += plot.draw(folder / stem / names[label], make)
    old = [path for path in (folder / stem).glob("*.p*") if path.suffix in (".png", ".pdf")]
    _remove(folder / stem, *(path.name for path in old if path not in written))
    return written


def _listed(folder: Path, paths: list[Path]) -> str:
    """``ap.csv|md|tex, runs.csv|md, panels/*.png|pdf, ...``"""
    endings: dict[str, list[str]] = {}
    for path in paths:
        place = path.relative_to(folder)
        stem = place.name.rpartition(".")[0] if place.parent == Path() else f"{place.parent.as_posix()}/*"
        known = endings.setdefault(stem, [])
        if path.suffix[1:] not in known:
            known.append(path.suffix[1:])
    return ", ".join(f"{stem}.{'|'.join(found)}" for stem, found in endings.items())


def _remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)

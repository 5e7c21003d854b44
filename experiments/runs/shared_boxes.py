"""A study's heads on one set of detections that is the same for all: the baseline's of the same fold and seed.

Trained end to end, each variant has boxes of its own, and luck with them goes into its mask AP. Here every head gives
its masks, from its own trunk, in the boxes, and with the classes and scores, that the baseline found. With
``frozen_core`` all heads have the same detections as it is.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.render import table
from experiments.report import compare as differences
from experiments.runs import trained
from experiments.runs.end_to_end import prepare
from experiments.runs.study import METRICS, Study, number, read
from instseg import progress
from instseg.errors import UserError
from instseg.evaluation import coco
from instseg.evaluation.predict import predict_in_boxes
from instseg.files import write_atomically

FILE = "shared_boxes.json"
"""In a run's folder: ``of`` (whose detections: folder and digest), ``metrics`` by kind, and ``results``."""
KINDS: tuple[coco.Kind, ...] = ("mask", "boundary")
_HEADINGS = {"AP": "mask AP", "AP50": "AP50", "AP75": "AP75", "APs": "APs", "APm": "APm", "APl": "APl"}


def measure(folder: Path, baseline: str, *, data_root: str | None, device: str) -> None:
    """Have each run that was trained end to end give its masks in the baseline's boxes, where it has not yet.

    Args:
        folder: ``results/<study>``.
        baseline: the variant whose detections are shared.
        data_root: as for the sweep.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: data, configuration or checkpoint of a run can't be used.
    """
    study = read(folder)
    truths = dict(zip(study.runs["folder"], study.runs["ground_truth"], strict=True))
    todo = []
    for run, source in _pairs(study, baseline):
        of = _origin(folder / "runs" / source)
        path = folder / "runs" / run / FILE
        if not path.exists() or _content(path).get("of") != of:
            todo.append((run, of))
    for run, of in progress.bar(iterable=todo, desc="shared boxes", unit="run", disable=not todo):
        _measure_run(folder, run, of, str(truths[run]), data_root, device)


def compare(study: Study, baseline: str, resamples: int) -> pd.DataFrame:
    """What :func:`experiments.report.compare.compare` gives, of masks and boundaries in the baseline's boxes; empty
    where no run has them. Notes are added to ``study.notes``."""
    rows = []
    sources = dict(_pairs(study, baseline))
    for row in study.runs[study.runs["counted"]].to_dict("records"):
        path = study.folder / "runs" / row["folder"] / FILE
        if row["folder"] not in sources or not path.is_file():
            continue
        try:
            content = _content(path)
            if content.get("of") != _origin(study.folder / "runs" / sources[row["folder"]]):
                study.notes.append(f"{row['folder']}: its masks in shared boxes are of older detections; sweep again")
                continue
            for kind in KINDS:
                row |= {f"{kind}_{m}": number(content["metrics"][kind][m]) for m in METRICS}
        except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            study.notes.append(f"{row['folder']}: its {FILE} can't be read ({type(error).__name__}: {error})")
            continue
        rows.append(row)
    if not rows:
        return pd.DataFrame()
    # what is wrong with the study at large is noted already
    shared = replace(study, runs=pd.DataFrame(rows), notes=[], predictions=FILE, scored=KINDS)
    found = differences.compare(shared, baseline, resamples)
    study.notes += [note for note in shared.notes if note not in study.notes]
    return found


def write(folder: Path, found: pd.DataFrame, baseline: str, resamples: int) -> list[Path]:
    """``shared_boxes.csv|md|tex``."""
    note = (
        f"AP in percent of the masks that each variant gives in the boxes that {baseline} of the same fold and seed "
        f"found, with its classes and scores; else as in ap.md ({resamples} resamples)."
    )
    stem = folder / "shared_boxes"
    return table.write_all(stem, found, table.ap_text(found, baseline), note, rule_every=len(found))


def text(found: pd.DataFrame) -> pd.DataFrame:
    """The table for a terminal."""
    shown: dict[str, Sequence[str]] = {"variant": list(found["variant"])}
    for metric, heading in _HEADINGS.items():
        if found[f"mask_{metric}_n"].any():
            shown[heading] = [table.mean_std(row, f"mask_{metric}") for _, row in found.iterrows()]
    shown["Δ mask AP [95 %]"] = [table.difference(row, "mask_AP") for _, row in found.iterrows()]
    return pd.DataFrame(shown)


def _pairs(study: Study, baseline: str) -> list[tuple[str, str]]:
    """Runs that were trained end to end, each with the run of the baseline whose detections are shared."""
    pairs = []
    for label in study.ordered(baseline):
        rival = differences.rival_of(study, label, baseline)
        if rival is None:
            continue
        theirs = {(r["fold"], r["seed"], r["ground_truth"]): r["folder"] for _, r in study.counted(rival).iterrows()}
        for _, run in study.counted(label).iterrows():
            source = theirs.get((run["fold"], run["seed"], run["ground_truth"]))
            if run["protocol"] == "end_to_end" and source is not None:
                pairs.append((str(run["folder"]), str(source)))
    return pairs


def _origin(source: Path) -> dict[str, str]:
    """Whose detections, and which: a run that was done again may have found others."""
    try:
        content = (source / "predictions.json").read_bytes()
    except OSError as error:
        raise UserError(
            f"{source / 'predictions.json'} can't be read ({error.strerror}): delete the folder to rerun"
        ) from error
    return {"run": source.name, "sha256": hashlib.sha256(content).hexdigest()}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _measure_run(
    folder: Path, run: str, of: dict[str, str], ground_truth: str, data_root: str | None, device: str
) -> None:
    here = folder / "runs" / run
    config = trained.config_of(here, data_root, device)
    target = prepare(config)
    held_out = trained.held_out(folder, run, ground_truth, data_root)
    results = predict_in_boxes(
        trained.load_model(config, held_out.num_classes, here / "checkpoint.pt", target),
        held_out,
        json.loads((folder / "runs" / of["run"] / "predictions.json").read_text("utf-8")),
        config.make_inference(target),
    )
    truth, engine = held_out.ground_truth(), config.evaluation.engine
    metrics = {kind: coco.metrics(coco.evaluate(truth, results, kind, engine)) for kind in KINDS}
    write_atomically(here / FILE, json.dumps({"of": of, "metrics": metrics, "results": results}))

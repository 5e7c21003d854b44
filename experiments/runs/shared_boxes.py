"""A study's heads on one set of detections that is the same for all: the baseline's of the same fold and seed.

Trained end to end, each variant has boxes of its own, and luck with them goes into its mask AP. Here every head gives
its masks, from its own trunk, in the boxes of the baseline's detections, with their classes and scores. With
``frozen_core`` all heads have the same detections anyway.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from experiments.runs import trained
from experiments.runs.end_to_end import prepare
from experiments.runs.study import Study, read
from experiments.runs.study_files import PREDICTIONS
from instseg import progress
from instseg.errors import UserError
from instseg.evaluation import coco
from instseg.evaluation.kinds import METRIC_KINDS
from instseg.evaluation.predict import predict_in_boxes
from instseg.files import write_atomically

FILE = "shared_boxes.json"
"""In a run's folder: ``of`` (whose detections: folder and digest), ``metrics`` by kind, and ``results``."""
KINDS = tuple(kind.name for kind in METRIC_KINDS.values() if kind.of_masks)
"""What is measured: the boxes are the same for all."""


def measure(folder: Path, baseline: str, *, data_root: str | None, device: str) -> None:
    """Have each run of ``results/<study>`` that was trained end to end give its masks in the boxes of the variant
    ``baseline``, where it has not yet; ``data_root`` and ``device`` are as for the sweep.

    Raises:
        UserError: data, configuration or checkpoint of a run can't be used.
    """
    study = read(folder)
    truths = dict(zip(study.runs["folder"], study.runs["ground_truth"], strict=True))
    origins = {run: origin(study.files.run(source)) for run, source in sources(study, baseline).items()}
    todo = {run: of for run, of in origins.items() if _content(study.files.run(run) / FILE).get("of") != of}
    for run, of in progress.bar(iterable=todo.items(), desc="shared boxes", unit="run", disable=not todo):
        here = study.files.run(run)
        config = trained.config_of(here, data_root, device)
        target = prepare(config)
        held_out = trained.held_out(folder, run, str(truths[run]), data_root)
        results = predict_in_boxes(
            trained.load_model(config, held_out.num_classes, here / "checkpoint.pt", target),
            held_out,
            json.loads((study.files.run(of["run"]) / PREDICTIONS).read_text("utf-8")),
            config.make_inference(target),
        )
        truth, engine = held_out.ground_truth(), config.evaluation.engine
        metrics = {kind: coco.metrics(coco.evaluate(truth, results, kind, engine)) for kind in KINDS}
        write_atomically(here / FILE, json.dumps({"of": of, "metrics": metrics, "results": results}))


def sources(study: Study, baseline: str) -> dict[str, str]:
    """The runs that were trained end to end, each with the run of the baseline whose detections are shared."""
    pairs: dict[str, str] = {}
    for variant in study.ordered(baseline):
        rival = study.rival_of(variant, baseline)
        if rival is None:
            continue
        key = ["fold", "seed", "ground_truth"]
        runs = study.counted(variant).merge(study.counted(rival), on=key, suffixes=("", "_rival"))
        runs = runs[runs["protocol"] == "end_to_end"]
        pairs |= dict(zip(runs["folder"], runs["folder_rival"], strict=True))
    return pairs


def origin(source: Path) -> dict[str, str]:
    """Whose detections, and which: a run that was done again may have other ones. A ``UserError`` where they can't be
    read."""
    try:
        content = (source / PREDICTIONS).read_bytes()
    except OSError as error:
        raise UserError(
            f"{source / PREDICTIONS} can't be read ({error.strerror}): delete the folder to rerun"
        ) from error
    return {"run": source.name, "sha256": hashlib.sha256(content).hexdigest()}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

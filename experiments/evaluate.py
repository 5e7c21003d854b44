"""Score any model's results: ``python -m experiments.evaluate annotations=instances.json predictions=results.json``.

Prints COCO's twelve numbers for boxes and for masks, as pycocotools computes them from the two files, and those of
boundary AP. With several results files, ``predictions=B,C``, it also says how far each is from the first, with an
interval.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from pycocotools.coco import COCO
from tabulate import tabulate

from experiments.config import apps, cli
from experiments.render.table import difference, number
from instseg.errors import DataError, UserError
from instseg.evaluation import coco
from instseg.evaluation.coco import Kind
from instseg.evaluation.kinds import METRIC_KINDS
from instseg.evaluation.matches import match
from instseg.files import faults_of, read_json, write_atomically
from instseg.statistics.estimate import Estimate
from instseg.statistics.resampling import differences, mean_over_runs, score_run
from instseg.statistics.verdict import Comparison, judge

Scored = dict[str, dict[str, float | None]]
"""COCO's twelve numbers by kind."""


def score(annotations: Path, predictions: Path, engine: str = coco.DEFAULT_ENGINE) -> tuple[Scored, str]:
    """Score a results file against an annotation file.

    Returns:
        The twelve numbers for ``box``, ``mask`` and ``boundary`` as far as the results have them, and the text for
        the terminal.

    Raises:
        DataError: one of the files can't be used; one line that begins with its name.
    """
    return _score((annotations, read_json(annotations)), (predictions, read_json(predictions)), engine)


def _score(annotations: tuple[Path, Any], predictions: tuple[Path, Any], engine: str) -> tuple[Scored, str]:
    (truth_path, truth), (path, results) = annotations, predictions
    lines = {kind: _lacks(results, kind) for kind in coco.KINDS}
    kinds = [kind for kind, lacking in lines.items() if lacking is None]
    with faults_of(truth_path):
        coco.check_ground_truth(truth, kinds)
    if not kinds:
        raise DataError(f"{path}: no result has bbox or segmentation; one of them is needed")
    scored: Scored = {}
    for kind in kinds:
        with faults_of(path):
            evaluation = coco.evaluate(truth, results, kind, engine)
        scored[kind] = coco.metrics(evaluation)
        lines[kind] = f"{kind}:\n{coco.summary(evaluation)}"
    return scored, "\n".join(str(line) for line in lines.values())


def _lacks(results: Any, kind: str) -> str | None:
    """What to say where no result has what this kind is scored by."""
    needed = METRIC_KINDS[kind].needs
    if isinstance(results, list) and results and all(isinstance(r, dict) and needed not in r for r in results):
        return f"{kind}: not scored, no result has {needed}"
    return None


def compare(
    annotations: Path, predictions: list[str], resamples: int, seed: int, engine: str = coco.DEFAULT_ENGINE
) -> tuple[dict[str, Any], str]:
    """Score several results files, and compare each with the first.

    Returns:
        What ``output=`` holds: ``scores`` by file, ``differences`` as rows, and what they were made with; and the text.

    Raises:
        DataError: as :func:`score`, or there is nothing that all files can be scored by.
    """
    truth, results = read_json(annotations), {name: read_json(Path(name)) for name in predictions}
    scores, parts = {}, []
    for name in predictions:
        scores[name], lines = _score((annotations, truth), (Path(name), results[name]), engine)
        parts.append(f"{name}\n{lines}")
    kinds = [kind for kind in coco.KINDS if all(kind in by_kind for by_kind in scores.values())]
    if not kinds:
        has = "; ".join(f"{name}: {', '.join(by_kind)}" for name, by_kind in scores.items())
        raise DataError(f"no difference can be told, as not all files hold boxes or all masks ({has})")
    images, index = len(truth["images"]), coco.load(truth)
    compared = compare_files(index, results, kinds, resamples, seed)
    notes = gaps(index, results)
    parts += [
        f"differences to {predictions[0]}, paired over {images} images, {resamples} resamples:",
        differences_text(compared),
        "AP in percent. The intervals cover the draw of the images, not what another training of the same models would "
        "give: one training of each gives no verdict.",
    ]
    output = {"annotations": str(annotations), "images": images, "resamples": resamples, "seed": seed}
    output |= {"scores": scores, "differences": [file.to_json() for file in compared], "notes": notes}
    return output, "\n".join(["\n\n".join(parts), *(f"note: {line}" for line in notes)])


class FileScore(NamedTuple):
    """AP of one results file by one kind, and its difference to the first file."""

    ap: Estimate
    comparison: Comparison

    @property
    def interval(self) -> tuple[float, float]:
        """Of AP; no AP lies below 0 or above 100."""
        return max(self.ap.low, 0.0), min(self.ap.high, 100.0)

    def to_json(self) -> dict[str, Any]:
        """One row of ``differences`` in the output; None for what there is none of."""
        comparison = self.comparison
        (low, high), (diff_low, diff_high) = self.interval, comparison.interval
        corrected_low, corrected_high = comparison.corrected_interval
        numbers = {
            **{"AP": self.ap.value, "AP_low": low, "AP_high": high},
            **{"diff": comparison.value, "diff_low": diff_low, "diff_high": diff_high, "p": comparison.p},
            **{"p_holm": comparison.corrected_p},
            **{"diff_corrected_low": corrected_low, "diff_corrected_high": corrected_high},
        }
        # nan is no JSON
        known = {key: None if math.isnan(value) else value for key, value in numbers.items()}
        return {"kind": comparison.kind, "predictions": comparison.variant, **known}


def compare_files(
    truth: COCO, results: Mapping[str, coco.Results], kinds: Sequence[Kind], resamples: int, seed: int
) -> list[FileScore]:
    """AP of each file and its difference to the first one, on the same resamples of the annotations' images.

    Every image and category of the annotations counts for every file: what a file has no result on, it has not found.

    Args:
        truth: index of the annotations, as :func:`instseg.evaluation.coco.load` gives it.
        results: by name, without fault by all of ``kinds``; the first is the baseline.
        resamples, seed: number of bootstrap replicates, and the bootstrap's own seed.

    Returns:
        By kind, one score a file; the differences of a kind are judged together.
    """
    first, *others = results
    scores = []
    for kind in kinds:
        runs = {
            name: {(0, 0): score_run(match(truth, entries, kind), 0, resamples, seed)}
            for name, entries in results.items()
        }
        comparisons = judge(differences(runs, {first: None} | dict.fromkeys(others, first)), kind, "AP")
        scores += [FileScore(mean_over_runs(runs[name]), comparisons[name]) for name in results]
    return scores


def gaps(truth: COCO, results: Mapping[str, coco.Results]) -> list[str]:
    """A line for each file that has nothing on some images or categories of which there are objects."""
    objects = [annotation for annotation in truth.dataset["annotations"] if not annotation["iscrowd"]]
    lines = []
    for name, entries in results.items():
        for key, what in (("image_id", "images"), ("category_id", "categories")):
            present = {annotation[key] for annotation in objects}
            absent = sorted(present - {entry[key] for entry in entries})
            if absent:
                shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
                missed = f"no result on {len(absent)} of {len(present)} {what} with objects ({shown})"
                lines.append(f"{name}: {missed}; they count as not found")
    return lines


def differences_text(scores: Sequence[FileScore]) -> str:
    """The table for a terminal."""
    rows = []
    for file in scores:
        comparison, (low, high) = file.comparison, file.interval
        rows.append(
            [
                comparison.kind,
                comparison.variant,
                number(file.ap.value, 2) + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"),
                difference(comparison, 2),
                *("<0.001" if p < 0.001 else number(p, 3) for p in (comparison.p, comparison.corrected_p)),
            ]
        )
    names = ["kind", "predictions", "AP [95 %]", "Δ AP [95 %, corrected]", "p", "p, Holm"]
    return tabulate(rows, names, disable_numparse=True, colalign=["left", "left", *["right"] * 4])


def _job(cfg: DictConfig) -> None:
    config = apps.to_config(cfg, apps.Evaluate)
    names, annotations = config.names(), Path(config.annotations)
    output: dict[str, Any]
    if len(names) == 1:
        output, text = score(annotations, Path(names[0]), config.engine)
    else:
        output, text = compare(annotations, names, config.resamples, config.seed, config.engine)
    print(text)
    if config.output is not None:
        try:
            write_atomically(Path(config.output), json.dumps(output, indent=1))
        except OSError as error:
            raise UserError(f"output={config.output}: can't be written ({error.strerror or error})") from error


if __name__ == "__main__":
    sys.argv[1:] = [cli.as_list("predictions", argument) for argument in sys.argv[1:]]
    apps.register()
    cli.run(cli.app("pkg://experiments.conf_apps", "evaluate", _job))

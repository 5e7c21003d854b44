"""Score any model's results: ``python -m experiments.evaluate annotations=instances.json predictions=results.json``.

Prints COCO's twelve numbers for boxes and for masks, as pycocotools computes them from the two files, and those of
boundary AP. With several results files, ``predictions=B,C``, it also says how far each is from the first, with an
interval.
"""

import json
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments import pairs
from experiments.config import apps, cli
from instseg.errors import DataError, UserError
from instseg.evaluation import coco
from instseg.files import write_atomically


def score(
    annotations: Path, predictions: Path, engine: str = coco.DEFAULT_ENGINE
) -> tuple[dict[str, dict[str, float | None]], str]:
    """Score a results file against an annotation file.

    Returns:
        The twelve numbers for ``box``, ``mask`` and ``boundary`` as far as the results have them, and the text for
        the terminal.

    Raises:
        DataError: one of the files can't be used; one line that begins with its name.
    """
    return _scored(load(annotations), load(predictions), (annotations, predictions), engine)


def _scored(
    truth: Any, results: Any, files: tuple[Path, Path], engine: str
) -> tuple[dict[str, dict[str, float | None]], str]:
    annotations, predictions = files
    lines = {kind: _lacks(results, kind) for kind in coco.KINDS}
    kinds = [kind for kind, lacking in lines.items() if lacking is None]
    try:
        coco.check_ground_truth(truth, kinds)
    except DataError as error:
        raise DataError(f"{annotations}: {error}") from error
    if not kinds:
        raise DataError(f"{predictions}: no result has bbox or segmentation; one of them is needed")
    scored: dict[str, dict[str, float | None]] = {}
    for kind in kinds:
        try:
            evaluation = coco.evaluate(truth, results, kind, engine)
        except DataError as error:
            raise DataError(f"{predictions}: {error}") from error
        scored[kind] = coco.metrics(evaluation)
        lines[kind] = f"{kind}:\n{coco.summary(evaluation)}"
    return scored, "\n".join(str(line) for line in lines.values())


def load(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: there is no such file, or it is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error}); a JSON file is needed") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({' '.join(str(error).split())})") from error


def _lacks(results: Any, kind: str) -> str | None:
    """What to say where no result has what this kind is scored by."""
    needed = "bbox" if kind == "box" else "segmentation"
    if isinstance(results, list) and results and all(isinstance(r, dict) and needed not in r for r in results):
        return f"{kind}: not scored, no result has {needed}"
    return None


def compare(
    annotations: Path, predictions: list[str], resamples: int, seed: int, engine: str = coco.DEFAULT_ENGINE
) -> tuple[dict[str, Any], str]:
    """Score several results files, and compare each with the first.

    Returns:
        ``scores`` by file, ``differences`` as rows, what they were made with, and the text for the terminal.

    Raises:
        DataError: as :func:`score`, or there is nothing that all files can be scored by.
    """
    truth, results = load(annotations), {name: load(Path(name)) for name in predictions}
    scores, parts = {}, []
    for name in predictions:
        scores[name], lines = _scored(truth, results[name], (annotations, Path(name)), engine)
        parts.append(f"{name}\n{lines}")
    kinds = [kind for kind in coco.KINDS if all(kind in one for one in scores.values())]
    if not kinds:
        has = "; ".join(f"{name}: {', '.join(one)}" for name, one in scores.items())
        raise DataError(f"no difference can be told, as not all files hold boxes or all masks ({has})")
    images, index = len(truth["images"]), coco.load(truth)
    frame = pairs.differences(index, results, kinds, resamples, seed)
    notes = pairs.gaps(index, results)
    # pandas' nan is no JSON
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    made = {"annotations": str(annotations), "images": images, "resamples": resamples, "seed": seed}
    text = "\n\n".join([*parts, pairs.text(frame, images, resamples)])
    return {**made, "scores": scores, "differences": rows, "notes": notes}, "\n".join(
        [text, *(f"note: {line}" for line in notes)]
    )


def _job(cfg: DictConfig) -> None:
    config = apps.to_config(cfg, apps.Evaluate)
    names = config.names()
    annotations = Path(config.annotations)
    found: dict[str, Any]
    if len(names) == 1:
        found, text = score(annotations, Path(names[0]), config.engine)
    else:
        found, text = compare(annotations, names, config.resamples, config.seed, config.engine)
    print(text)
    if config.output is not None:
        try:
            write_atomically(Path(config.output), json.dumps(found, indent=1))
        except OSError as error:
            raise UserError(f"output={config.output}: can't be written ({error.strerror or error})") from error


if __name__ == "__main__":
    sys.argv[1:] = [cli.as_list("predictions", argument) for argument in sys.argv[1:]]
    apps.register()
    cli.run(cli.app("pkg://experiments.conf_apps", "evaluate", _job))

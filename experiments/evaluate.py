"""Score any model's results: ``python -m experiments.evaluate annotations=instances.json predictions=results.json``.

Prints COCO's twelve numbers for boxes and for masks, as pycocotools computes them from the two files.
"""

import json
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments import app_config, cli
from instseg.errors import DataError, UserError
from instseg.evaluation import coco
from instseg.files import write_atomically


def score(annotations: Path, predictions: Path) -> tuple[dict[str, dict[str, float | None]], str]:
    """Score a results file against an annotation file.

    Returns:
        COCO's numbers for ``box`` and ``mask`` as far as the results have them, and the text for the terminal.

    Raises:
        DataError: one of the files can't be used; one line that begins with its name.
    """
    truth, results = load(annotations), load(predictions)
    lines = {kind: _lacks(results, kind) for kind in coco.IOU_TYPES}
    kinds = [kind for kind, lacking in lines.items() if lacking is None]
    try:
        coco.check_ground_truth(truth, kinds)
    except DataError as error:
        raise DataError(f"{annotations}: {error}") from error
    if not kinds:
        raise DataError(f"{predictions}: no result has bbox or segmentation; one of them is needed")
    if any(annotation["id"] == 0 for annotation in truth["annotations"]):
        print(
            f"warning: {annotations}: an annotation has id 0, and pycocotools counts what matches it as unmatched, so "
            "these numbers are too low: number the annotations from 1",
            file=sys.stderr,
        )
    scored = {}
    for kind in kinds:
        try:
            evaluation = coco.evaluate(truth, results, kind)
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
    needed = {"box": "bbox", "mask": "segmentation"}[kind]
    if isinstance(results, list) and results and all(isinstance(r, dict) and needed not in r for r in results):
        return f"{kind}: not scored, no result has {needed}"
    return None


def _job(cfg: DictConfig) -> None:
    config = app_config.typed(cfg, app_config.Evaluate)
    scored, text = score(Path(config.annotations), Path(config.predictions))
    print(text)
    if config.output is not None:
        try:
            write_atomically(Path(config.output), json.dumps(scored, indent=1))
        except OSError as error:
            raise UserError(f"output={config.output}: can't be written ({error.strerror or error})") from error


if __name__ == "__main__":
    app_config.register()
    cli.run(cli.app("pkg://experiments.conf_apps", "evaluate", _job))

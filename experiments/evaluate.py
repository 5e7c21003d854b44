"""Score any model's results: ``python -m experiments.evaluate annotations=instances.json predictions=results.json``.

Prints COCO's twelve numbers for boxes and for masks, as pycocotools computes them from the two files.
"""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments import cli
from instseg.errors import DataError
from instseg.evaluation import coco
from instseg.files import write_atomically


def _job(cfg: DictConfig) -> None:
    annotations, predictions = Path(cfg.annotations), Path(cfg.predictions)
    truth, results = _load(annotations, "annotations"), _load(predictions, "predictions")
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth, dict) or not isinstance(truth.get(key), list):
            raise DataError(f"{annotations} is not a COCO annotation file: it has no list {key!r}")
    scored: dict[str, Any] = {}
    for kind, needed in (("box", "bbox"), ("mask", "segmentation")):
        if isinstance(results, list) and results and all(isinstance(r, dict) and needed not in r for r in results):
            print(f"{kind}: not scored, no result has {needed}")
            continue
        try:
            evaluation = coco.evaluate(truth, results, kind)
        except DataError as error:
            raise DataError(f"{predictions}: {error}") from error
        print(f"{kind}:\n{coco.summary(evaluation)}")
        scored[kind] = coco.metrics(evaluation)
    if cfg.output is not None:
        write_atomically(Path(cfg.output), json.dumps(scored, indent=1).encode())


def _load(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{key}={path}: no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{key}={path}: not a JSON file ({error})") from error


if __name__ == "__main__":
    cli.run(cli.app("pkg://experiments.conf_apps", "evaluate", _job))

"""``tuning.json`` made up by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SPACE = {
    **{key: {"low": 0.25, "high": 4.0, "log": True} for key in ("lr_mult", "decay_mult", "loss_weight")},
    "norm": {"values": ["none", "group", "batch"]},
}
NORMS = ("none", "group", "batch")


def content(scores: Mapping[str, Sequence[Sequence[float | None]]], **changes: Any) -> dict[str, Any]:
    """``scores`` hold by variant those of each trial of each fold; the best of a fold is chosen. Trial t has norm t
    modulo 3 and a rate of 1 + t; ``changes`` overwrite keys."""
    trials, chosen = [], []
    for variant, folds in scores.items():
        for fold, values in enumerate(folds):
            settings = [
                {"lr_mult": 1.0 + t, "decay_mult": 1.0, "loss_weight": 1.0, "norm": NORMS[t % 3]}
                for t in range(len(values))
            ]
            rows = [
                {"variant": variant, "fold": fold, "trial": t, "settings": settings[t], "score": score, "run": "a run"}
                for t, score in enumerate(values)
            ]
            best = max(rows, key=lambda row: -1 if row["score"] is None else row["score"])
            trials += rows
            chosen.append({key: best[key] for key in ("variant", "fold", "trial", "settings", "score")})
    budget = max(len(values) for folds in scores.values() for values in folds)
    whole = {"budget": budget, "score": "mask_AP", "choice": "each_fold", "space": SPACE}
    return {**whole, "trials": trials, "chosen": chosen, **changes}


def write(study: Path, scores: Mapping[str, Sequence[Sequence[float | None]]], **changes: Any) -> Path:
    """Write a study's ``tuning.json``."""
    path = study / "tuning.json"
    path.write_text(json.dumps(content(scores, **changes)))
    return path

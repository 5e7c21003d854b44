"""Where every number comes from: one row a finished run."""

import json

import pandas as pd

from experiments.render import table
from experiments.report.section import Content, Findings, Section
from instseg.evaluation import coco

_AP = {f"{kind}_AP": kind for kind in coco.KINDS}
_COLUMNS = (
    *("hash", "variant", "head", "options", "protocol", "dataset", "trunk", "fold", "seed", "iterations"),
    *("trained_iterations", *_AP),
    *("counted", "left_out", "commit", "dirty", "device", "torch", "train_seconds", "wall_seconds", "finished"),
    "folder",
)


def make(findings: Findings) -> Content:
    """``runs.csv|md``."""
    numbers = findings.study.runs[list(_COLUMNS)].copy()
    numbers["options"] = [json.dumps(options, sort_keys=True) for options in numbers["options"]]
    text = numbers.drop(columns=["options", "folder"])
    text = text.drop(columns=[column for column, kind in _AP.items() if kind not in findings.study.kinds])
    text["commit"] = [table.cell(commit)[:10] for commit in text["commit"]]
    digits = {column: 2 for column in _AP if column in text} | {"train_seconds": 0, "wall_seconds": 0}
    for column, places in digits.items():
        text[column] = [table.number(value, places) for value in pd.to_numeric(text[column])]
    note = "Times in seconds; counted is no where a newer run of the same variant, fold and seed replaces this one."
    return Content(table.Table(numbers, text.map(table.cell), note))


SECTION = Section("runs", make, endings=("csv", "md"))

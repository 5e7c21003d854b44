"""The tables of a study: AP, speed and provenance, as CSV for machines and as Markdown and LaTeX for people.

In CSV files a missing value is an empty field and every number has its own column; elsewhere it is "–".
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from experiments.runs.study import KINDS, METRICS, Study, load_json, number
from instseg.errors import UserError
from instseg.evaluation.coco import Kind
from instseg.files import write_atomically

MISSING = "–"
MARK = "*"
"""Behind a difference that is real."""
WIDTH = 120
_SPEED_RANGES = {"head_ms": "head ms", "images_per_s": "images/s", "train_images_per_s": "train images/s"}
# Column of speed.json -> heading, and what one unit of the heading is.
_SPEED_NUMBERS = {
    "peak_memory_mib": ("peak MiB", 1.0),
    "parameters": ("parameters M", 1e6),
    "head_parameters": ("head parameters M", 1e6),
    "head_flops_per_roi": ("head MFLOP/RoI", 1e6),
    "flops_per_image": ("GFLOP/image", 1e9),
}
_RUN_COLUMNS = (
    *("hash", "variant", "head", "options", "protocol", "dataset", "trunk", "fold", "seed", "iterations"),
    *("box_AP", "mask_AP", "boundary_AP", "counted", "left_out", "commit", "dirty", "device", "torch"),
    *("train_seconds", "wall_seconds", "finished", "folder"),
)


def write_ap(folder: Path, ap: pd.DataFrame, baseline: str, resamples: int) -> list[Path]:
    """``ap.csv|md|tex`` from the frame that :func:`experiments.report.compare.compare` gives."""
    note = (
        "AP in percent: mean ± sample standard deviation over runs (seeds and folds); AR is AR at 100 "
        f"detections. Δ AP: difference to {baseline}, with a 95 % interval paired over images and runs "
        f"({resamples} resamples of the images), widened by Holm's correction for the number of variants in the table, "
        "each kind by itself. "
        f"{MARK}: the interval excludes 0, the difference is real. {MISSING}: nothing to measure or to compare with."
    )
    if (ap["folds"] > 1).any():
        note += " Folds share training images: what others than these would give is not covered."
    return write_all(folder / "ap", ap, ap_text(ap, baseline), note, rule_every=len(ap))


def ap_text(ap: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The AP table as people read it: one row a variant for boxes, then one for masks, then one for boundaries."""
    rows = []
    for kind in kinds(ap):
        for position, (_, row) in enumerate(ap.iterrows()):
            cells = {"": kind if position == 0 else "", "variant": row["variant"]}
            for metric in METRICS:
                cells["AR" if metric == "AR100" else metric] = mean_std(row, f"{kind}_{metric}")
            cells[f"Δ AP to {baseline} [95 %]"] = difference(row, f"{kind}_AP")
            cells["runs"] = str(row["n"])
            for key in ("protocol", "dataset", "trunk", "iterations"):
                if key == "protocol" or ap[key].nunique() > 1:
                    cells[key] = _cell(row[key])
            rows.append(cells)
    return pd.DataFrame(rows)


def kinds(ap: pd.DataFrame) -> list[Kind]:
    """The kinds that an AP table tells of."""
    return [kind for kind in KINDS if f"{kind}_AP_mean" in ap]


def read_speed(study: Study) -> dict[str, Any] | None:
    """The content of ``speed.json``, or None where there is none."""
    path = study.folder / "speed.json"
    if not path.is_file():
        return None
    remedy = "delete it and run the benchmark again"
    speed = load_json(path, remedy)
    if not isinstance(speed, dict) or not isinstance(speed.get("variants"), dict):
        raise UserError(f'{path} has no "variants": {remedy}')
    try:
        speed_frame(speed, [])
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    return speed


def speed_frame(speed: dict[str, Any], variants: list[str]) -> pd.DataFrame:
    """One row a variant: ``<quantity>_median|_low|_high`` and the plain numbers, in the file's units; nan where
    a number is missing. Variants that only the benchmark knows come last."""
    measured = speed["variants"]
    rows = []
    for label in [*variants, *(label for label in measured if label not in variants)]:
        entry = measured.get(label) or {}
        row: dict[str, Any] = {"variant": label}
        for key in _SPEED_RANGES:
            for part in ("median", "low", "high"):
                row[f"{key}_{part}"] = number((entry.get(key) or {}).get(part))
        row |= {key: number(entry.get(key)) for key in _SPEED_NUMBERS}
        rows.append(row | {"device": (speed.get("provenance") or {}).get("device")})
    return pd.DataFrame(rows)


def write_speed(folder: Path, frame: pd.DataFrame, speed: dict[str, Any]) -> list[Path]:
    """``speed.csv|md|tex``."""
    about = (speed.get("what") or {}).items()
    what = ", ".join(f"{key} {_cell(value)}" for key, value in about if not isinstance(value, dict | list))
    device = _cell((speed.get("provenance") or {}).get("device"))
    note = f"Median (low–high). Device: {device}." + (f" Measured with: {what}." if what else "")
    return write_all(folder / "speed", frame, speed_text(frame), note)


def speed_text(frame: pd.DataFrame, ranges: bool = True) -> pd.DataFrame:
    """The speed table as people read it; ``ranges=False`` leaves all but the head's range out."""
    text = {"variant": frame["variant"]}
    for key, heading in _SPEED_RANGES.items():
        text[heading] = frame.apply(_range, axis=1, key=key, full=ranges or key == "head_ms")
    for key, (heading, unit) in _SPEED_NUMBERS.items():
        text[heading] = (frame[key] / unit).map(_figure)
    return pd.DataFrame(text)


def write_runs(folder: Path, runs: pd.DataFrame) -> list[Path]:
    """``runs.csv|md``: where every number comes from, one row a finished run."""
    frame = runs[list(_RUN_COLUMNS)].copy()
    frame["options"] = [json.dumps(options, sort_keys=True) for options in frame["options"]]
    text = frame.drop(columns=["options", "folder"])
    text["commit"] = [_cell(commit)[:10] for commit in text["commit"]]
    for key, digits in (*((f"{kind}_AP", 2) for kind in KINDS), ("train_seconds", 0), ("wall_seconds", 0)):
        text[key] = [MISSING if pd.isna(v) else f"{v:.{digits}f}" for v in text[key].astype(float)]
    if frame["boundary_AP"].isna().all():
        text = text.drop(columns="boundary_AP")
    note = "Times in seconds; counted is no where a newer run of the same variant, fold and seed replaces this one."
    text = text.map(_cell)
    return [
        write_atomically(folder / "runs.csv", _csv(frame)),
        write_atomically(folder / "runs.md", _markdown(text, note)),
    ]


def terminal(ap: pd.DataFrame, speed: pd.DataFrame | None) -> str:
    """The AP and speed tables for a terminal of 120 columns; the full ones are in the files."""
    parts = []
    for kind in kinds(ap):
        rows = []
        for _, row in ap.iterrows():
            cells = {"variant": row["variant"], f"{kind} AP": mean_std(row, f"{kind}_AP")}
            for metric in METRICS[1:]:
                cells["AR" if metric == "AR100" else metric] = _figure(row[f"{kind}_{metric}_mean"], 1)
            cells |= {"Δ AP [95 %]": difference(row, f"{kind}_AP"), "runs": str(row["n"])}
            rows.append(cells)
        parts.append(fitted(pd.DataFrame(rows)))
    constant = {
        key: ap[key].iloc[0] for key in ("protocol", "dataset", "trunk", "iterations") if ap[key].nunique() == 1
    }
    parts.insert(0, ", ".join(f"{key} {value}" for key, value in constant.items()))
    parts.append(
        f"AP in percent, mean ± deviation over runs; Δ: difference to the baseline, its interval by Holm's correction; "
        f"{MARK}: real"
    )
    if speed is not None:
        short = speed_text(speed, ranges=False).rename(
            columns={
                "parameters M": "par. M",
                "head parameters M": "head M",
                "head MFLOP/RoI": "MFLOP/RoI",
                "GFLOP/image": "GFLOP/im",
            }
        )
        parts.append(fitted(short.rename(columns={"train images/s": "train im/s", "images/s": "im/s"})))
    return "\n\n".join(part for part in parts if part)


def fitted(text: pd.DataFrame) -> str:
    """A plain table, its first column wrapped so that lines stay within the terminal."""
    # tabulate keeps two spaces beside a heading and two between columns.
    rest = sum(max(len(name) + 2, *map(len, text[name])) + 2 for name in text.columns[1:])
    first = text.columns[0]
    return tabulate(
        text.assign(**{first: [wrap(label, max(16, WIDTH - rest)) for label in text[first]]}).to_numpy().tolist(),
        headers=list(text.columns),
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(text.columns) - 1)),
    )


def wrap(label: str, width: int) -> str:
    """Break a long label after underscores, commas and the like, or anywhere where it has none."""
    lines = [""]
    for piece in re.findall(rf"[^-_=,( ]{{,{width - 1}}}[-_=,( ]*", label):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def write_all(
    stem: Path, numbers: pd.DataFrame, text: pd.DataFrame, note: str, rule_every: int | None = None
) -> list[Path]:
    return [
        write_atomically(stem.with_suffix(".csv"), _csv(numbers)),
        write_atomically(stem.with_suffix(".md"), _markdown(text, note)),
        write_atomically(stem.with_suffix(".tex"), latex(text, note, rule_every)),
    ]


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, na_rep="", lineterminator="\n")


def _markdown(text: pd.DataFrame, note: str) -> str:
    safe = text.map(lambda cell: str(cell).replace("|", r"\|"))
    align = ["left" if _is_words(text[name]) else "right" for name in text.columns]
    return f"{safe.to_markdown(index=False, disable_numparse=True, colalign=align)}\n\n{note}\n"


def latex(text: pd.DataFrame, note: str, rule_every: int | None = None) -> str:
    """A plain ``tabular`` with booktabs rules (``\\usepackage{booktabs}``), the note as a comment above it.

    Args:
        text: cells and headings as plain text, in which LaTeX's own characters are escaped here.
        note: one line.
        rule_every: number of body rows between two rules.
    """
    columns = "".join("l" if _is_words(text[name]) else "r" for name in text.columns)
    body = text.to_latex(index=False, escape=True, column_format=columns)
    for plain, command in (("±", r"$\pm$"), ("Δ", r"$\Delta$"), ("–", "--")):
        body = body.replace(plain, command)
    # A hyphen before a number is a minus.
    body = re.sub(r"(?<=[\s\[])-(?=\d)", "$-$", body)
    lines = body.splitlines()
    if rule_every:
        first, last = lines.index(r"\midrule") + 1, lines.index(r"\bottomrule")
        for place in reversed(range(first + rule_every, last, rule_every)):
            lines.insert(place, r"\midrule")
    return f"% {note}\n" + "\n".join(lines) + "\n"


def _is_words(column: pd.Series) -> bool:
    """Whether a column holds names rather than figures."""
    return column.name == "" or not all(re.match(r"[+-]?\d|–|yes|no", str(cell)) for cell in column)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _figure(value: float, digits: int | None = None) -> str:
    """Three figures and no exponent, or the number of decimals that is asked for."""
    if math.isnan(value):
        return MISSING
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"


def mean_std(row: pd.Series, column: str) -> str:
    """``71.2 ± 0.4``, or what of it is known."""
    mean, std = _figure(row[f"{column}_mean"], 1), _figure(row[f"{column}_std"], 1)
    return mean if MISSING in (mean, std) else f"{mean} ± {std}"


def difference(row: pd.Series, column: str) -> str:
    """A row's difference to the baseline, its corrected interval, and the mark where it is real."""
    value, low, high = (float(row[f"{column}_diff{key}"]) for key in ("", "_holm_low", "_holm_high"))
    if math.isnan(value):
        return MISSING
    mark = f" {MARK}" if low > 0 or high < 0 else ""
    # "+ 0.0" turns -0.0 into 0.0.
    value, low, high = (round(v, 1) + 0.0 for v in (value, low, high))
    return f"{value:+.1f}" if math.isnan(low) else f"{value:+.1f} [{low:+.1f}, {high:+.1f}]{mark}"


def _range(row: pd.Series, key: str, full: bool) -> str:
    median, low, high = (_figure(row[f"{key}_{part}"]) for part in ("median", "low", "high"))
    return median if MISSING in (median, low, high) or not full else f"{median} ({low}–{high})"

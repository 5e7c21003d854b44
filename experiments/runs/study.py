"""Finished run folders -> one data frame, a row a run.

Only files are read, so this works at any time, after any crash, on any subset of a study's runs.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.config.groups import Contrast
from experiments.runs.study_files import StudyFiles, number
from instseg.errors import UserError
from instseg.evaluation import coco
from instseg.evaluation.kinds import METRIC_KINDS
from instseg.statistics.verdict import MARGIN

SETTINGS = ("trunk", "dataset", "protocol", "iterations")
"""What makes variants of one name differ, besides the head's options and the settings of the study."""
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
MAIN: coco.Kind = "mask"
"""The kind of AP that variants are ranked by."""
REQUIRED = tuple(kind.name for kind in METRIC_KINDS.values() if not kind.optional)
"""Kinds that every result has; results of before another kind was measured lack it, and tables show "–"."""


@dataclass
class Study:
    """The finished runs of one study.

    Attributes:
        folder: ``results/<study>``.
        runs: one row a finished run, sorted by variant, fold and seed. ``variant`` is the label (the name
            and, where needed, options), ``name`` the bare name, ``counted`` False where a newer run replaces
            this one; ``<kind>_<metric>`` in percent, nan where there are no such objects.
        unfinished: names of the run folders without a result.
        files: reads the other files of the runs.
        notes: one line for each thing that a reader of the tables should know.
    """

    folder: Path
    runs: pd.DataFrame
    unfinished: list[str]
    files: StudyFiles
    notes: list[str] = field(default_factory=list)

    @property
    def variants(self) -> list[str]:
        """All labels, in natural order."""
        return list(dict.fromkeys(self.runs["variant"]))

    @property
    def kinds(self) -> list[coco.Kind]:
        """The kinds of AP that the tables have: those that any run was scored by."""
        counted = self.runs[self.runs["counted"]]
        return [kind for kind in coco.KINDS if kind in REQUIRED or counted[f"{kind}_AP"].notna().any()]

    def counted_rows(self) -> list[dict[str, Any]]:
        """The runs that count, each as a dict."""
        rows = self.runs[self.runs["counted"]].to_dict("records")
        return [{str(key): value for key, value in row.items()} for row in rows]

    def counted(self, variant: str) -> pd.DataFrame:
        """The runs of one variant that count, one for each (fold, seed)."""
        return self.runs[(self.runs["variant"] == variant) & self.runs["counted"]]

    def ordered(self, baseline: str) -> list[str]:
        """All labels, those of the baseline first."""
        named = dict(zip(self.runs["variant"], self.runs["name"], strict=True))
        return sorted(named, key=lambda label: baseline not in (label, named[label]))

    def baseline_of(self, variant: str, baseline: str) -> str | None:
        """The label that ``variant`` is compared with, or None: ``baseline`` itself where it is a label; where it is
        only a name that several labels share, the nearest by trunk, data set, ..."""
        if baseline in self.variants:
            return baseline
        first = self.runs.drop_duplicates("variant").set_index("variant")
        wanted = first.loc[variant]
        agreement = {
            label: sum(row[key] == wanted[key] for key in (*SETTINGS, "settings"))
            for label, row in first[first["name"] == baseline].iterrows()
        }
        best = [str(label) for label, count in agreement.items() if count == max(agreement.values())]
        return best[0] if len(best) == 1 else None

    def differing_settings(self, variant: str, other: str) -> list[str]:
        """Keys of the configuration, the head's apart, in which two variants differ."""
        a, b = (
            {"protocol": runs["protocol"].iloc[0], **runs["settings"].iloc[0]}
            for runs in (self.counted(variant), self.counted(other))
        )
        return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))

    def rival_of(self, variant: str, baseline: str) -> str | None:
        """The label that differences of ``variant`` are to; None where it differs from it in more than the head."""
        other = self.baseline_of(variant, baseline)
        return None if other is None or self.differing_settings(variant, other) else other


def load_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file; a file that is no JSON is a ``UserError`` that names it and the remedy."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}): {remedy}") from error


@dataclass(frozen=True)
class Comparisons:
    """How the variants of a study are compared, where the report isn't told otherwise.

    Attributes:
        baseline: what the other variants are compared with.
        resamples: bootstrap replicates.
        contrasts: the comparisons that the study names beforehand.
        margin: AP points within which variants are equivalent.
    """

    baseline: str = "fcn"
    resamples: int = 1000
    contrasts: tuple[Contrast, ...] = ()
    margin: float = MARGIN


def about(folder: Path) -> Comparisons:
    """How a study's variants are compared, from its ``study.json`` where there is one. A ``UserError`` says what is
    damaged in it."""
    path = folder / "study.json"
    if not path.exists():
        return Comparisons()
    remedy = "sweep again, or delete it, and give baseline= and resamples= where they aren't fcn and 1000"
    content = load_json(path, remedy)
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it holds no object): {remedy}")
    baseline, resamples = content.get("baseline", "fcn"), content.get("resamples", 1000)
    if not isinstance(baseline, str) or not baseline:
        raise UserError(f"{path} is damaged (baseline is no name): {remedy}")
    if not isinstance(resamples, int) or isinstance(resamples, bool) or resamples < 1:
        raise UserError(f"{path} is damaged (resamples is no whole number above 0): {remedy}")
    contrasts = content.get("contrasts", [])
    if not isinstance(contrasts, list) or not all(map(_is_contrast, contrasts)):
        raise UserError(f"{path} is damaged (contrasts is no list of variant, rival and question): {remedy}")
    margin = content.get("margin", MARGIN)
    if not isinstance(margin, float | int) or isinstance(margin, bool) or not 0 < margin < math.inf:
        raise UserError(f"{path} is damaged (margin is no number above 0): {remedy}")
    return Comparisons(baseline, resamples, tuple(Contrast(**contrast) for contrast in contrasts), float(margin))


def _is_contrast(content: Any) -> bool:
    if not isinstance(content, dict) or content.keys() != {key.name for key in fields(Contrast)}:
        return False
    return all(isinstance(text, str) for text in content.values())


def read(folder: Path) -> Study:
    """Scan ``folder/runs``; a ``UserError`` where there is no finished run, or a ``result.json`` is damaged."""
    if not folder.is_dir():
        raise UserError(f"there is no study folder {folder}: run the sweep first, or check the study's name")
    folders = sorted(path for path in folder.glob("runs/*") if path.is_dir() and path.name[0] != ".")
    finished = [path for path in folders if (path / "result.json").is_file()]
    unfinished = [path.name for path in folders if path not in finished]
    if not finished:
        raise UserError(f"{folder} holds no finished run ({len(unfinished)} unfinished): nothing to report yet")
    rows = labelled(finished)
    rows.sort(key=lambda row: (natural(row["variant"]), row["fold"], row["seed"], row["hash"]))
    study = Study(folder, pd.DataFrame(rows), unfinished, StudyFiles(folder))
    _mark_replaced(study)
    counted = study.runs[study.runs["counted"]]
    if (commits := counted["commit"].nunique(dropna=False)) > 1:
        study.notes.append(f"the runs come from {commits} commits of the code; runs.csv says which")
    if dirty := sum(value is True for value in counted["dirty"]):
        study.notes.append(f"{dirty} of {len(counted)} runs come from code with uncommitted changes")
    study.notes += [
        f"{count} of {len(counted)} runs have first weights that were trained before: {given}"
        for given, count in counted["first_weights"].value_counts(sort=False).items()
        if given
    ]
    if counted["first_weights"].str.endswith("mask_head=trained").nunique() > 1:
        study.notes.append("some mask heads began trained and others new: their differences are not the heads' alone")
    for kind in coco.KINDS:
        unscored = int(counted[f"{kind}_AP"].isna().sum())
        if kind not in REQUIRED and 0 < unscored < len(counted):
            study.notes.append(f"{unscored} of {len(counted)} runs have no {kind} AP: it is that of the others")
    return study


def labelled(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each finished run's folder; ``variant`` is the run's name, and where runs of that name differ in more
    than fold and seed, what differs behind it. A ``UserError`` names a ``result.json`` that is damaged."""
    rows = [_row(folder) for folder in folders]
    label(rows)
    return rows


def label(rows: Sequence[dict[str, Any]]) -> None:
    """Set ``variant`` of rows that have ``name, head, options, settings`` and :data:`SETTINGS`, as :func:`labelled`
    says."""
    by_name = defaultdict(list)
    for row in rows:
        by_name[row["name"]].append(row)
    for name, group in by_name.items():
        # where runs differ in the name of trunk or data set, the settings of these say nothing more
        implied = tuple(f"{key}." for key in ("trunk", "dataset") if len({row[key] for row in group}) > 1)
        if len({row["settings"].get("schedule.until") for row in group}) > 1:
            implied += ("schedule.plateau_",)
        shown = []
        for row in group:
            own = {key: value for key, value in row["settings"].items() if not key.startswith(implied)}
            values = {"head": row["head"], **row["options"], **{key: row[key] for key in SETTINGS}, **own}
            shown.append({key: _as_text(value) for key, value in values.items()})
        keys = dict.fromkeys(key for values in shown for key in values)
        differing = [key for key in keys if len({values.get(key) for values in shown}) > 1]
        for row, values in zip(group, shown, strict=True):
            extra = ", ".join(f"{key}={values[key]}" for key in differing if key in values)
            row["variant"] = f"{name}({extra})" if extra else name


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def natural(text: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts ``depth=10`` after ``depth=2``."""
    parts = re.findall(r"\d+|\D+", text)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _row(folder: Path) -> dict[str, Any]:
    """One run as a flat row; the head's options stay a dict."""
    path, remedy = folder / "result.json", "delete it to rerun"
    result = load_json(path, remedy)
    try:
        provenance = result.get("provenance") or {}
        row = {
            "variant": str(result["variant"]),
            "name": str(result["variant"]),
            "head": result["head"]["name"],
            "options": _stated_options(result["head"]),
            "loss_weight": float((result["head"].get("options") or {}).get("loss_weight", 1.0)),
            "control_of": dict(result["head"].get("control_of") or {}),
            "settings": dict(result.get("settings") or {}),
            **{key: result.get(key) for key in SETTINGS},
            **_training(result),
            "fold": int(result["fold"]),
            "seed": int(result["seed"]),
            "hash": str(result.get("hash", "")),
            "ground_truth": result.get("ground_truth"),
            "folder": folder.name,
            "counted": True,
            "left_out": len(result.get("left_out") or []),
            "control_by": (result["head"].get("control_of") or {}).get("by", ""),
            **{key: provenance.get(key) for key in ("commit", "dirty", "device")},
            "first_weights": ", ".join(map("=".join, (provenance.get("first_weights") or {}).items())),
            "torch": (provenance.get("versions") or {}).get("torch"),
            **{key: provenance.get(key) for key in ("train_seconds", "wall_seconds", "finished")},
        }
        for kind in coco.KINDS:
            metrics = result["metrics"][kind] if kind in REQUIRED else result["metrics"].get(kind, {})
            for metric, value in metrics.items():
                row[f"{kind}_{metric}"] = number(value)
            row.setdefault(f"{kind}_AP", math.nan)
    except KeyError as error:
        raise UserError(f"{path} is damaged (it has no {error}): {remedy}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    return row


def _stated_options(head: dict[str, Any]) -> dict[str, Any]:
    """A head's options but for those that were tuned, which may differ from fold to fold."""
    tuned = (head.get("tuned") or {}).get("settings", {})
    return {key: value for key, value in (head.get("options") or {}).items() if key not in tuned}


def _training(result: dict[str, Any]) -> dict[str, Any]:
    """How far a run was trained; results of earlier versions don't say, and are of runs of all iterations."""
    trained = result.get("trained") or {}
    return {
        "trained_iterations": trained.get("iterations") or result.get("iterations") or 0,
        "tail_start": trained.get("tail_start"),
        "limit_reached": trained.get("limit_reached"),
    }


def _mark_replaced(study: Study) -> None:
    """Of runs with the same label, fold and seed only the newest counts: they differ in a setting that
    ``result.json`` does not hold, and a mean over them would mean nothing."""
    for (variant, fold, seed), group in study.runs.groupby(["variant", "fold", "seed"], sort=False):
        if len(group) > 1:
            newest = group.assign(finished=group["finished"].fillna("")).sort_values(["finished", "hash"]).index[-1]
            study.runs.loc[group.index.difference([newest]), "counted"] = False
            study.notes.append(
                f"{variant}: {len(group)} runs share fold {fold} seed {seed}; "
                f"only the newest, {study.runs.loc[newest, 'folder']}, is counted"
            )

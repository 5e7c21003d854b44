"""The comparisons that a study names beforehand: differences of AP that are judged together, by themselves."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from experiments.config.groups import Contrast
from experiments.render import table
from experiments.report.compare import Scores, difference_columns, unjudged_notes, verdict_columns, verdict_key
from experiments.report.section import Content, Findings, Section
from experiments.runs.study import MAIN, Study
from instseg.evaluation.coco import Kind
from instseg.statistics.resampling import differences
from instseg.statistics.verdict import Comparison, judge

Pair = tuple[str, str]
"""Labels of a variant and its rival."""


def make(findings: Findings) -> Content:
    """``contrasts.csv|md|tex``, where the study names contrasts that have runs."""
    pairs, notes = with_runs(findings.study, findings.contrasts)
    if not pairs:
        return Content(notes=notes)
    compared = compare(findings.predictions.scores, list(pairs), findings.margin)
    for comparison in compared[MAIN]:
        if not comparison.exists:
            why = "no runs have the same fold and ground truth"
            notes.append(f"contrast {comparison.variant} against {comparison.rival}: {why}")
    notes += unjudged_notes(compared[MAIN], "contrasts")
    # on a frozen core all boxes are the same
    differ = [kind for kind, all_of_kind in compared.items() if any(each.exists and each.value for each in all_of_kind)]
    kinds = [MAIN, *(kind for kind in differ if kind != MAIN)]
    numbers, text = [], []
    for i, ((variant, rival), question) in enumerate(pairs.items()):
        row: dict[str, Any] = {"variant": variant, "rival": rival, "question": question}
        cells = {"variant": variant, "rival": rival}
        for kind in kinds:
            comparison = compared[kind][i]
            row |= difference_columns(comparison, f"{kind}_AP_") | verdict_columns(comparison, f"{kind}_AP_")
            cells[f"Δ {kind} AP [95 %]"] = table.difference(comparison)
        numbers.append(row)
        cells["detectable"] = table.number(compared[MAIN][i].detectable, 1)
        text.append(cells | {"runs": str(compared[MAIN][i].runs), "question": question or table.MISSING})
    note = (
        "Comparisons that the study's file names beforehand. Δ: AP in percent, the variant's minus its rival's, with a "
        f"95 % interval over images and trainings ({findings.resamples} resamples of the images), corrected for the "
        f"comparisons of this table alone, each kind by itself. {verdict_key(findings.margin)} Detectable: the true "
        "difference of mask AP that would have been called better or worse with probability 0.8. "
        f"{table.MISSING}: nothing to compare. All other differences of the study are exploratory."
    )
    shown = pd.DataFrame(text)
    return Content(
        table.Table(pd.DataFrame(numbers), shown, note),
        text=[
            table.fitted(shown[["variant", "rival", f"Δ {MAIN} AP [95 %]", "detectable", "runs"]]),
            "comparisons named beforehand, judged together; all other differences are exploratory",
        ],
        notes=notes,
    )


def with_runs(study: Study, contrasts: Iterable[Contrast]) -> tuple[dict[Pair, str], list[str]]:
    """The contrasts whose variants have runs that differ in the head alone, each with its question, and a note on each
    of the others."""
    pairs, notes = {}, []
    for contrast in contrasts:
        try:
            variant, rival = _label(study, contrast.variant), _label(study, contrast.rival)
            if differing := study.differing_settings(variant, rival):
                raise LookupError(
                    f"they differ in {', '.join(differing)}: the difference would not be the head's alone"
                )
            pairs[variant, rival] = contrast.question
        except LookupError as error:
            notes.append(f"contrast {contrast.variant} against {contrast.rival}: {error.args[0]}")
    return pairs, notes


def _label(study: Study, name: str) -> str:
    """The label of the only variant of a name; a LookupError says why there is none."""
    if name in study.variants:
        return name
    labels = [str(label) for label in study.runs.loc[study.runs["name"] == name, "variant"].unique()]
    if not labels:
        raise LookupError(f"{name} has no finished run")
    if len(labels) > 1:
        raise LookupError(f"{name} is the name of several variants: {', '.join(labels)}")
    return labels[0]


def compare(scores: Scores, pairs: Sequence[Pair], margin: float) -> dict[Kind, list[Comparison]]:
    """By kind the difference of AP of each pair of variants, in their order, all of a kind judged together."""
    compared = {}
    for kind, runs in scores.items():
        measured = {}
        for variant, rival in pairs:
            both = {label: runs.get(label, {}) for label in (variant, rival)}
            measured[f"{variant} against {rival}"] = differences(both, {variant: rival})[variant]
        judged = judge(measured, kind, "AP", margin).values()
        compared[kind] = [replace(each, variant=variant) for each, (variant, _) in zip(judged, pairs, strict=True)]
    return compared


SECTION = Section("contrasts", make)

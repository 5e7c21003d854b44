"""Every pair of variants that differ in the head alone: a matrix of verdicts on mask AP, letters, and a heat map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.render import table
from experiments.render.plot import caption
from experiments.report.compare import difference_columns, ranked, verdict_columns, verdict_key
from experiments.report.section import Content, Findings, Section
from experiments.runs.study import MAIN
from instseg.statistics.letters import compact_letters
from instseg.statistics.resampling import Runs, differences
from instseg.statistics.verdict import Comparison, Difference, Verdict, judge

Pair = tuple[str, str]
"""Labels of a variant and its rival."""
SYMBOLS: dict[Verdict, str] = {"better": ">", "worse": "<", "equivalent": "=", "undecided": "?"}
_KEY = "> better, < worse, = equivalent, ? undecided"
_FEWEST = 3
"""Below so many variants there is no figure."""
# inches of a cell, of what stands left and right of the cells, and above and below them
_CELL, _BESIDE, _AROUND = 0.65, 3.4, 1.0


@dataclass(frozen=True)
class Matrix:
    """Verdicts of every variant against every other.

    Attributes:
        order: labels, the best mean mask AP first.
        comparisons: the row's difference to the column by (row, column), each pair in both directions; pairs that
            differ in more than the head are absent.
        letters: of each variant that has a verdict: two share a letter where theirs is equivalent or undecided.
    """

    order: list[str]
    comparisons: dict[Pair, Comparison]
    letters: dict[str, str]


def make(findings: Findings) -> Content:
    """``pairs.csv|md|tex`` and ``pairs.png|pdf``."""
    best_first = [variant.label for variant in reversed(ranked(findings.scores.variants))]
    alone = [pair for pair in combinations(best_first, 2) if not findings.study.differing_settings(*pair)]
    judged = compare(findings.predictions.scores[MAIN], alone, findings.margin)
    if not any(each.verdict for each in judged):
        few = "no two variants have two trainings or more to compare, and one gives no verdict"
        return Content(skipped=[f"pairs: {few if alone else 'no two variants differ in the head alone'}"])
    matrix = arrange(best_first, judged)
    notes = []
    if unjudged := sum(each.verdict is None for each in judged):
        notes.append(f"pairs: {unjudged} of {len(judged)} pairs of variants share too few runs for a verdict")
    means = {variant.label: str(variant.metrics[MAIN]["AP"]) for variant in findings.scores.variants}
    note = (
        "Differences of mask AP in percent, the row's minus the column's, and the verdicts on them: "
        f"{_KEY}; {table.MISSING}: nothing to compare. All {len(judged) - unjudged} pairs are judged together, by "
        f"intervals over images and trainings that are corrected for their number. {verdict_key(findings.margin)} "
        "Variants that share a letter were compared and are not told apart: equivalent or undecided."
    )
    if findings.contrasts:
        note += " The comparisons that were named beforehand are in contrasts.md; those here are exploratory."
    return Content(
        table.Table(numbers(judged), text(matrix, means), note),
        text=[
            table.fitted(terminal(matrix, means)),
            "mask AP against each other variant, all pairs judged together; variants that share a letter are not told "
            "apart",
        ],
        figure=partial(heat_map, matrix),
        notes=notes,
    )


def compare(runs: Mapping[str, Runs], pairs: Sequence[Pair], margin: float) -> list[Comparison]:
    """The difference of mask AP of each pair of variants, in their order, all judged together."""
    measured = {f"{variant} against {rival}": _difference(runs, variant, rival) for variant, rival in pairs}
    judged = judge(measured, MAIN, "AP", margin).values()
    return [replace(each, variant=variant) for each, (variant, _) in zip(judged, pairs, strict=True)]


def _difference(runs: Mapping[str, Runs], variant: str, rival: str) -> Difference:
    """What holds in one direction must hold in the other, also where only one of them has runs on more folds."""
    there, back = (differences(runs, {a: b})[a] for a, b in ((variant, rival), (rival, variant)))
    return there._replace(comparable=there.comparable and back.comparable)


def arrange(best_first: Sequence[str], judged: Sequence[Comparison]) -> Matrix:
    """The matrix of comparisons that are given in one direction each, of the variants that have one."""
    comparisons: dict[Pair, Comparison] = {}
    for each in judged:
        assert each.rival is not None
        comparisons[each.variant, each.rival] = each
        comparisons[each.rival, each.variant] = _turned(each)
    compared = {label for (label, _), each in comparisons.items() if each.exists}
    order = [label for label in best_first if label in compared]
    with_verdict = {label for (label, _), each in comparisons.items() if each.verdict}
    lettered = [label for label in order if label in with_verdict]
    alike = {pair for pair, each in comparisons.items() if each.verdict in ("equivalent", "undecided")}
    apart = [pair for pair in combinations(lettered, 2) if pair not in alike]
    return Matrix(order, comparisons, compact_letters(lettered, apart))


def _turned(comparison: Comparison) -> Comparison:
    """The rival's difference to the variant."""
    (low, high), (corrected_low, corrected_high) = comparison.interval, comparison.corrected_interval
    assert comparison.rival is not None
    return replace(
        comparison,
        variant=comparison.rival,
        rival=comparison.variant,
        value=-comparison.value,
        interval=(-high, -low),
        corrected_interval=(-corrected_high, -corrected_low),
    )


def numbers(judged: Sequence[Comparison]) -> pd.DataFrame:
    """The table for machines, one row a pair; ``results/README.md`` says what each column is."""
    prefix = f"{MAIN}_AP_"
    rows = []
    for each in judged:
        row: dict[str, Any] = {"variant": each.variant, "rival": each.rival}
        rows.append(row | difference_columns(each, prefix) | verdict_columns(each, prefix))
    return pd.DataFrame(rows)


def text(matrix: Matrix, means: Mapping[str, str]) -> pd.DataFrame:
    """The matrix as people read it; its columns have the numbers of the rows."""
    rows = []
    for number, label in enumerate(matrix.order, 1):
        cells = {"": str(number), "variant": label, "mask AP": means[label]}
        cells["letters"] = matrix.letters.get(label, table.MISSING)
        cells |= {str(i): _cell(matrix, label, rival) for i, rival in enumerate(matrix.order, 1)}
        rows.append(cells)
    return pd.DataFrame(rows)


def _cell(matrix: Matrix, label: str, rival: str) -> str:
    """``+2.1 >``: the difference, and the verdict where there is one."""
    comparison = matrix.comparisons.get((label, rival))
    if comparison is None or not comparison.exists:
        return table.MISSING
    symbol = f" {SYMBOLS[comparison.verdict]}" if comparison.verdict else ""
    return table.signed(comparison.value) + symbol


def terminal(matrix: Matrix, means: Mapping[str, str]) -> pd.DataFrame:
    """For each variant against how many others it has which verdict."""
    rows = []
    for label in matrix.order:
        verdicts = [each.verdict for (row, _), each in matrix.comparisons.items() if row == label]
        cells = {"variant": label, "mask AP": means[label], "letters": matrix.letters.get(label, table.MISSING)}
        rows.append(cells | {word: str(verdicts.count(word)) for word in SYMBOLS})
    return pd.DataFrame(rows)


def heat_map(matrix: Matrix) -> Figure | None:
    """Differences, the row's minus the column's, with the verdict in each cell; None below three variants."""
    count = len(matrix.order)
    if count < _FEWEST:
        return None
    values = np.full((count, count), np.nan)
    for i, row in enumerate(matrix.order):
        for j, column in enumerate(matrix.order):
            if (row, column) in matrix.comparisons:
                values[i, j] = matrix.comparisons[row, column].value
    limit = float(np.nanmax(np.abs(values))) or 1.0
    figure = Figure(figsize=(_BESIDE + count * _CELL, _AROUND + count * _CELL), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.07)  # type: ignore[union-attr,call-arg]
    axes = figure.subplots()
    axes.set_facecolor("#eeeeee")
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
    for i, row in enumerate(matrix.order):
        for j, column in enumerate(matrix.order):
            if i == j:
                continue
            comparison = matrix.comparisons.get((row, column))
            told_apart = comparison is not None and comparison.is_told_apart
            axes.text(
                *(j, i, _cell(matrix, row, column)),
                ha="center",
                va="center",
                fontsize=8.5,
                fontweight="bold" if told_apart else "normal",
                color="white" if abs(values[i, j]) > 0.6 * limit else "black",
            )
        letters = matrix.letters.get(row, table.MISSING)
        axes.text(1.02, i, letters, transform=axes.get_yaxis_transform(), va="center")
    names = [f"{table.wrap(label, 26)}  {i}" for i, label in enumerate(matrix.order, 1)]
    axes.set_yticks(range(count), names)
    axes.set_xticks(range(count), [str(i) for i in range(1, count + 1)])
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.tick_params(which="both", length=0, labeltop=True, labelbottom=False)
    axes.grid(False)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="Δ mask AP, row minus column", shrink=0.8)
    caption(figure, f"{_KEY}; bold: told apart; variants that share a letter are not told apart")
    return figure


SECTION = Section("pairs", make, figure="pairs")

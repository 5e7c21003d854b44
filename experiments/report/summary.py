"""AP, difference to the baseline, and cost of each variant in one small table, as a README shows it."""

import pandas as pd

from experiments.render import table
from experiments.report.cost import read_costs
from experiments.report.section import Content, Findings, Section
from experiments.runs.study import MAIN


def make(findings: Findings) -> Content:
    """``summary.md``, where there is a ``speed.json``."""
    if findings.speed is None:
        return Content()
    scores = findings.scores
    costs = {cost.variant: cost for cost in read_costs(findings.speed, scores.order)}
    rows = []
    for variant in scores.variants:
        cost = costs[variant.label]
        rows.append(
            {
                "mask head": variant.label,
                **{f"{kind} AP": str(variant.metrics[kind]["AP"]) for kind in scores.kinds},
                "Δ mask AP [95 %]": table.difference(variant.comparisons[MAIN]),
                "head parameters": table.number(cost.numbers["head_parameters"], 0, comma=True),
                "MFLOP/RoI": table.number(cost.numbers["head_flops_per_roi"] / 1e6, 1, comma=True),
                "ms/100 RoIs": table.number(cost.ranges["head_ms"][0], 1, comma=True),
            }
        )
    text = pd.DataFrame(rows)
    return Content(table.Table(text, text))


SECTION = Section("summary", make, endings=("md",))

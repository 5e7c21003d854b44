"""Plots of benchmarks, in the style of :mod:`experiments.render.plot`."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.benchmark.outcome import SHARE, stages
from experiments.render.table import wrap

_COLOURS = {
    "transform": "#F0E442",
    "trunk": "#0072B2",
    "rpn": "#56B4E9",
    "box": "#009E73",
    "mask": "#D55E00",
    "paste": "#E69F00",
    "backward": "#CC79A7",
    "optimizer": "#000000",
    "rest": "#dddddd",
}


def rates_and_stages(table: pd.DataFrame, caption: str) -> Figure:
    """Images a second by implementation, with quartiles, and the milliseconds an image that each stage takes."""
    run = table.dropna(subset=["seconds_median"]).iloc[::-1].reset_index(drop=True)
    figure = Figure(figsize=(12, 1.9 + 0.55 * len(run)), layout="constrained")
    figure.suptitle(caption, fontsize=9, color="#555555")
    rates, times = figure.subplots(1, 2, sharey=True)
    names = [wrap(name, 24) for name in run["name"]]
    median = run["images_per_s_median"]
    whole = run[[f"{SHARE}{stage}" for stage in stages(run)]].notna().any(axis=1)
    colours = ["#0072B2" if detector else "#999999" for detector in whole]
    spread = [(median - run["images_per_s_low"]).clip(lower=0), (run["images_per_s_high"] - median).clip(lower=0)]
    rates.barh(names, median, xerr=spread, color=colours, height=0.6, error_kw={"elinewidth": 1, "capsize": 2.5})
    for position, value in enumerate(median):
        rates.annotate(
            f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
            (run["images_per_s_high"][position], position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    rates.margins(x=0.12)
    rates.set(xlabel="images per second", title="Rate: median and quartiles")
    rates.grid(axis="y", visible=False)
    known = stages(run)
    left = pd.Series(0.0, index=run.index)
    milliseconds = 1000 / median
    for stage in known:
        width = (milliseconds * run[SHARE + stage]).fillna(0)
        times.barh(names, width, left=left, height=0.6, color=_COLOURS.get(stage, "#8c564b"), label=stage)
        left = left + width
    times.barh(names, milliseconds.where(~whole, 0), height=0.6, color=_COLOURS["trunk"])
    times.set(xlabel="milliseconds per image", title="Where the time goes")
    times.grid(axis="y", visible=False)
    figure.legend(*times.get_legend_handles_labels(), loc="outside lower center", ncols=len(known))
    return figure

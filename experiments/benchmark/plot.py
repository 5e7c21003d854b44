"""Plots of benchmarks, in the style of :mod:`experiments.render.plot`."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.benchmark.outcome import SHARE, STAGES, figure, stages
from experiments.render.table import wrap


def rates_and_stages(table: pd.DataFrame, caption: str) -> Figure:
    """Images per second of each implementation, with quartiles, and the milliseconds per image of each stage."""
    timed = table.dropna(subset=["seconds_median"]).iloc[::-1].reset_index(drop=True)
    plot = Figure(figsize=(12, 1.9 + 0.55 * len(timed)), layout="constrained")
    plot.suptitle(caption, fontsize=9, color="#555555")
    rates, times = plot.subplots(1, 2, sharey=True)
    names = [wrap(name, 24) for name in timed["name"]]
    median, low, high = (timed[f"images_per_s_{part}"] for part in ("median", "low", "high"))
    columns = {stage: f"{SHARE}{stage}" for stage in stages(timed)}
    has_stages = timed[list(columns.values())].notna().any(axis=1)
    colours = ["#0072B2" if detector else "#999999" for detector in has_stages]
    errors = [(median - low).clip(lower=0), (high - median).clip(lower=0)]
    rates.barh(names, median, xerr=errors, color=colours, height=0.6, error_kw={"elinewidth": 1, "capsize": 2.5})
    for position, value in enumerate(median):
        place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        rates.annotate(figure(value), (high[position], position), fontsize=9, **place)
    rates.margins(x=0.12)
    rates.set(xlabel="images per second", title="Rate: median and quartiles")
    rates.grid(axis="y", visible=False)
    left = pd.Series(0.0, index=timed.index)
    milliseconds = 1000 / median
    for stage, column in columns.items():
        width = (milliseconds * timed[column]).fillna(0)
        times.barh(names, width, left=left, height=0.6, color=STAGES.get(stage, "#8c564b"), label=stage)
        left = left + width
    times.barh(names, milliseconds.where(~has_stages, 0), height=0.6, color=STAGES["trunk"])
    times.set(xlabel="milliseconds per image", title="Where the time goes")
    times.grid(axis="y", visible=False)
    plot.legend(*times.get_legend_handles_labels(), loc="outside lower center", ncols=len(columns))
    return plot

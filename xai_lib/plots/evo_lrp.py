"""Figures of EVO-LRP: signed maps in rows, scores of methods, convergence of searches, tuned parameters by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xai_lib.plots.pictures import show, show_map
from xai_lib.plots.style import METHOD_COLOURS, PAGE, Array, as_array, canvas, styled

#: colour of a method's family, by how its name begins
FAMILIES = {
    "EVO alpha-beta": "#0072B2", "EVO epsilon": "#D55E00", "random": "#7F7F7F", "grid": "#B0B0B0", "untuned": "#56B4E9",
    "LRP-0": "#E69F00", "Grad-CAM": "#CC6677", "LIME": "#009E73", "IG": "#999933",
}  # fmt: skip
STRATEGIES = {"cma": ("#0072B2", "-"), "random": ("#7F7F7F", (0, (1, 1.5))), "grid": ("#D55E00", (0, (4, 1.5)))}
PARAMETER_NAMES = {"alpha_beta": "alpha", "epsilon": "epsilon, in rms of the layer"}


@styled
def relevance_rows(
    rows: Sequence[Sequence[Array]], titles: Sequence[str], sides: Sequence[str] = (), positive: bool = False
) -> Figure:
    """Photographs `(3, H, W)` and maps `(H, W)` in -1..1 (0..1 with `positive`) in a grid; titles above, names at the left.

    All maps share one colour bar: they are relative to the largest size of each.
    """
    columns = len(titles)
    side = min(PAGE / (columns + 0.3), 1.0)  # noise does not compress: twice the side is four times the file
    figure, grid = canvas(len(rows), columns, len(rows) * side + 0.45, columns * side + 0.5)
    drawn: Any = None
    for i, line in enumerate(rows):
        for axes, values, title in zip(grid[i], line, titles, strict=True):
            word = title if i == 0 else ""
            if as_array(values).ndim == 3:
                show(axes, values, word)
            else:
                drawn = show_map(axes, values, signed=not positive, title=word, limit=1.0)
        if sides:
            grid[i][0].text(-0.05, 0.5, sides[i], rotation=90, ha="right", va="center", fontsize=8,
                            transform=grid[i][0].transAxes)  # fmt: skip
    bar = figure.colorbar(drawn, ax=grid, shrink=0.6, fraction=0.03, pad=0.01)
    bar.set_label("relevance" + (", of the map's largest" if len(rows) > 1 else ""), fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


@styled
def metric_bars(scores: Mapping[str, Mapping[str, Array]], best: Mapping[str, str]) -> Figure:
    """Mean and standard deviation over images, a panel a metric: `scores[metric][method]`; `best`: what is better, in words."""
    methods = [*next(iter(scores.values()))]
    figure, grid = canvas(1, len(scores), 0.19 * len(methods) + 0.8, sharey=True)
    for axes, (metric, by_method) in zip(grid[0], scores.items(), strict=True):
        for y, method in enumerate(methods):
            values = as_array(by_method[method]).astype(float)
            values = values[np.isfinite(values)]
            colour = next((c for name, c in FAMILIES.items() if method.startswith(name)), "0.5")
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            axes.barh(y, values.mean() if len(values) else 0, color=colour, height=0.72, alpha=0.85, xerr=spread,
                      error_kw={"elinewidth": 0.8, "ecolor": "0.25"})  # fmt: skip
        axes.set_title(f"{metric} ({best[metric]})")
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.grid(axis="x", color="0.93")
        axes.set_axisbelow(True)
    grid[0, 0].set_yticks(range(len(methods)), methods, fontsize=7.5)
    grid[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    return figure


@styled
def convergence(series: Mapping[str, Mapping[str, Array]], ylabel: str) -> Figure:
    """Best cost so far against candidates, a panel an objective: `series[objective][strategy]` is `(seeds, generations)`.

    Lines are means over seeds, bands the range.
    """
    figure, grid = canvas(1, len(series), 2.5)
    for axes, (name, by_strategy) in zip(grid[0], series.items(), strict=True):
        for strategy, values in by_strategy.items():
            found = as_array(values).astype(float)
            colour, dash = STRATEGIES[strategy]
            x = np.arange(1, found.shape[1] + 1)
            words = {"cma": "CMA-ES"}.get(strategy, strategy) + (f", {len(found)} seeds" if len(found) > 1 else "")
            axes.plot(x, found.mean(0), color=colour, linestyle=dash, label=words, marker=".", markersize=3)
            axes.fill_between(x, found.min(0), found.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set(title=name, xlabel="generation")
        axes.grid(color="0.93")
    grid[0, 0].set_ylabel(ylabel)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def by_depth(values: Mapping[str, Mapping[str, Array]], untuned: Mapping[str, float], log: Mapping[str, bool]) -> Figure:
    """Tuned parameters from the input to the output, a panel a family: `values[family][objective]` is `(seeds, groups)`."""
    figure, grid = canvas(1, len(values), 2.6)
    colours = {"FC": "#0072B2", "SP": "#D55E00", "AS": "#009E73"}
    for axes, (family, by_objective) in zip(grid[0], values.items(), strict=True):
        for i, (objective, found) in enumerate(by_objective.items()):
            for row in as_array(found):
                axes.plot(range(1, len(row) + 1), row, "os^"[i % 3] + "-", color=colours.get(objective, "0.4"), markersize=4,
                          linewidth=0.9, alpha=0.75, label=objective)  # fmt: skip
        axes.axhline(untuned[family], color="0.3", linestyle="--", linewidth=1, label="untuned")
        axes.set(xlabel="group of layers, input to output", ylabel=PARAMETER_NAMES[family], title=family.replace("_", "-"))
        axes.set_yscale("log" if log[family] else "linear")
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, words = grid[0, 0].get_legend_handles_labels()
    kept = dict(zip(words, handles, strict=True))  # one line a seed, one word an objective
    figure.legend(list(kept.values()), list(kept), loc="outside lower center", ncols=4)
    return figure


@styled
def front(points: Mapping[str, tuple[Array, Array, Sequence[str]]], xlabel: str, ylabel: str) -> Figure:
    """Two metrics against each other, `points[name] = (x, y, words)`: one dot a setting, with its word."""
    figure, grid = canvas(1, 1, 2.8, 4.6)
    axes = grid[0, 0]
    colours = [METHOD_COLOURS[m][0] for m in ("elime", "random_search", "greedy_deletion", "lime", "grad_cam", "fem")]
    for i, (name, (x, y, words)) in enumerate(points.items()):
        axes.plot(as_array(x), as_array(y), "osD^vP"[i % 6], linestyle="none", color=colours[i % 6], label=name, markersize=5)
        for place in zip(x, y, words, strict=True):
            axes.annotate(place[2], place[:2], (4, 4), textcoords="offset points", fontsize=6.5, color=colours[i % 6])
    axes.margins(x=0.12)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="0.93")
    figure.legend(loc="outside right upper")
    return figure

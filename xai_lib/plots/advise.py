"""The figures of ADVISE: units and their densities, one map a group, and what the metrics say of methods.

Every map drawn is in 0..1 after rescaling; what the enlargement overshoots is cut. Groups are units with equally many
peaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from xai_lib.plots.pictures import show, show_map, show_over
from xai_lib.plots.style import METHOD_COLOURS, METHOD_NAMES, PAGE, Array, as_array, canvas, styled

BARS = METHOD_COLOURS["advise"][0]
MARKS = "os^Dvp*<>Xhd"
Values = Mapping[str, Sequence[float]]  #: numbers by method or other label


def _look(name: str) -> tuple[str, Any, str]:
    """Colour, dash and the name to print; grey for what is no method."""
    colour, dash = METHOD_COLOURS.get(name, ("#444444", "-"))
    return colour, dash, METHOD_NAMES.get(name, name)


def _in_order(names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Methods in the order of every figure, then everything else as it comes."""
    return [m for m in METHOD_COLOURS if m in names] + [n for n in names if n not in METHOD_COLOURS]


def _peak_bars(axes: Axes, scores: Array) -> None:
    """How many units have 0, 1, 2, ... peaks, logarithmic."""
    counts = np.bincount(as_array(scores))
    axes.bar(range(len(counts)), counts, color=BARS, width=0.75)
    axes.set_yscale("log")
    axes.set_ylim(0.5, max(2.0, counts.max() * 2.0))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.set(xlabel="peaks", ylabel="units")
    axes.tick_params(labelsize=7)
    axes.set_box_aspect(1)


@styled
def journey(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """One photograph through several networks, six panels each, with a letter: the layout of the paper's Figure 1.

    A row has `side` (the network), `image` `(3, H, W)`, `top` ((class, probability) pairs), `lime` (a picture, or None),
    `all_units` and `advise` (maps `(H, W)`), and `scores` `(K,)`, the units' numbers of peaks.
    """
    figure, grid = canvas(len(rows), 6, 1.75 * len(rows) + 0.2, width_ratios=[1, 1.25, 1, 1, 1, 1])
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    for line, row in zip(grid, rows, strict=True):
        names = ["photograph", "prediction", "LIME", "all units", "unit scores", "ADVISE"]
        titles = [f"({next(letters)}) {name}" for name in names]
        show(line[0], row["image"], titles[0])
        line[0].text(-0.06, 0.5, row["side"], rotation=90, ha="right", va="center", transform=line[0].transAxes, fontsize=8)
        _predicted(line[1], row["top"], titles[1])
        if row["lime"] is None:
            line[2].text(0.5, 0.5, "not\nmeasured", ha="center", va="center", transform=line[2].transAxes)
            line[2].set(title=titles[2], box_aspect=1)
            line[2].set_axis_off()
        else:
            show(line[2], row["lime"], titles[2])
        show_over(line[3], row["image"], row["all_units"], titles[3])
        _peak_bars(line[4], row["scores"])
        line[4].set_title(titles[4])
        bar = show_over(line[5], row["image"], row["advise"], titles[5])
    figure.colorbar(bar, ax=grid[:, 5].tolist(), shrink=0.6, pad=0.02, label="relevance, rescaled", ticks=[0, 1])
    return figure


def _predicted(axes: Axes, top: Sequence[tuple[str, float]], title: str) -> None:
    axes.barh(range(len(top)), [p for _, p in top], color=BARS, alpha=0.35)
    for i, (name, p) in enumerate(top):
        axes.text(0.03, i, f"{name if len(name) < 14 else name[:13] + '…'} {p:.2f}", va="center", fontsize=7)
    axes.set(xlim=(0, 1), yticks=[], xticks=[0, 1], title=title)
    axes.tick_params(labelsize=7)
    axes.invert_yaxis()
    axes.set_box_aspect(1)


@styled
def unit_densities(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A unit's map beside the histogram of its values (grey) and their adaptive density (red), a row a kind of values.

    A row has `title`, `map` `(h, w)`, `signed`, `samples` `(Z,)` (what the density was taken of), `grid` and `density`
    `(Z,)`, `peaks`. Densities that do not exist (NaN) are said to be missing.
    """
    figure, grid = canvas(len(rows), 2, 1.75 * len(rows) + 0.2, width_ratios=[1, 2.3])
    for (left, right), row in zip(grid, rows, strict=True):
        bar = figure.colorbar(show_map(left, row["map"], row["signed"], row["title"]), ax=left, shrink=0.9)
        bar.ax.tick_params(labelsize=7)
        bar.formatter = ScalarFormatter()
        bar.formatter.set_powerlimits((-2, 3))
        x, density = as_array(row["grid"]), as_array(row["density"])
        samples = as_array(row["samples"])
        inside = samples[(samples >= x[0]) & (samples <= x[-1])]
        edges = np.linspace(x[0], x[-1], 41)
        share = np.histogram(inside, edges)[0] / (max(len(inside), 1) * np.diff(edges))
        right.stairs(share, edges, fill=True, color="0.75")
        right.plot(x, density, color="#CC3311")
        lost = "" if len(inside) == len(samples) else f", {len(samples) - len(inside)} outside 0..1"
        what = f"{row['peaks']} peaks" if np.isfinite(density).all() else "no density"
        right.set_title(f"{len(samples)} values{lost}: {what}")
        right.set(ylabel="density", xlim=(x[0] - 0.01, x[-1] + 0.01))
        right.set_ylim(0, 1.15 * max(np.nanmax(density, initial=0), np.sort(share)[-2], 1e-9))
    grid[-1, 1].set_xlabel("value")
    return figure


@styled
def groups(rows: Sequence[Mapping[str, Any]], columns: int = 5) -> Figure:
    """Bars of unit scores and one map a group of units, a row a network; at most `columns` groups, the first.

    A row has `side`, `image` `(3, H, W)`, `scores` `(K,)`, `maps` `(G, H, W)`, `titles` (one a map) and `reported`, the
    index of the map that is reported, whose title is bold.
    """
    shown = min(columns, max(len(row["maps"]) for row in rows))
    width = min(PAGE, 1.2 * (shown + 1) + 0.9)
    figure, grid = canvas(len(rows), shown + 1, 1.75 * len(rows) + 0.15, width, width_ratios=[1.1] + [1] * shown)
    for line, row in zip(grid, rows, strict=True):
        _peak_bars(line[0], row["scores"])
        line[0].set_title(row["side"], fontsize=8)
        for axes in line[1:]:
            axes.set_axis_off()
        first = min(max(0, row["reported"] - shown + 1), max(0, len(row["maps"]) - shown))
        for i in range(first, min(first + shown, len(row["maps"]))):
            bar = show_over(line[1 + i - first], row["image"], row["maps"][i], row["titles"][i])
            if i == row["reported"]:
                line[1 + i - first].title.set_fontweight("bold")
    figure.colorbar(bar, ax=grid[:, -1].tolist(), shrink=0.6, pad=0.02, label="relevance, rescaled", ticks=[0, 1])
    return figure


@styled
def scores(
    values: Mapping[str, Values],
    xlabel: str,
    published: Mapping[str, Values] | None = None,
    limits: tuple[float, float] = (-0.02, 1.02),
) -> Figure:
    """A dot an image, a bar at the mean, a panel a network: `values[panel][method]`; diamonds: `published[panel][method]`.

    What is no method is drawn in grey under its own name, below the methods.
    """
    published = published or {}
    names = _in_order({name: 0 for panel in [*values.values(), *published.values()] for name in panel})
    columns = min(3, len(values))
    rows = -(-len(values) // columns)
    figure, grid = canvas(rows, columns, rows * (0.21 * len(names) + 0.75) + 0.2, sharey=True, sharex=True)
    for axes in grid.flat[len(values) :]:
        axes.set_axis_off()
    for axes, (panel, methods) in zip(grid.flat, values.items(), strict=False):
        for y, name in enumerate(names):
            colour = _look(name)[0]
            found = np.asarray(methods.get(name, []), dtype=float)
            axes.plot(found, np.full(len(found), y), "o", color=colour, markersize=3, alpha=0.45 if len(found) < 40 else 0.15)
            if len(found):
                axes.plot(np.nanmean(found), y, "|", color=colour, markersize=11, markeredgewidth=2.5)
            for value in published.get(panel, {}).get(name, []):
                axes.plot(value, y, "D", color="white", markeredgecolor="#CC3311", markersize=4.5)
        axes.set(title=panel, xlim=limits, ylim=(len(names) - 0.4, -0.6))
        axes.set_yticks(range(len(names)), [_look(name)[2] for name in names])
        axes.grid(axis="x", color="0.92")
    figure.supxlabel(xlabel, fontsize=9)
    return figure


@styled
def centres(rows: Sequence[Mapping[str, Any]], reference: Mapping[str, float]) -> Figure:
    """Maps at several depths with their centre of mass, and its distance from the middle: a row a network.

    A row has `side`, `image`, `maps` `{layer: (H, W)}`, `centres` `{layer: (y, x)}` in pixels, and `distances` `{layer:
    numbers, one an image}`, as fractions of half the diagonal. `reference`: dashed lines, by name.
    """
    depth = max(len(row["maps"]) for row in rows)
    figure, grid = canvas(len(rows), depth + 1, 1.8 * len(rows) + 0.5, width_ratios=[1] * depth + [1.5])
    for line, row in zip(grid, rows, strict=True):
        for axes, (layer, values) in zip(line, row["maps"].items(), strict=False):
            show_over(axes, row["image"], values, layer)
            y, x = row["centres"][layer]
            height, width = as_array(values).shape
            axes.plot(width / 2, height / 2, "+", color="white", markersize=9, markeredgewidth=1.5)
            axes.plot(x, y, "o", markerfacecolor="#CC3311", markeredgecolor="white", markersize=6)
        line[0].text(-0.06, 0.5, row["side"], rotation=90, ha="right", va="center", transform=line[0].transAxes, fontsize=8)
        _distances(line[-1], row["distances"], reference)
        line[-1].sharey(grid[0, -1])
    handles, words = grid[-1, -1].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower right", ncols=len(words))
    return figure


def _distances(axes: Axes, distances: Values, reference: Mapping[str, float]) -> None:
    for x, found in enumerate(distances.values()):
        axes.plot(np.full(len(found), x), found, "o", color=BARS, markersize=3, alpha=0.5)
        axes.plot(x, np.mean(found), "_", color=BARS, markersize=16, markeredgewidth=2.5)
    for i, (name, level) in enumerate(reference.items()):
        axes.axhline(level, color="0.35", linestyle=("--", ":", "-.")[i % 3], linewidth=1, label=name)
    axes.set_xticks(range(len(distances)), ["shallow", "middle", "deep"][: len(distances)])
    axes.set(xlim=(-0.5, len(distances) - 0.5), ylabel="distance to middle")
    axes.set_ylim(bottom=-0.02)


@styled
def ablation(image: Array, series: Mapping[str, Mapping[str, Array]], densities: Sequence[float]) -> Figure:
    """A noisy photograph, and a curve a method over the density of the noise, a panel a network.

    `series[network][method]` is `(images, densities)`; lines are means, bars standard errors.
    """
    columns = {0: 1, 1: 2, 2: 3, 3: 2}.get(len(series), 3)
    rows = -(-(len(series) + 1) // columns)
    ratios = [0.8] + [1.5] * (columns - 1) if rows == 1 else None
    figure, grid = canvas(rows, columns, 2.5 * rows + 0.5, width_ratios=ratios)
    for axes in grid.flat[len(series) + 1 :]:
        axes.set_axis_off()
    show(grid.flat[0], image, f"noise of density {densities[-1]:g}")
    known: dict[str, Any] = {}
    for axes, (network, methods) in zip(grid.flat[1:], series.items(), strict=False):
        for i, name in enumerate(_in_order(methods)):
            colour, dash, word = _look(name)
            found = as_array(methods[name]).astype(float)
            spread = found.std(0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else None
            known[word] = axes.errorbar(densities, found.mean(0), spread, color=colour, linestyle=dash, marker=MARKS[i % 12],
                                        markersize=3.5, elinewidth=0.7)  # fmt: skip
        axes.set(title=network, xlabel="density of the noise", ylabel="AVX")
        axes.set_ylim(bottom=0)
    figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=4)
    return figure


@styled
def randomisation(series: Mapping[str, Mapping[str, Array]], steps: Mapping[str, Sequence[str]], ylabel: str) -> Figure:
    """How alike maps stay as weights are made random from the top: `series[network][method]` is `(images, steps)`.

    Lines are means, bands the range; `steps[network]` names what was randomised last.
    """
    columns = min(2, len(series))
    rows = -(-len(series) // columns)
    figure, grid = canvas(rows, columns, 2.9 * rows, sharey=True)
    for axes in grid.flat[len(series) :]:
        axes.set_axis_off()
    for axes, (network, methods) in zip(grid.flat, series.items(), strict=False):
        for i, name in enumerate(_in_order(methods)):
            colour, dash, word = _look(name)
            found, x = as_array(methods[name]).astype(float), np.arange(len(steps[network]))
            axes.plot(x, np.nanmean(found, 0), color=colour, linestyle=dash, marker=MARKS[i % 12], markersize=3.5, label=word)
            axes.fill_between(x, np.nanmin(found, 0), np.nanmax(found, 0), color=colour, alpha=0.08, linewidth=0)
        axes.set_xticks(x, steps[network], rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set(title=network, ylim=(-0.65, 1.05))
    grid[0, 0].set_ylabel(ylabel)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


@styled
def score_bars(shares: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Share of units by number of peaks at several layers, a panel a network: `shares[network][layer]` is `(images, peaks)`.

    Bars are means over images, whiskers the range.
    """
    columns = min(3, len(shares))
    rows = -(-len(shares) // columns)
    figure, grid = canvas(rows, columns, 2.4 * rows + 0.2)
    for axes in grid.flat[len(shares) :]:
        axes.set_axis_off()
    for axes, (network, layers) in zip(grid.flat, shares.items(), strict=False):
        width = 0.8 / len(layers)
        shades = mpl.colormaps["cividis"](np.linspace(0, 0.85, len(layers)))
        for i, (layer, found) in enumerate(layers.items()):
            values = as_array(found)
            mean, x = values.mean(0), np.arange(values.shape[1]) + (i - (len(layers) - 1) / 2) * width
            whiskers = np.stack([mean - values.min(0), values.max(0) - mean])
            axes.bar(x, mean, width, color=shades[i], label=layer, yerr=whiskers, error_kw={"elinewidth": 0.7})
        axes.set(title=network, xlabel="peaks of a unit", ylabel="share of the units", ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(loc="upper right")
    return figure


@styled
def rewards(points: Mapping[str, tuple[Array, Array]], xlabel: str, ylabel: str) -> Figure:
    """What a metric rewards: one dot an image and method, `points[method] = (x, y)`; the legend is at the side."""
    figure, grid = canvas(1, 1, 3.0)
    axes = grid[0, 0]
    for i, name in enumerate(_in_order(points)):
        x, y = points[name]
        axes.plot(x, y, MARKS[i % 12], color=_look(name)[0], label=_look(name)[2], markersize=5, alpha=0.65, linestyle="none")
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(color="0.92")
    figure.legend(loc="outside right center")
    return figure


@styled
def intervals(
    names: Sequence[str], methods: Sequence[str], low: Array, high: Array, printed: Array, outside: Array, xlabel: str
) -> Figure:
    """For each row of a published table: what its other entries allow (a bar), and what it prints (a diamond).

    `outside`: which diamonds are filled.
    """
    figure, grid = canvas(1, 1, 0.155 * len(names) + 0.7)
    axes = grid[0, 0]
    low, high, printed, outside = (as_array(values) for values in (low, high, printed, outside))
    for y, method in enumerate(methods):
        axes.plot([low[y], high[y]], [y, y], color=_look(method)[0], linewidth=4.5, solid_capstyle="butt")
        axes.plot(printed[y], y, "D", markersize=4.5, markeredgecolor="#CC3311", color="#CC3311" if outside[y] else "white")
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.set(xlabel=xlabel, ylim=(len(names) - 0.4, -0.6))
    axes.grid(axis="x", color="0.92")
    return figure

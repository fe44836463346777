"""The figures of E-LIME: superpixels, the search, and what the searches cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from xai_lib.plots.pictures import masked, show, show_map
from xai_lib.plots.style import METHOD_COLOURS, METHOD_NAMES, PAGE, UNSIGNED, Array, as_array, canvas, styled


def _outline(axes: Axes, segments: Array, colour: str = "yellow") -> None:
    """Borders of superpixels, one pixel wide."""
    labels = as_array(segments)
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    axes.imshow(np.ma.masked_where(~border, border), cmap=mpl.colors.ListedColormap([colour]), vmin=0, vmax=1)


def _numbers(axes: Axes, segments: Array) -> None:
    labels = as_array(segments)
    for k in range(labels.max() + 1):
        places = np.argwhere(labels == k)
        y, x = places[np.abs(places - places.mean(0)).sum(1).argmin()]  # a pixel of its own, near its middle
        axes.text(x, y, str(k), color="white", fontsize=6.5, ha="center", va="center",
                  bbox={"facecolor": "black", "alpha": 0.6, "pad": 0.6, "linewidth": 0})  # fmt: skip


@styled
def superpixels(images: Sequence[Array], rows: Mapping[str, Sequence[Array]], names: Sequence[str]) -> Figure:
    """Borders of superpixels on photographs: a row a segmentation, their number in the title."""
    side = min(PAGE / len(images), 1.5)
    figure, grid = canvas(len(rows), len(images), len(rows) * (side + 0.4), len(images) * side)
    for line, (method, found) in zip(grid, rows.items(), strict=True):
        for axes, image, segments, name in zip(line, images, found, names, strict=True):
            show(axes, image, f"{name}: {int(as_array(segments).max()) + 1}\n{method}")
            _outline(axes, segments)
    return figure


@styled
def stages(names: Sequence[str], shapes: Sequence[tuple[int, ...]], parameters: Sequence[int]) -> Figure:
    """A network as blocks in the order of its stages: height for the maps' side, number of channels above."""
    figure, grid = canvas(1, 1, 2.3)
    axes = grid[0, 0]
    sides = [shape[-1] if len(shape) == 3 else 1 for shape in shapes]
    heights = 0.25 + 0.75 * np.sqrt(np.array(sides) / max(sides))
    colours = mpl.colormaps[UNSIGNED](Normalize(0, np.log1p(max(parameters)))(np.log1p(parameters)))
    axes.bar(range(len(names)), heights, bottom=-heights / 2, width=0.75, color=colours, alpha=0.75)
    for i, (shape, height, n) in enumerate(zip(shapes, heights, parameters, strict=True)):
        axes.text(i, height / 2 + 0.03, "×".join(map(str, shape)), ha="center", fontsize=7, rotation=35)
        axes.text(i, -height / 2 - 0.04, f"{n / 1e6:.2f} M" if n >= 5000 else str(n), ha="center", va="top", fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set(yticks=[], ylim=(-0.62, 0.85), xlim=(-0.6, len(names) - 0.1))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return figure


@styled
def features(image: Array, early: Array, late: Array, titles: Sequence[str]) -> Figure:
    """A photograph beside four early and four late feature maps `(4, h, w)`, each map on its own scale."""
    figure = Figure(figsize=(PAGE, 2.5), layout="constrained")
    places: Any = figure.subfigures(1, 3, wspace=0.03)
    show(places[0].subplots(), image)
    for place, found in zip(places[1:], (early, late), strict=True):
        for axes, each in zip(place.subplots(2, 2).flat, as_array(found), strict=True):
            show_map(axes, each, signed=False)
    for place, title in zip(places, titles, strict=True):
        place.suptitle(title, fontsize=9)
    return figure


@styled
def encoding(image: Array, segments: Array, bits: Array) -> Figure:
    """Numbered superpixels, a bit string over them, and the image that the string stands for."""
    figure = Figure(figsize=(PAGE, 3.3), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[6, 1])
    numbered, shown, strip = (figure.add_subplot(grid[i]) for i in ((0, 0), (0, 1), (1, slice(None))))
    show(numbered, image, "superpixels 0 ... d-1")
    _outline(numbered, segments)
    _numbers(numbered, segments)
    show(shown, masked(image, segments, bits), "the image of the superpixels kept")
    strip.imshow(as_array(bits)[None].astype(float), cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    for k, bit in enumerate(as_array(bits)):
        strip.text(k, 0, str(int(bit)), ha="center", va="center", fontsize=7)
    d = len(as_array(bits))
    strip.set(yticks=[], xticks=range(0, d, 1 + d // 40), xlabel="superpixel", title="bit string: 1 = kept, 0 = black")
    strip.tick_params(labelsize=6)
    return figure


@styled
def framework(image: Array, segments: Array, masks: Array, scores: Array) -> Figure:
    """The loop of E-LIME as a diagram, with a real photograph and three candidates of a population `(3, d)`."""
    figure = Figure(figsize=(PAGE, 3.0))
    for x, label, outlined in ((0.0, "photograph", False), (0.17, "superpixels", True)):
        axes = figure.add_axes((x, 0.48, 0.145, 0.36))
        show(axes, image, label)
        if outlined:
            _outline(axes, segments)
    for i, mask in enumerate(as_array(masks)):
        show(figure.add_axes((0.53, 0.68 - 0.245 * i, 0.1, 0.22)), masked(image, segments, mask))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    axes.text(0.415, 0.935, "population", ha="center")
    axes.text(0.58, 0.935, "batch of images", ha="center")
    for i, mask in enumerate(as_array(masks)):
        bits = "".join(str(int(b)) for b in mask[:10]) + "..."
        axes.text(0.415, 0.79 - 0.245 * i, bits, ha="center", va="center", family="monospace", fontsize=8)
        axes.text(0.93, 0.79 - 0.245 * i, f"F = {as_array(scores)[i]:.3f}", ha="center", va="center", fontsize=8)
    axes.text(0.93, 0.935, "fitness", ha="center")
    _box(axes, 0.69, 0.42, 0.15, 0.24, "network\np(class)")
    _box(axes, 0.24, 0.03, 0.56, 0.1, "tournament, crossover, bit flips: children replace the worst")
    for a, b in (((0.318, 0.66), (0.335, 0.6)), ((0.5, 0.55), (0.525, 0.55)), ((0.635, 0.55), (0.685, 0.55)),
                 ((0.845, 0.55), (0.87, 0.55)), ((0.93, 0.24), (0.815, 0.09)), ((0.33, 0.14), (0.38, 0.24)),
                 ((0.147, 0.66), (0.168, 0.66))):  # fmt: skip
        axes.add_patch(FancyArrowPatch(a, b, arrowstyle="-|>", mutation_scale=9, color="0.3", linewidth=1))
    return figure


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str) -> None:
    look: dict[str, Any] = {"boxstyle": "round,pad=0.005", "facecolor": "#E8F0F8", "edgecolor": "0.3"}
    axes.add_patch(FancyBboxPatch((x, y), width, height, **look))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8)


@styled
def curves(
    series: Mapping[str, Mapping[str, Array]], levels: Mapping[str, float], xlabel: str, ylabel: str
) -> Figure:
    """Median and quartiles over runs, a panel a photograph: `series[panel][method]` is `(runs, x)`.

    `levels[panel]`: a horizontal line, LIME's.
    """
    figure, grid = canvas(-(-len(series) // 2), 2, 2.1 * -(-len(series) // 2) + 0.5)
    for axes in grid.flat[len(series) :]:
        axes.set_axis_off()
    for axes, (name, methods) in zip(grid.flat, series.items(), strict=False):
        for method in (m for m in METHOD_COLOURS if m in methods):
            _band(axes, method, as_array(methods[method]))
        if name in levels:
            colour, dash = METHOD_COLOURS["lime"]
            axes.axhline(levels[name], color=colour, linestyle=dash, label="LIME, any number of features")
        axes.set(title=name, xlabel=xlabel, ylabel=ylabel)
    handles, words = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=3)
    return figure


def _band(axes: Axes, method: str, runs: np.ndarray) -> None:
    colour, dash = METHOD_COLOURS[method]
    low, middle, high = np.nanpercentile(runs, [25, 50, 75], axis=0)
    x = np.arange(1, runs.shape[1] + 1)
    axes.plot(x, middle, color=colour, linestyle=dash, label=METHOD_NAMES[method])
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


@styled
def sizes(fractions: Mapping[str, Mapping[str, Sequence[float]]], rankings: Mapping[str, Array]) -> Figure:
    """Left: kept fraction of each run, by photograph and method. Right: probability on LIME's best k superpixels."""
    figure, (left, right) = _pair()
    for i, by_method in enumerate(fractions.values()):
        for j, (method, values) in enumerate(by_method.items()):
            x = i + (j - (len(by_method) - 1) / 2) * 0.25 + np.linspace(-0.06, 0.06, len(values))
            left.plot(x, values, "os^"[j % 3], color=METHOD_COLOURS[method][0], markersize=4, alpha=0.8,
                      label=METHOD_NAMES[method] if i == 0 else None)  # fmt: skip
    left.set_xticks(range(len(fractions)), [name.replace("_", "\n") for name in fractions])
    left.set(ylim=(0, 1.02), ylabel="superpixels kept, fraction", title="how many are kept")
    left.legend(loc="lower left")
    shades = mpl.colormaps["cividis"](np.linspace(0, 0.85, len(rankings)))
    for i, (name, values) in enumerate(rankings.items()):
        right.plot(np.arange(1, len(values) + 1), values, color=shades[i], linestyle=("-", "--", ":", "-.")[i % 4],
                   label=name, linewidth=1.4)  # fmt: skip
    right.set(xlabel="LIME's best k superpixels", ylabel="probability", ylim=(0, 1.02))
    right.set_title("LIME, by number of features")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


@styled
def costs(rows: Mapping[str, Mapping[str, Sequence[float | None]]], titles: Sequence[str], xlabels: Sequence[str]) -> Figure:
    """Dots by method on logarithmic axes, a bar at the median, a panel a measure: `rows[measure][method]`.

    None stands for "never": it has no dot, counts as infinite in the median, and the method's name says "k of n".
    """
    figure, panels_ = _pair()
    for axes, methods, title, label in zip(panels_, rows.values(), titles, xlabels, strict=True):
        present = [m for m in METHOD_COLOURS if len(methods.get(m, []))]
        names = []
        for y, method in enumerate(present):
            values = np.array([np.inf if v is None else v for v in methods[method]])
            found, colour = values[np.isfinite(values)], METHOD_COLOURS[method][0]
            axes.plot(found, np.full(len(found), y), "o", color=colour, markersize=4, alpha=0.6)
            if np.isfinite(np.median(values)):
                axes.plot(np.median(values), y, "|", color=colour, markersize=16, markeredgewidth=2)
            few = f", {len(found)} of {len(values)}" if len(found) < len(values) else ""
            names.append(METHOD_NAMES[method] + few)
        axes.set_yticks(range(len(present)), names)
        axes.set(xscale="log", xlabel=label, title=title, ylim=(len(present) - 0.5, -0.5))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x", which="major", color="0.9")
    return figure


def _pair() -> tuple[Figure, np.ndarray]:
    figure, grid = canvas(1, 2, 2.9)
    return figure, grid[0]


@styled
def gains(values: Mapping[str, Mapping[str, Sequence[float]]], xlabel: str) -> Figure:
    """Each run as a dot, the mean as a bar: a row a method, a panel a photograph; `values[photograph][method]`."""
    figure, grid = canvas(1, len(values), 2.6, sharey=True)
    present = [m for m in METHOD_COLOURS if any(m in methods for methods in values.values())]
    for axes, (name, methods) in zip(grid[0], values.items(), strict=True):
        for y, method in enumerate(present):
            found = methods.get(method, [])
            if len(found):
                colour = METHOD_COLOURS[method][0]
                axes.plot(found, np.full(len(found), y), "o", color=colour, markersize=4, alpha=0.6)
                axes.plot(np.mean(found), y, "|", color=colour, markersize=14, markeredgewidth=2)
        axes.axvline(0, color="0.5", linewidth=0.8)
        axes.set(title=name, ylim=(len(present) - 0.5, -0.5))
        axes.set_yticks(range(len(present)), [METHOD_NAMES[m] for m in present])
    figure.supxlabel(xlabel, fontsize=9)
    return figure

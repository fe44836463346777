"""Figures of counterfactual search: pictures over their maps, outlines, curves, confidences along a transition."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xai_lib.plots.diagrams import METHOD, NETWORK, THING, arrow, box
from xai_lib.plots.pictures import show, show_map
from xai_lib.plots.style import BLUE, GREY, ORANGE, PAGE, RED, Array, as_array, canvas, pixels, styled

_CURVES = (BLUE, ORANGE, "#009E73", RED, "#CC79A7", "#56B4E9")
_OPAQUE: dict[str, Any] = {"frameon": True, "framealpha": 1, "edgecolor": "none", "borderpad": 0.2}  # over the lines of crossings


class Shown(NamedTuple):
    """A picture `(3, H, W)` with its signed map `(H, W)`, a title above the picture and a line above the map."""

    image: Array
    relevance: Array
    title: str
    below: str = ""


class Way(NamedTuple):
    """A transition: confidences `(phases,)` of the correct and the wrong class, their names, crossings, and what moves below.

    `lower`: name to (phases, values), drawn in a panel of its own; None for none.
    """

    title: str
    correct: Array
    wrong: Array
    correct_name: str
    wrong_name: str
    crossings: Sequence[float]
    lower: Mapping[str, tuple[Array, Array]] | None = None


@styled
def pictures_over_maps(rows: Sequence[Sequence[Shown]], sides: Sequence[str] = ()) -> Figure:
    """Each row as two lines: pictures, and under each its map on a scale of its own about a white zero."""
    columns = max(map(len, rows))
    side, margin = min((PAGE - 0.4) / columns, 1.35), 0.4 if sides else 0.05
    letters = round(15 * side)
    lines = [max(_wrapped(f"{s.title}\n{s.below}", letters).count("\n") + 1 for s in row) for row in rows]
    heights = np.array([2 * (side - 0.06) + 0.14 * n for n in lines])
    figure, grid = canvas(2 * len(rows), columns, heights.sum(), columns * side + margin)
    layout: Any = figure.get_layout_engine()
    left = margin / figure.get_figwidth()
    layout.set(h_pad=0.015, w_pad=0.02, hspace=0, wspace=0, rect=(left, 0, 1 - left, 1))
    for axes in grid.flat:
        axes.set_axis_off()
    for r, row in enumerate(rows):
        for c, shown in enumerate(row):
            show(grid[2 * r, c], shown.image)
            show_map(grid[2 * r + 1, c], shown.relevance, True)
            for axes, words in ((grid[2 * r, c], shown.title), (grid[2 * r + 1, c], shown.below)):
                axes.set_title(_wrapped(words, letters), fontsize=7, pad=2.5, linespacing=1.05)
        if sides:
            middle = 1 - (heights[:r].sum() + heights[r] / 2) / heights.sum()
            figure.text(0.3 * left, middle, sides[r], rotation=90, ha="center", va="center", fontsize=8)
    return figure


@styled
def search_outline(
    image: Array, *, noise_shape: str, class_count: int, features: tuple[int, ...], noises: int, updates: int,
    learning_rate: float, classifier: str, generator: str,
) -> Figure:  # fmt: skip
    """The search of one counterfactual: what is fixed, what moves, and what is compared."""
    figure, grid = canvas(1, 1, 2.4)
    axes = grid[0, 0]
    axes.set(xlim=(-0.005, 1.005), ylim=(0, 1.06))
    axes.set_axis_off()
    shape = "×".join(map(str, (*features[1:], features[0])))
    box(axes, 0.0, 0.62, 0.17, 0.26, f"noise {noise_shape}\n{noises} starts for\neach class vector", THING)
    box(axes, 0.0, 0.28, 0.17, 0.26, f"vector c, {class_count} classes:\ncorrect, wrong,\nor softmax of x*", THING)
    box(axes, 0.21, 0.45, 0.13, 0.26, f"generator\n{generator}\n(fixed)", NETWORK)
    box(axes, 0.39, 0.49, 0.11, 0.22, "picture\nG(z, c)", THING)
    box(axes, 0.56, 0.22, 0.15, 0.49, f"features φ of\n{classifier}\n(fixed)\n{shape}", NETWORK)
    climbed = f"cosine of φ(x*), φ(G(z, c))\nclimbed by RMSprop,\nrate {learning_rate:g}, {updates} updates"
    box(axes, 0.77, 0.36, 0.23, 0.26, climbed, METHOD)
    inset: Any = axes.inset_axes((0.385, 0.0, 0.12, 0.33))
    inset.imshow(pixels(image))
    inset.set_axis_off()
    axes.text(0.445, 0.36, "x*, misclassified", ha="center", fontsize=7)
    ways = [(0.17, 0.75, 0.21, 0.62), (0.17, 0.41, 0.21, 0.53), (0.34, 0.58, 0.39, 0.58), (0.5, 0.58, 0.56, 0.58)]
    for x, y, x_end, y_end in [*ways, (0.51, 0.19, 0.56, 0.3), (0.71, 0.49, 0.77, 0.49)]:
        arrow(axes, (x, y), (x_end, y_end))
    axes.plot([0.885, 0.885, 0.085], [0.62, 1.0, 1.0], color="0.35", linewidth=0.9)
    arrow(axes, (0.085, 1.0), (0.085, 0.88))
    axes.text(0.5, 0.96, "gradient, to z alone", ha="center", va="top", fontsize=7)
    return figure


@styled
def transition_outline(frames: Array, *, phases: int) -> Figure:
    """A transition: three pictures `(3, 3, H, W)` on the line between start and goal, and what is interpolated."""
    figure, grid = canvas(1, 1, 1.9)
    axes = grid[0, 0]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    words = ("start: taken for the wrong class\nz₀, c₀", "phase t of " + str(phases) + "\n(1 − s) z₀ + s z₁,  (1 − s) c₀ + s c₁",
             "goal: taken for the correct class\nz₁, c₁")  # fmt: skip
    for i, (frame, said) in enumerate(zip(as_array(frames), words, strict=True)):
        inset: Any = axes.inset_axes((0.09 + 0.335 * i, 0.3, 0.16, 0.66))
        inset.imshow(pixels(frame))
        inset.set_axis_off()
        axes.text(0.17 + 0.335 * i, 0.22, said, ha="center", va="top", fontsize=7.5)
        if i:
            arrow(axes, (0.26 + 0.335 * (i - 1), 0.63), (0.08 + 0.335 * i, 0.63))
            axes.text(0.17 + 0.335 * (i - 0.5), 0.69, "classify, explain", ha="center", fontsize=7)
    return figure


@styled
def search_curves(curves: Mapping[str, Array]) -> Figure:
    """Similarity over updates, `(searches, updates + 1)` each: mean, and one standard deviation about it."""
    figure, grid = canvas(1, 1, 2.6, 4.8)
    axes = grid[0, 0]
    for (name, values), colour in zip(curves.items(), _CURVES, strict=False):
        found = as_array(values)
        mean, spread, at = found.mean(0), found.std(0, ddof=1) if len(found) > 1 else 0 * found[0], np.arange(found.shape[1])
        axes.plot(at, mean, color=colour, label=name)
        axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="update", ylabel="cosine of features", xlim=(0, None))
    axes.legend(loc="best", title="optimiser, learning rate", title_fontsize=8)
    return figure


@styled
def cosine_distribution(groups: Mapping[str, Mapping[str, Array]]) -> Figure:
    """A panel a case; a line of dots a group of pictures, with its median."""
    names = list(next(iter(groups.values())))
    figure, grid = canvas(1, len(groups), 0.32 * len(names) + 0.8, sharey=True, sharex=True)
    for axes, (case, found) in zip(grid[0], groups.items(), strict=True):
        for i, name in enumerate(names):
            values = as_array(found[name])
            colour = BLUE if name.startswith("searched") else GREY if "other" in name else ORANGE
            axes.plot(values, np.full(len(values), i), "|", color=colour, alpha=0.7, markersize=9)
            if len(values) > 1:
                axes.plot([np.median(values)] * 2, [i - 0.38, i + 0.38], color="black", linewidth=1.4)
        axes.set(title=f"case {case}", xlabel="cosine", ylim=(len(names) - 0.5, -0.5))
        axes.grid(axis="x", color="0.92", linewidth=0.6)
    grid[0, 0].set_yticks(range(len(names)), names)
    return figure


@styled
def confidences(ways: Sequence[Way]) -> Figure:
    """Confidences along transitions: solid blue the correct class, dotted orange the wrong one; below, what moves."""
    below = any(way.lower for way in ways)
    ratios: dict[str, Any] = {"height_ratios": [1.25, 1]} if below else {}
    figure, grid = canvas(2 if below else 1, len(ways), 4.0 if below else 2.3, sharex="col", sharey="row", **ratios)
    for c, way in enumerate(ways):
        upper = grid[0, c]
        upper.plot(as_array(way.correct), color=BLUE, label=way.correct_name)
        upper.plot(as_array(way.wrong), ":", color=ORANGE, linewidth=2, label=way.wrong_name)
        upper.set_title(way.title.replace(" taken for ", "\ntaken for "), fontsize=8)
        upper.set(ylim=(-0.02, 1.42), yticks=[0, 0.5, 1], ylabel="" if c else "confidence")
        upper.legend(loc="upper left", fontsize=7, handlelength=1.3, **_OPAQUE)
        if below:
            _moves(grid[1, c], way.lower or {})
            grid[1, c].set(ylabel="" if c else "change, sd")
        for axes in grid[:, c]:
            for cross in way.crossings:
                axes.axvline(cross, color="0.5", linewidth=0.8, linestyle=(0, (4, 2)))
        grid[-1, c].set_xlabel("phase")
    if below:
        low, high = grid[1, 0].get_ylim()
        grid[1, 0].set_ylim(low, high + 0.5 * (high - low))  # of all: room for the legends
    return figure


def _wrapped(words: str, letters: int) -> str:
    return "\n".join(line for part in words.split("\n") for line in textwrap.wrap(part, letters) or [""])


def _moves(axes: Axes, lower: Mapping[str, tuple[Array, Array]]) -> None:
    for (name, (at, values)), colour in zip(lower.items(), ("#117733", "#882255", "#332288"), strict=False):
        found = as_array(values)
        axes.plot(as_array(at), found - found[0], color=colour, linewidth=1.1, label=name.replace("_", " "))
    axes.axhline(0, color="0.8", linewidth=0.7)
    if lower:
        axes.legend(loc="upper left", fontsize=6.5, **_OPAQUE)

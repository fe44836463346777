"""Photographs and relevance maps in rows: what every notebook shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from xai_lib.plots.style import CLAMP, HALF, METHOD_COLOURS, PAGE, SIGNED, UNSIGNED, Array, as_array, canvas, pixels, styled


def masked(image: Array, segments: Array, kept: Array) -> np.ndarray:
    """The image `(3, H, W)` with the superpixels that are not kept in black."""
    return as_array(image) * as_array(kept)[as_array(segments)]


def show(axes: Axes, image: Array, title: str = "") -> None:
    """A photograph `(3, H, W)` without axes."""
    axes.imshow(pixels(image))
    axes.set_title(title)
    axes.set_axis_off()


def show_map(axes: Axes, values: Array, signed: bool, title: str = "", limit: float | None = None) -> Any:
    """A relevance map `(H, W)`: diverging and symmetric about zero if signed, else perceptually uniform from zero."""
    values = as_array(values)
    limit = limit or limit_of(values, signed)
    drawn = axes.imshow(values, cmap=SIGNED if signed else UNSIGNED, norm=Normalize(-limit if signed else 0, limit))
    axes.set_title(title)
    axes.set_axis_off()
    return drawn


def show_over(axes: Axes, image: Array, values: Array, title: str = "", signed: bool = False) -> Any:
    """A map `(H, W)` in 0..1 (values beyond are cut), half transparent over the photograph `(3, H, W)` in grey."""
    axes.imshow(pixels(image).mean(2), cmap="gray", norm=Normalize(-0.1, 1))
    low = -1.0 if signed else 0.0
    drawn = axes.imshow(as_array(values), cmap=SIGNED if signed else UNSIGNED, norm=Normalize(low, 1), alpha=0.55)
    axes.set_title(title)
    axes.set_axis_off()
    return drawn


def limit_of(values: np.ndarray, signed: bool) -> float:
    """Where the colours of maps end: the percentile `CLAMP` of the size of signed ones, the maximum of others; never 0."""
    limit = float(np.percentile(np.abs(values), CLAMP)) if signed else float(values.max(initial=0))
    return limit or 1.0


@styled
def maps(maps: Array, signed: bool, titles: Sequence[str] = ()) -> Figure:
    """Relevance maps `(N, H, W)`, four a row, each on its own scale with a colour bar."""
    values = as_array(maps)
    rows, columns = -(-len(values) // 4), min(len(values), 4)
    figure, grid = canvas(rows, columns, 2.1 * rows, PAGE * columns / 4 if columns > 1 else HALF)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, (axes, each) in enumerate(zip(grid.flat, values, strict=False)):
        bar = figure.colorbar(show_map(axes, each, signed, titles[i] if titles else ""), ax=axes, shrink=0.8)
        bar.ax.tick_params(labelsize=7)
    how = f"relevance, cut at the {CLAMP} percentile of its size" if signed else "relevance"
    figure.supxlabel(how, fontsize=8)
    return figure


@styled
def panels(rows: Sequence[Sequence[Array]], titles: Sequence[Sequence[str]], sides: Sequence[str] = ()) -> Figure:
    """Photographs `(3, H, W)` in a grid, a title each, and a name for each row at its left."""
    columns = max(map(len, rows))
    side = min(PAGE / columns, 2.3 if len(rows) == 1 else 1.5)  # small: photographs are most of a run's bytes
    figure, grid = canvas(len(rows), columns, len(rows) * (side + 0.4), columns * side)
    for i, (line, words) in enumerate(zip(rows, titles, strict=True)):
        for axes, image, title in zip(grid[i], line, words, strict=False):
            show(axes, image, title)
        for axes in grid[i][len(line) :]:
            axes.set_axis_off()
        if sides:
            grid[i][0].text(-0.04, 0.5, sides[i], rotation=90, ha="right", va="center", transform=grid[i][0].transAxes)
    return figure


@styled
def predictions(images: Sequence[Array], tops: Sequence[Sequence[tuple[str, float]]], titles: Sequence[str]) -> Figure:
    """Photographs with bars of their most probable classes below; `tops`: (class, probability) pairs, best first."""
    figure, grid = canvas(2, len(images), 3.3, height_ratios=[1.7, 1])
    for (above, below), image, top, title in zip(grid.T, images, tops, titles, strict=True):
        show(above, image, title)
        below.barh(range(len(top)), [p for _, p in top], color=METHOD_COLOURS["elime"][0], alpha=0.45)
        for i, (name, p) in enumerate(top):
            below.text(0.02, i, f"{name[:18]}  {p:.2f}", va="center", fontsize=7.5)
        below.set(xlim=(0, 1), yticks=[], xlabel="probability")
        below.invert_yaxis()
    return figure

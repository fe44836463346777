"""Figures of the XAI framework: several methods' maps of a photograph side by side, and the pipeline that makes them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from xai_lib.plots.diagrams import arrow, box
from xai_lib.plots.pictures import limit_of, show, show_map
from xai_lib.plots.style import PAGE, SIGNED, UNSIGNED, Array, as_array, canvas, pixels, styled


class Column(NamedTuple):
    """One method: its name, maps `(N, H, W)` or None for a refusal, a reading a map, and a note: its layer, or the reason."""

    title: str
    maps: Array | None
    signed: bool
    readings: Sequence[str]
    note: str = ""


@styled
def xai_views(
    images: Array, titles: Sequence[str], columns: Sequence[Column], shared: bool = False, width: float = PAGE
) -> Figure:
    """A row a photograph `(3, H, W)`, a column a method; below each map its reading, beside it its colour bar.

    Signed maps are drawn plain about a white zero, unsigned ones over the photograph in grey. `shared`: one scale for all maps
    of a method, where each has its own otherwise; signed ones are cut at the percentile `CLAMP` of their size. `width`: inch;
    more than three methods take as much as they need.
    """
    n, side = len(titles), min(width / (len(columns) + 0.75), 1.9) if len(columns) < 4 else 1.75
    tallest = max(title.count("\n") for title in titles)
    height = n * (0.76 * side + 0.55 + 0.13 * tallest)
    figure, grid = canvas(n, len(columns) + 1, height, (len(columns) + 0.75) * side, width_ratios=[0.75] + [1.0] * len(columns))
    for i, (image, title) in enumerate(zip(as_array(images), titles, strict=True)):
        show(grid[i, 0], image)
        grid[i, 0].set_title("\n".join(_cut(line, 22) for line in title.split("\n")), fontsize=7)
        for axes, column in zip(grid[i, 1:], columns, strict=True):
            _panel(axes, image, column, i, shared, round(16 * side))
    return figure


@styled
def xai_gallery(image: Array, title: str, columns: Sequence[Column], across: int = 4) -> Figure:
    """One photograph `(3, H, W)` and a map `(1, H, W)` a method, in lines of `across` panels; as `xai_views` otherwise."""
    lines, side = -(-(len(columns) + 1) // across), 1.6
    figure, grid = canvas(lines, across, lines * (side + 0.3), across * (side + 0.15))
    panels = grid.flatten()
    show(panels[0], image)
    panels[0].set_title("\n".join(_cut(line, 26) for line in title.split("\n")), fontsize=8)
    for axes, column in zip(panels[1:], columns, strict=False):
        _panel(axes, as_array(image), column, 0, False, round(16 * side))
    for axes in panels[len(columns) + 1 :]:
        axes.set_axis_off()
    return figure


def _panel(axes: Axes, image: Array, column: Column, i: int, shared: bool, letters: int) -> None:
    head = column.title
    if column.maps is None:
        axes.set(aspect="equal", xlim=(0, 1), ylim=(0, 1))
        axes.set_axis_off()
        axes.set_title(head, fontsize=8)
        words = _wrapped(f"refused: {column.note}", 26, 10)
        axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=6.5, color="0.35")
        return
    maps = as_array(column.maps)
    limit = limit_of(maps if shared else maps[i], column.signed)
    if column.signed:
        drawn = show_map(axes, maps[i], True, limit=limit)
        axes.add_patch(_frame(maps[i].shape))
    else:
        axes.imshow(pixels(image).mean(2), cmap="gray", norm=Normalize(-0.1, 1))
        drawn = axes.imshow(maps[i], cmap=UNSIGNED, norm=Normalize(0, limit), alpha=0.6)
        axes.set_axis_off()
    note = f"\n{_cut(column.note, 30)}" if column.note else ""
    axes.set_title(head + note, fontsize=8)
    ticks = [-limit, 0, limit] if column.signed else [0, limit / 2, limit]
    bar = axes.figure.colorbar(drawn, cax=axes.inset_axes((1.03, 0.06, 0.05, 0.88)), ticks=ticks)  # as tall as the map is
    bar.ax.set_yticklabels([_tick(t) for t in ticks], fontsize=6.5)
    bar.outline.set_linewidth(0.5)
    words = textwrap.fill(column.readings[i], letters)
    axes.text(0.5, -0.03, words, ha="center", va="top", fontsize=6.5, transform=axes.transAxes)


@styled
def class_views(image: Array, classes: Sequence[str], rows: Sequence[tuple[str, Array, bool]]) -> Figure:
    """Maps `(T, H, W)` of one picture `(3, H, W)` for T classes: a row a method (name, maps, signed) on one scale each."""
    side = 0.85  # inch: small, as noise cannot be compressed
    figure, grid = canvas(len(rows), len(classes), len(rows) * side + 0.4, (len(classes) + 0.6) * side)
    for line, (name, maps, signed) in zip(grid, rows, strict=True):
        values = as_array(maps)
        limit = limit_of(values, signed)
        for axes, each in zip(line, values, strict=True):
            if not signed:
                axes.imshow(pixels(image).mean(2), cmap="gray", norm=Normalize(-0.1, 1))
            drawn = axes.imshow(each, cmap=SIGNED if signed else UNSIGNED, norm=Normalize(-limit if signed else 0, limit),
                                alpha=1 if signed else 0.6)  # fmt: skip
            axes.set_axis_off()
        line[0].text(-0.06, 0.5, name, rotation=90, ha="right", va="center", transform=line[0].transAxes)
        ticks = [-limit, 0, limit] if signed else [0, limit]
        bar = figure.colorbar(drawn, cax=line[-1].inset_axes((1.05, 0.06, 0.06, 0.88)), ticks=ticks)
        bar.ax.set_yticklabels([_tick(t) for t in ticks], fontsize=6.5)
    for axes, title in zip(grid[0], classes, strict=True):
        axes.set_title(_wrapped(title, 13, 3), fontsize=6.5)
    return figure


def _frame(shape: tuple[int, ...]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((-0.5, -0.5), shape[1], shape[0], fill=False, edgecolor="0.6", linewidth=0.5)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _wrapped(text: str, letters: int, lines: int) -> str:
    """At most so many lines of so many letters; what is left out is an ellipsis."""
    found = textwrap.wrap(text, letters)
    return "\n".join([*found[: lines - 1], _cut(" ".join(found[lines - 1 :]), letters)] if len(found) > lines else found)


def _tick(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


@styled
def xai_pipeline(picture: str, network: str, methods: Sequence[tuple[str, str, str]]) -> Figure:
    """Boxes and arrows: picture, network, then a line a method: its name, what it looks at, what it gives."""
    n = len(methods)
    figure, grid = canvas(1, 1, max(1.6, 0.75 * n + 0.2))
    axes = grid[0, 0]
    axes.set(xlim=(-0.005, 1.005), ylim=(0, 1))
    axes.set_axis_off()
    box(axes, 0.0, 0.36, 0.13, 0.28, picture, "#F3EFE4")
    box(axes, 0.18, 0.32, 0.2, 0.36, network, "#E8F0F8")
    arrow(axes, (0.13, 0.5), (0.18, 0.5))
    height = 0.78 / n
    for i, (name, looks, gives) in enumerate(methods):
        y = 1 - (i + 1) / n + (1 / n - height) / 2
        refused = gives == "refused"
        box(axes, 0.45, y, 0.36, height, f"{name}\n{textwrap.fill(looks, 44, max_lines=2)}" if refused else f"{name}\n{looks}",
             "#F6E6E6" if refused else "#E9F3EA")  # fmt: skip
        box(axes, 0.87, y, 0.13, height, gives, "#F3EFE4")
        arrow(axes, (0.38, 0.5), (0.45, y + height / 2))
        arrow(axes, (0.81, y + height / 2), (0.87, y + height / 2))
    return figure

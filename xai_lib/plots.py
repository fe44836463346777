"""Every figure style of the compendium, once: arrays and tensors in, a matplotlib `Figure` out.

Widths are those of a printed page (7 inch) or half of one (3.4), type is 9 point at that size, and a method has the
same colour, dash and place in every figure. Nothing here needs a display or leaves anything in pyplot's global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

PAGE, HALF = 7.0, 3.4  #: widths, inch
SIGNED, UNSIGNED = "RdBu_r", "viridis"
CLAMP = 99.5  #: signed relevance is cut at this percentile of its absolute values, on both sides alike
STYLE: dict[str, Any] = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "lines.linewidth": 1.4, "legend.frameon": False, "image.interpolation": "nearest",
}  # fmt: skip

#: Colour (Okabe and Ito's colour-blind safe set) and dash of a method, in the order in which methods are drawn.
METHOD_COLOURS: dict[str, tuple[str, Any]] = {
    "elime": ("#0072B2", "-"),
    "elime_paper": ("#56B4E9", (0, (5, 1.5))),
    "random_search": ("#7F7F7F", (0, (1, 1.5))),
    "greedy_deletion": ("#D55E00", (0, (6, 1.5, 1, 1.5))),
    "greedy_insertion": ("#E69F00", (0, (3, 1, 1, 1, 1, 1))),
    "lime": ("#009E73", (0, (2, 1))),
    "lime_stratified": ("#CC79A7", (0, (4, 1, 1, 1))),
}
METHOD_NAMES = {
    "elime": "E-LIME", "elime_paper": "plain E-LIME", "random_search": "random search",
    "greedy_deletion": "greedy deletion", "greedy_insertion": "greedy insertion", "lime": "LIME",
    "lime_stratified": "stratified LIME",
}  # fmt: skip
Array = Any  #: anything numpy reads, or a tensor on any device
Draw = Callable[..., Figure]


def _styled(draw: Draw) -> Draw:
    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        own: Any = {key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"} | STYLE
        with mpl.rc_context(own):  # a reader's own matplotlibrc does not change the figures
            return draw(*args, **kwargs)

    return drawn


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def canvas(rows: int, columns: int, height: float, width: float = PAGE, **grid: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure and its axes `(rows, columns)`; `height` in inch."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def _array(values: Array) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _pixels(image: Array) -> np.ndarray:
    """`(3, H, W)` in 0..1 as `(H, W, 3)`."""
    return np.clip(_array(image).transpose(1, 2, 0), 0, 1)


def masked(image: Array, segments: Array, kept: Array) -> np.ndarray:
    """The image `(3, H, W)` with the superpixels that are not kept in black."""
    return _array(image) * _array(kept)[_array(segments)]


def show(axes: Axes, image: Array, title: str = "") -> None:
    """A photograph `(3, H, W)` without axes."""
    axes.imshow(_pixels(image))
    axes.set_title(title)
    axes.set_axis_off()


def show_map(axes: Axes, values: Array, signed: bool, title: str = "", limit: float | None = None) -> Any:
    """A relevance map `(H, W)`: diverging and symmetric about zero if signed, else perceptually uniform from zero."""
    values = _array(values)
    limit = limit or _limit(values, signed)
    drawn = axes.imshow(values, cmap=SIGNED if signed else UNSIGNED, norm=Normalize(-limit if signed else 0, limit))
    axes.set_title(title)
    axes.set_axis_off()
    return drawn


def _limit(values: np.ndarray, signed: bool) -> float:
    limit = float(np.percentile(np.abs(values), CLAMP)) if signed else float(values.max(initial=0))
    return limit or 1.0


def _outline(axes: Axes, segments: Array, colour: str = "yellow") -> None:
    """Borders of superpixels, one pixel wide."""
    labels = _array(segments)
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    axes.imshow(np.ma.masked_where(~border, border), cmap=mpl.colors.ListedColormap([colour]), vmin=0, vmax=1)


def _numbers(axes: Axes, segments: Array) -> None:
    labels = _array(segments)
    for k in range(labels.max() + 1):
        places = np.argwhere(labels == k)
        y, x = places[np.abs(places - places.mean(0)).sum(1).argmin()]  # a pixel of its own, near its middle
        axes.text(x, y, str(k), color="white", fontsize=6.5, ha="center", va="center",
                  bbox={"facecolor": "black", "alpha": 0.6, "pad": 0.6, "linewidth": 0})  # fmt: skip


@_styled
def maps(maps: Array, signed: bool, titles: Sequence[str] = ()) -> Figure:
    """Relevance maps `(N, H, W)`, four a row, each on its own scale with a colour bar."""
    values = _array(maps)
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


@_styled
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


@_styled
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


@_styled
def superpixels(images: Sequence[Array], rows: Mapping[str, Sequence[Array]], names: Sequence[str]) -> Figure:
    """Borders of superpixels on photographs: a row a segmentation, their number in the title."""
    side = min(PAGE / len(images), 1.5)
    figure, grid = canvas(len(rows), len(images), len(rows) * (side + 0.4), len(images) * side)
    for line, (method, found) in zip(grid, rows.items(), strict=True):
        for axes, image, segments, name in zip(line, images, found, names, strict=True):
            show(axes, image, f"{name}: {int(_array(segments).max()) + 1}\n{method}")
            _outline(axes, segments)
    return figure


@_styled
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


@_styled
def features(image: Array, early: Array, late: Array, titles: Sequence[str]) -> Figure:
    """A photograph beside four early and four late feature maps `(4, h, w)`, each map on its own scale."""
    figure = Figure(figsize=(PAGE, 2.5), layout="constrained")
    places: Any = figure.subfigures(1, 3, wspace=0.03)
    show(places[0].subplots(), image)
    for place, found in zip(places[1:], (early, late), strict=True):
        for axes, each in zip(place.subplots(2, 2).flat, _array(found), strict=True):
            show_map(axes, each, signed=False)
    for place, title in zip(places, titles, strict=True):
        place.suptitle(title, fontsize=9)
    return figure


@_styled
def encoding(image: Array, segments: Array, bits: Array) -> Figure:
    """Numbered superpixels, a bit string over them, and the image that the string stands for."""
    figure = Figure(figsize=(PAGE, 3.3), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[6, 1])
    numbered, shown, strip = (figure.add_subplot(grid[i]) for i in ((0, 0), (0, 1), (1, slice(None))))
    show(numbered, image, "superpixels 0 ... d-1")
    _outline(numbered, segments)
    _numbers(numbered, segments)
    show(shown, masked(image, segments, bits), "the image of the superpixels kept")
    strip.imshow(_array(bits)[None].astype(float), cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    for k, bit in enumerate(_array(bits)):
        strip.text(k, 0, str(int(bit)), ha="center", va="center", fontsize=7)
    d = len(_array(bits))
    strip.set(yticks=[], xticks=range(0, d, 1 + d // 40), xlabel="superpixel", title="bit string: 1 = kept, 0 = black")
    strip.tick_params(labelsize=6)
    return figure


@_styled
def framework(image: Array, segments: Array, masks: Array, scores: Array) -> Figure:
    """The loop of E-LIME as a diagram, with a real photograph and three candidates of a population `(3, d)`."""
    figure = Figure(figsize=(PAGE, 3.0))
    for x, label, outlined in ((0.0, "photograph", False), (0.17, "superpixels", True)):
        axes = figure.add_axes((x, 0.48, 0.145, 0.36))
        show(axes, image, label)
        if outlined:
            _outline(axes, segments)
    for i, mask in enumerate(_array(masks)):
        show(figure.add_axes((0.53, 0.68 - 0.245 * i, 0.1, 0.22)), masked(image, segments, mask))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    axes.text(0.415, 0.935, "population", ha="center")
    axes.text(0.58, 0.935, "batch of images", ha="center")
    for i, mask in enumerate(_array(masks)):
        bits = "".join(str(int(b)) for b in mask[:10]) + "..."
        axes.text(0.415, 0.79 - 0.245 * i, bits, ha="center", va="center", family="monospace", fontsize=8)
        axes.text(0.93, 0.79 - 0.245 * i, f"F = {_array(scores)[i]:.3f}", ha="center", va="center", fontsize=8)
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


@_styled
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
            _band(axes, method, _array(methods[method]))
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


@_styled
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


@_styled
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


@_styled
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

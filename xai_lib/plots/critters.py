"""Figures of drawn critters: sheets, what one number does, and which part is suspected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from xai_lib.plots.style import BLUE, ORANGE, PAGE, UNSIGNED, Array, as_array, canvas, pixels, styled


@styled
def two_sheets(sheets: Mapping[str, Array], classes: Sequence[str]) -> Figure:
    """Sheets of pictures `(classes * n, 3, H, W)` side by side, a row a class."""
    figure, grid = canvas(1, len(sheets), 0.56 * len(classes) + 0.35)
    for axes, (title, images) in zip(grid[0], sheets.items(), strict=True):
        found = as_array(images)
        n, size = len(found) // len(classes), found.shape[-1]
        rows = found.reshape(len(classes), n, 3, size, size).transpose(2, 0, 3, 1, 4).reshape(3, len(classes) * size, n * size)
        axes.imshow(pixels(rows), interpolation="antialiased")
        axes.set_title(title)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    places = (np.arange(len(classes)) + 0.5) * as_array(next(iter(sheets.values()))).shape[-1]
    grid[0, 0].set_yticks(places, [c.replace("_", " ") for c in classes])
    grid[0, 0].tick_params(length=0)
    return figure


@styled
def interventions(
    values: Mapping[str, Array], curves: Mapping[str, Mapping[str, Array]], meanings: Mapping[str, str] | None = None
) -> Figure:
    """A panel a number: mean probabilities over its values, the class solid blue, its rival dotted orange."""
    figure, grid = canvas(1, len(values), 2.5, PAGE, sharey=True)
    for axes, (number, at) in zip(grid[0], values.items(), strict=True):
        looks = ((BLUE, "-", 1.4), (ORANGE, ":", 2.0))
        for (name, found), (colour, line, width) in zip(curves[number].items(), looks, strict=False):
            axes.plot(as_array(at), as_array(found), line, color=colour, linewidth=width, label=name.replace("_", " "))
        meaning = (meanings or {}).get(number, "").split(",")[0]
        axes.set(ylim=(-0.02, 1.02), xlabel=number.replace("_", " ") + (f"\n({meaning})" if meaning else ""))
        axes.xaxis.label.set_fontsize(8)
        axes.legend(loc="best", fontsize=7)
    grid[0, 0].set_ylabel("mean probability")
    return figure


@styled
def part_strengths(cases: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """A panel a case: rows ways of suspecting, columns parts; each row from 0 to its largest value, which a diamond marks.

    Negative values are drawn as 0: such a part is not suspected.
    """
    figure, grid = canvas(1, len(cases), 2.6)
    drawn = None
    for c, (axes, (title, ways)) in enumerate(zip(grid[0], cases.items(), strict=True)):
        parts = list(dict.fromkeys(part for found in ways.values() for part in found))
        table = np.array([[max(found.get(part, 0.0), 0.0) for part in parts] for found in ways.values()])
        drawn = axes.imshow(table / np.maximum(table.max(1, keepdims=True), 1e-12), cmap=UNSIGNED, vmin=0, vmax=1, aspect="auto")
        axes.plot(table.argmax(1), range(len(table)), "D", color="white", markeredgecolor="black", markersize=5)
        said = [part.replace("_", " ") for part in parts]
        axes.set_xticks(range(len(parts)), said, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
        axes.set_yticks(range(len(ways)), list(ways) if c == 0 else [""] * len(ways), fontsize=7.5)
        axes.set_title(title.replace(" taken for ", "\ntaken for "), fontsize=8)
        axes.spines[:].set_visible(False)
    if drawn is not None:
        figure.colorbar(drawn, ax=grid[0, -1], label="share of the row's largest", fraction=0.08)
    return figure

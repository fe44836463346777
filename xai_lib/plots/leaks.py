"""Copies side by side, and how much is told without the picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from xai_lib.plots.style import METHOD_COLOURS, PAGE, Array, as_array, canvas, styled


@styled
def copies(pictures: Sequence[tuple[Array, Array]], titles: Sequence[tuple[str, str]], words: Sequence[str]) -> Figure:
    """Pairs of pictures `(H, W, 3)` uint8 of any size, two pairs a row; a title for each picture, a word for each pair."""
    rows = -(-len(pictures) // 2)
    figure, grid = canvas(rows, 5, 2.15 * rows, PAGE, width_ratios=[1, 1, 0.08, 1, 1])
    for axes in grid.flat:
        axes.set_axis_off()
    for i, (pair, names, word) in enumerate(zip(pictures, titles, words, strict=True)):
        for k in range(2):
            axes = grid[i // 2][3 * (i % 2) + k]
            axes.imshow(as_array(pair[k]))
            axes.set_anchor("N")
            axes.set_title(names[k], fontsize=7.5)
        left = grid[i // 2][3 * (i % 2)]
        left.text(-0.03, 0.5, word, rotation=90, ha="right", va="center", fontsize=8, transform=left.transAxes)
    return figure


@styled
def shortcuts(names: Sequence[str], accuracy: Array, low: Array, high: Array, commonest: Array) -> Figure:
    """Accuracy of each tree, 0..1, with its interval, against that of always saying the commonest class (bar)."""
    figure, [[axes]] = canvas(1, 1, 0.9 + 0.3 * len(names))
    rows, middle = range(len(names)), as_array(accuracy)
    axes.barh(rows, as_array(commonest), color="#CCCCCC", label="always the commonest class")
    sides = (middle - as_array(low), as_array(high) - middle)
    axes.errorbar(middle, rows, xerr=sides, fmt="o", color=METHOD_COLOURS["elime"][0], capsize=3, label="tree, 95 % interval")
    axes.set(xlim=(0, 1.02), xlabel="accuracy", yticks=rows, yticklabels=names)
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure

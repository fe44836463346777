"""Figures on the brain pictures of paper 4: how a network learns them, and what its accuracy is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xai_lib.plots.pictures import show, show_map
from xai_lib.plots.style import BLUE, GREY, ORANGE, PAGE, RED, Array, as_array, canvas, styled

SPLITS = {"train": GREY, "validation": BLUE, "test": RED}
SUBSETS = {"all": "#666666", "with twin": RED, "no twin": BLUE}


@styled
def with_outlines(
    rows: Sequence[Sequence[Array]], masks: Sequence[Array], titles: Sequence[Sequence[str]], signed: Sequence[bool] = (),
    width: float = PAGE,
) -> Figure:  # fmt: skip
    """Rows of one picture `(3, H, W)` and any number of maps `(H, W)`, the outline of the row's mask `(H, W)` in each.

    `signed`: of each column of maps. With pictures alone in a row, `masks` holds one for each, row by row. `width`: inch.
    """
    columns = max(map(len, rows))
    figure, grid = canvas(len(rows), columns, len(rows) * (width / columns + 0.32), width)
    single = len(masks) == len(rows)
    for i, (axes, row, words) in enumerate(zip(grid, rows, titles, strict=True)):
        for j, (axis, each, title) in enumerate(zip(axes, row, words, strict=True)):
            if as_array(each).ndim == 3:
                show(axis, each)
            else:
                show_map(axis, each, signed[j - 1])
            mask = as_array(masks[i] if single else masks[i * columns + j])
            if mask.any():
                axis.contour(mask, [0.5], colors=ORANGE, linewidths=0.8)
            axis.set_title(title, fontsize=9 if width / columns > 1.4 else 6.5)
    return figure


@styled
def mean_maps(pictures: Sequence[Array], maps: Sequence[Array], titles: Sequence[str]) -> Figure:
    """Mean pictures `(3, H, W)` above mean unsigned maps `(H, W)`, all maps on one scale."""
    figure, grid = canvas(2, len(pictures), 3.8)
    limit = max(float(as_array(m).max()) for m in maps) or 1.0
    for column, picture, each, title in zip(grid.T, pictures, maps, titles, strict=True):
        show(column[0], picture, title)
        drawn = show_map(column[1], each, False, limit=limit)
    figure.colorbar(drawn, ax=grid[1].tolist(), shrink=0.8).ax.tick_params(labelsize=7)
    return figure


@styled
def size_leak(shares: pd.DataFrame, tree: Sequence[tuple[str, float, float, float]], published: float) -> Figure:
    """Left: `shares`, of files of one size, a row a class, a column a split. Right: (subset, accuracy, low, high) of the tree."""
    figure, [[left, right]] = canvas(1, 2, 2.6)
    places = np.arange(len(shares))
    for i, (split, colour) in enumerate(zip(shares.columns[::-1], (BLUE, ORANGE), strict=True)):
        left.barh(places + 0.2 - 0.4 * i, shares[split], 0.38, color=colour, label=split)
    left.set(yticks=places, yticklabels=shares.index, xlabel="share of files of 512×512 pixels", xlim=(0, 1))
    left.legend(loc="upper center", bbox_to_anchor=(0.4, 1.2), ncols=2)
    names, values, low, high = (list(v) for v in zip(*tree, strict=True))
    right.barh(names, values, color=[SUBSETS[n] for n in names], xerr=_whiskers(values, low, high), error_kw={"lw": 0.8})
    right.axvline(published, color="black", ls=":")
    right.set_title(f"dotted: the paper's network, {published:.1%}", fontsize=8)
    right.set(xlabel="accuracy of the size tree on test scans", xlim=(0, 1))
    right.invert_yaxis()
    return figure


@styled
def training_curves(history: pd.DataFrame, chosen: Mapping[str, int]) -> Figure:
    """Loss and accuracy of each epoch and split; a dot at the epoch that a split would choose (`chosen`: split to epoch)."""
    figure, [axes] = canvas(1, 2, 2.5)
    for axis, measure, words in zip(axes, ("loss", "accuracy"), ("mean cross-entropy", "share of right answers"), strict=True):
        for split, own in history.groupby("split", sort=False):
            axis.plot(own.epoch, own[measure], color=SPLITS[str(split)], label=split)
            if split in chosen:
                axis.plot(chosen[str(split)], own.set_index("epoch")[measure][chosen[str(split)]], "o", color=SPLITS[str(split)])
        axis.set(xlabel="epoch", ylabel=words)
    axes[0].legend()
    return figure


@styled
def accuracies(rows: pd.DataFrame, published: float) -> Figure:
    """Bars with intervals; `rows`: network, split, subset, images, accuracy, ci_low, ci_high; the dotted line is published."""
    rows = rows.iloc[::-1]
    figure, [[axis]] = canvas(1, 1, 0.7 + 0.21 * len(rows))
    names = [f"{r.network}, {r.split}: {r.subset} ({r.images})" for r in rows.itertuples()]
    axis.barh(range(len(rows)), rows.accuracy, color=[SUBSETS.get(s, GREY) for s in rows.subset],
              xerr=_whiskers(rows.accuracy, rows.ci_low, rows.ci_high), error_kw={"lw": 0.8})  # fmt: skip
    axis.set(yticks=range(len(rows)), xlim=(0, 1), ylim=(-0.7, len(rows) - 0.3), xlabel="accuracy, with Wilson's 95 % interval")
    axis.set_yticklabels(names, fontsize=7)
    axis.axvline(published, color="black", ls=":", lw=1)
    return figure


@styled
def confusions(counts: Mapping[str, Array], classes: Sequence[str]) -> Figure:
    """Confusion matrices `(K, K)`, true class down, predicted across; colour is the share of the true class."""
    figure, grid = canvas(1, len(counts), 3.1, 3.4 * len(counts))
    for axis, (title, matrix) in zip(grid[0], counts.items(), strict=True):
        values = as_array(matrix)
        shares = values / values.sum(1, keepdims=True).clip(1)
        axis.imshow(shares, cmap="viridis", vmin=0, vmax=1)
        for (i, j), n in np.ndenumerate(values):
            axis.text(j, i, str(n), ha="center", va="center", color="black" if shares[i, j] > 0.6 else "white")
        axis.set(xticks=range(len(classes)), yticks=range(len(classes)), xlabel="predicted", ylabel="true", title=title)
        axis.set_yticklabels(classes, fontsize=8)
        axis.set_xticklabels(classes, fontsize=8, rotation=25, ha="right")
    return figure


@styled
def method_scores(
    scores: pd.DataFrame, measures: Mapping[str, str], controls: Sequence[str] = (), chance: Mapping[str, float] | None = None
) -> Figure:
    """A panel a measure (name to words below it): means as bars, single pictures as dots; `scores` has `method` and them.

    `controls`: methods in grey. `chance`: a dashed line in the panel of a measure.
    """
    methods = list(dict.fromkeys(scores.method))
    figure, [axes] = canvas(1, len(measures), 0.5 + 0.22 * len(methods), sharey=True)
    for axis, (measure, words) in zip(axes, measures.items(), strict=True):
        for i, method in enumerate(methods):
            values = scores[scores.method == method][measure].dropna()
            if len(values):
                axis.barh(i, values.mean(), color="#BBBBBB" if method in controls else BLUE, alpha=0.75)
                axis.plot(values, np.full(len(values), i), ".", color="black", ms=3, alpha=min(1, 4 / len(values) + 0.1))
        if chance and measure in chance:
            axis.axvline(chance[measure], color=RED, ls="--", lw=1)
        axis.axvline(0, color="black", lw=0.6)
        axis.set(yticks=range(len(methods)), yticklabels=methods, xlabel=f"{measure}\n{words}")
    axes[0].invert_yaxis()
    return figure


@styled
def auc_bars(auc: pd.DataFrame, marked: Sequence[str] = ()) -> Figure:
    """How well each measure (index) tells each kind (column) apart: bars from 0.5; `marked` measures in another colour."""
    figure, [axes] = canvas(1, auc.shape[1], 0.6 + 0.22 * len(auc), sharey=True)
    for axis, kind in zip(axes, auc.columns, strict=True):
        axis.barh(range(len(auc)), auc[kind] - 0.5, left=0.5, color=[RED if m in marked else BLUE for m in auc.index])
        axis.axvline(0.5, color="black", lw=0.8)
        axis.set(yticks=range(len(auc)), yticklabels=auc.index, xlim=(-0.02, 1.02), title=kind, xlabel="AUC")
    axes[0].invert_yaxis()
    return figure


def _whiskers(values: Array, low: Array, high: Array) -> np.ndarray:
    middle = as_array(values)
    return np.array([middle - as_array(low), as_array(high) - middle]).clip(0)

"""What happens inside a network and inside Grad-CAM, LRP and SHAP, drawn from real numbers (figures 2 to 5 of paper 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xai_lib.plots.pictures import show, show_map, show_over
from xai_lib.plots.style import BLUE, RED, Array, as_array, canvas, styled


@styled
def layer_blocks(networks: Mapping[str, pd.DataFrame]) -> Figure:
    """A bar a layer with weights: its height the side of its output, its breadth log2 of its channels.

    Frames have columns kind ("Conv2d" or "Linear"), channels, side, parameters.
    """
    figure, grid = canvas(len(networks), 1, 1.75 * len(networks))
    for axis, (name, own) in zip(grid[:, 0], networks.items(), strict=True):
        wide = np.log2(own.channels.to_numpy(float)) / 12
        left = np.concatenate([[0], (wide + 0.25).cumsum()[:-1]])
        axis.bar(left, own.side, wide, align="edge", color=np.where(own.kind == "Linear", RED, BLUE))
        axis.set(title=f"{name}: {len(own)} layers, {own.parameters.sum() / 1e6:.1f} million parameters", xticks=[], yscale="log")
        axis.set(ylabel="side, pixels", yticks=[1, 7, 28, 112, 224], yticklabels=["1", "7", "28", "112", "224"], ylim=(0.7, 260))
        axis.minorticks_off()
    return figure


@styled
def weighted_units(image: Array, title: str, units: Array, words: Sequence[str], total: Array, all_words: str) -> Figure:
    """Grad-CAM from within: the picture `(3, H, W)`, weighted units `(k, h, w)` on one signed scale, and their sum `(h, w)`."""
    units = as_array(units)
    figure, [axes] = canvas(1, len(units) + 2, 1.75)
    show(axes[0], image, title)
    for axis, unit, word in zip(axes[1:-1], units, words, strict=True):
        show_map(axis, unit, True, word, float(np.abs(units).max()) or 1.0)
    show_map(axes[-1], total, False, all_words)
    return figure


@styled
def bias_account(left: Sequence[float], pixels: float, logit: float) -> Figure:
    """LRP from within: the logit less what the biases of each layer took, on the way to the pixels, and what arrives there."""
    figure, [[axis]] = canvas(1, 1, 2.4)
    axis.step(range(len(left) + 1), [logit, *left], where="mid", color=BLUE)
    axis.axhline(0, color="black", lw=0.6)
    axis.axhline(pixels, color=RED, ls="--")
    axis.annotate("arrives at the pixels", (len(left), pixels), color=RED, va="bottom", ha="right", fontsize=8)
    axis.set(xlabel="layers passed, from the logit to the pixels", ylabel="logit less what biases took")
    return figure


@styled
def gradient_paths(alphas: Array, scores: Array, slopes: Array) -> Figure:
    """SHAP from within: logits `(B, A)` along paths from B backgrounds, and gradient times difference; dotted: its mean."""
    figure, [[left, right]] = canvas(1, 2, 2.5)
    for score, slope in zip(as_array(scores), as_array(slopes), strict=True):
        [line] = left.plot(alphas, score)
        right.plot(alphas, slope, color=line.get_color(), marker=".")
        right.axhline(float(score[-1] - score[0]), color=line.get_color(), lw=0.9, ls=":")
    left.set(xlabel="α, from a background (0) to the picture (1)", ylabel="logit")
    right.set(xlabel="α", ylabel="gradient × difference, summed")
    return figure


@styled
def one_map(image: Array, title: str, raw: Array, values: Array, signed: bool) -> Figure:
    """One method: the map at its own size `(h, w)` with a colour bar, and `(H, W)` over the picture `(3, H, W)`."""
    figure, [axes] = canvas(1, 2, 1.5, 3.1)  # small: pictures are most of a run's bytes
    raw, values = as_array(raw), as_array(values)
    bar = figure.colorbar(show_map(axes[0], raw, signed, "×".join(map(str, raw.shape))), ax=axes[0], shrink=0.8)
    bar.ax.tick_params(labelsize=6.5)
    limit = float(np.percentile(np.abs(values), 99.5)) or 1.0
    show_over(axes[1], image, values / limit, title, signed)
    return figure

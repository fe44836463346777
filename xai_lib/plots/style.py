"""What all figures share: widths, type, colours of the methods, an empty canvas, and how it becomes a PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

PAGE, HALF = 7.0, 3.4  #: widths, inch
SIGNED, UNSIGNED = "RdBu_r", "viridis"
CLAMP = 99.5  #: signed relevance is cut at this percentile of its absolute values, on both sides alike
STYLE: dict[str, Any] = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "lines.linewidth": 1.4, "legend.frameon": False, "image.interpolation": "nearest",
}  # fmt: skip

#: Colour and dash of a method, in the order in which methods are drawn. Colour-blind safe sets: Okabe and Ito's for the
#: searches, Paul Tol's muted one for the maps, greys for what looks at no network.
METHOD_COLOURS: dict[str, tuple[str, Any]] = {
    "elime": ("#0072B2", "-"),
    "elime_paper": ("#56B4E9", (0, (5, 1.5))),
    "random_search": ("#7F7F7F", (0, (1, 1.5))),
    "greedy_deletion": ("#D55E00", (0, (6, 1.5, 1, 1.5))),
    "greedy_insertion": ("#E69F00", (0, (3, 1, 1, 1, 1, 1))),
    "lime": ("#009E73", (0, (2, 1))),
    "lime_stratified": ("#CC79A7", (0, (4, 1, 1, 1))),
    "advise": ("#332288", (0, ())),
    "advise_paper": ("#88CCEE", (0, (5, 1))),
    "grad_cam": ("#CC6677", (0, (4, 1.5))),
    "grad_cam_pp": ("#882255", (0, (3, 1, 1, 1))),
    "score_cam": ("#999933", (0, (1, 1))),
    "layer_cam": ("#AA4499", (0, (7, 1.5))),
    "fem": ("#44AA99", (0, (5, 1, 1, 1, 1, 1))),
    "constant": ("#000000", (0, (1, 3))),
    "gaussian": ("#555555", (0, (3, 3))),
    "random": ("#AAAAAA", (0, (1, 2))),
    "black": ("#777777", (0, (2, 4))),
}
METHOD_NAMES = {
    "elime": "E-LIME", "elime_paper": "plain E-LIME", "random_search": "random search",
    "greedy_deletion": "greedy deletion", "greedy_insertion": "greedy insertion", "lime": "LIME",
    "lime_stratified": "stratified LIME",
    "advise": "ADVISE", "advise_paper": "ADVISE as written", "grad_cam": "Grad-CAM", "grad_cam_pp": "Grad-CAM++",
    "score_cam": "Score-CAM", "layer_cam": "Layer-CAM", "fem": "FEM", "constant": "all-one map",
    "gaussian": "centred Gaussian", "random": "random map", "black": "all-black mask",
}  # fmt: skip
BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#999999"  #: Okabe and Ito's, for what is no method
Array = Any  #: anything numpy reads, or a tensor on any device
Draw = Callable[..., Figure]


def styled(draw: Draw) -> Draw:
    """A function that draws in our style, whatever the reader's own settings are."""

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


def as_array(values: Array) -> np.ndarray:
    """Numbers on the processor, whatever held them."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def pixels(image: Array) -> np.ndarray:
    """`(3, H, W)` in 0..1 as `(H, W, 3)`."""
    return np.clip(as_array(image).transpose(1, 2, 0), 0, 1)

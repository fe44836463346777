"""The explorer's pictures as pixels for the screen, and its figure for a run in which nobody can click."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from xai_lib.plots.pictures import limit_of, show, show_over
from xai_lib.plots.style import ORANGE, PAGE, SIGNED, UNSIGNED, Array, as_array, canvas, pixels, styled


def over(image: Array, values: Array, signed: bool) -> np.ndarray:
    """A map `(H, W)` over the photograph `(3, H, W)` in grey, as `show_over` draws it: `(H, W, 3)` in 0..1.

    The scale is the map's own: from 0 to its maximum, or symmetric about zero if signed.
    """
    grey = (pixels(image).mean(2, keepdims=True) + 0.1) / 1.1
    scaled = scale(values, signed)
    colours = mpl.colormaps[SIGNED if signed else UNSIGNED]((scaled + 1) / 2 if signed else scaled)[..., :3]
    return 0.45 * grey + 0.55 * np.asarray(colours)


def scale(values: Array, signed: bool) -> np.ndarray:
    """A map on its own scale: 0..1, or -1..1 about zero if signed, where it is cut as in every figure."""
    values = as_array(values)
    return np.clip(values / limit_of(values, signed), -1 if signed else 0, 1)


def outlined(picture: np.ndarray, segments: Array, marked: Sequence[int] = ()) -> np.ndarray:
    """A picture `(H, W, 3)` in 0..1 with thin light borders between superpixels, orange ones around those `marked`.

    The result is enlarged to 448 pixels or a little more, so that the borders stay thin.
    """
    from skimage.segmentation import find_boundaries

    times = max(1, -(-448 // max(picture.shape[:2])))
    large, labels = (each.repeat(times, 0).repeat(times, 1) for each in (picture, as_array(segments)))
    borders = find_boundaries(labels, mode="inner")
    large[borders] = 0.6 * large[borders] + 0.4
    chosen = np.isin(labels, list(marked))
    large[find_boundaries(chosen, mode="thick")] = to_rgb(ORANGE)
    return large


def gradient(signed: bool, steps: int = 9) -> list[str]:
    """Colours of the scale from its lowest to its highest value, as #rrggbb."""
    return [to_hex(colour) for colour in mpl.colormaps[SIGNED if signed else UNSIGNED](np.linspace(0, 1, steps))]


@styled
def exploration(panels: Sequence[tuple[Array, Array, str]], image: Array, values: Array, signed: bool, title: str) -> Figure:
    """Photographs `(3, H, W)`, what is erased of each `(H, W)` bool, which gets an orange border, and titles.

    After the first photograph comes the map `(H, W)` over `image`, with its colour bar.
    """
    figure, [line] = canvas(1, len(panels) + 1, 2.2, PAGE)
    rest = [line[0], *line[2:]]
    for axes, (picture, erased, words) in zip(rest, panels, strict=True):
        show(axes, picture, words)
        mask = np.pad(as_array(erased), 1)  # the margin closes the border at the image's edges
        if mask.any():
            rows, columns = (np.arange(-1, side - 1) for side in mask.shape)
            axes.contour(columns, rows, mask, [0.5], colors=ORANGE, linewidths=0.8)
    drawn = show_over(line[1], image, scale(values, signed), title, signed)
    bar = figure.colorbar(drawn, ax=line[1], shrink=0.8, orientation="horizontal", pad=0.03)
    bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=["against", "0", "for"] if signed else ["0", "highest"])
    return figure

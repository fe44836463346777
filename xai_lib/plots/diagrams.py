"""Boxes and arrows, of which outlines of methods are drawn."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

THING, NETWORK, METHOD, REFUSED = "#F3EFE4", "#E8F0F8", "#E9F3EA", "#F6E6E6"  #: colours of boxes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """A rounded box with text in its middle, in the axes' units."""
    look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.012", "facecolor": colour, "edgecolor": "0.35"}
    axes.add_patch(FancyBboxPatch((x, y), width, height, linewidth=0.8, **look))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=7, linespacing=1.35)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A straight arrow between two points."""
    look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, color="0.35", linewidth=0.9, **look))

"""The size of what a notebook leaves."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def check_size(result: Path) -> None:
    """Figures no wider than a page at 150 dots an inch; all but the HTML within what is committed."""
    for path in (result / "figures").glob("*.png"):
        assert Image.open(path).width <= 7.4 * 150, path.name
    assert sum(path.stat().st_size for path in result.rglob("*") if path.suffix != ".html") < 3_000_000

"""Small folders of labelled pictures in which nothing tells the class, until a test plants something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SPLITS, CLASSES = ("train", "test"), ("cat", "dog")
Save = Callable[[Image.Image, Path], Any]


def picture(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Smooth noise, its own for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def as_png(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".png"))


def plant(
    folder: Path,
    each: int = 20,
    splits: tuple[str, ...] = SPLITS,
    classes: tuple[str, ...] = CLASSES,
    how: Callable[[str, str, int], tuple[Image.Image, Save]] | None = None,
) -> Path:
    """`each` pictures a split and class, drawn and saved by `how(split, class, number)`; plain PNG if not given."""
    number = 0
    for split in splits:
        for kind in classes:
            place = folder / split / kind
            place.mkdir(parents=True, exist_ok=True)
            for i in range(each):
                number += 1
                image, save = how(split, kind, number) if how else (picture(number), as_png)
                save(image, place / f"{kind}{i:02}")
    return folder

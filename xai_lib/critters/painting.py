"""From parameters to pictures: the one place that knows both families."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xai_lib.critters import animals, bottles, scenery
from xai_lib.critters.parameters import NAMES
from xai_lib.critters.shapes import easel

AT_ONCE = 64 * 64 * 24  #: pixels drawn together: larger tensors leave the processor's cache


def paint(parameters: np.ndarray, seeds: list[int], size: int) -> tuple[Tensor, Tensor]:
    """Pictures `(N, 3, size, size)` uint8 and parts `(N, size, size)` uint8 of the critters with these parameters `(N, P)`."""
    pictures = torch.empty(len(parameters), 3, size, size, dtype=torch.uint8)
    parts = torch.empty(len(parameters), size, size, dtype=torch.uint8)
    furry = ~np.isnan(parameters[:, NAMES.index("ear_length")])
    many = max(1, AT_ONCE // size**2)
    with torch.inference_mode():
        for family, draw in ((furry, animals.draw), (~furry, bottles.draw)):
            rows = np.flatnonzero(family)
            for start in range(0, len(rows), many):
                some = rows[start : start + many]
                chosen = [seeds[i] for i in some]
                e = easel(parameters[some], NAMES, chosen, size)
                scenery.background(e)
                draw(e)
                scenery.leaves(e)
                pictures[some], parts[some] = scenery.finish(e, chosen), e.parts
    return pictures, parts

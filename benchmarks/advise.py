"""The adaptive density against the package `adaptivekde`, and what ADVISE and the whole of Table I cost in forwards.

    python benchmarks/advise.py           the table, and one JSON object as the last line

A forward is one image's share of a contiguous float32 batch of 8 through the same network. The densities' two rivals are
timed in turn on the same units, which lie where the two estimators agree, so that the numbers of peaks must be equal.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai_lib.adaptive_density import adaptive_kde, count_peaks

LAYERS = {49: 2048, 196: 512}  #: samples a unit: units of a layer (ResNet50's, VGG16's)
COMPARED = {49: 24, 196: 8}  #: units that the other package estimates in a round
ROUNDS = 5


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def units(u: int, z: int, seed: int) -> Tensor:
    """Units with values at most of the grid's cells, the hardest case; least -0.05 and largest 0.95 where both agree."""
    x = torch.rand(u, z, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.94
    x[:, 0], x[:, 1] = -0.05, 0.95
    return x


def density_speedup(z: int) -> dict[str, Any]:
    """Seconds a unit of `adaptivekde` over ours, and the share of units with the same number of peaks."""
    from adaptivekde import ssvkernel

    grid, ratios, ours, theirs, equal = np.linspace(0, 1, z), [], [], [], []
    adaptive_kde(units(64, z, 99))
    for seed in range(ROUNDS):
        x = units(LAYERS[z], z, seed)
        densities: list[np.ndarray] = []
        sample = x[: COMPARED[z]].numpy()
        other = seconds(lambda: densities.extend(ssvkernel(row, grid, M=10, nbs=1, WinFunc="Gauss")[0] for row in sample))
        own = seconds(lambda: count_peaks(adaptive_kde(x).density))
        found = count_peaks(adaptive_kde(x[: COMPARED[z]]).density)
        equal += (found == count_peaks(torch.from_numpy(np.stack(densities)))).tolist()
        ours.append(own / LAYERS[z])
        theirs.append(other / COMPARED[z])
        ratios.append(theirs[-1] / ours[-1])
    return {
        "speedup": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "same_peaks": statistics.mean(equal),
        "ms_a_unit": 1e3 * statistics.median(ours), "ms_a_unit_adaptivekde": 1e3 * statistics.median(theirs),
        "units": LAYERS[z],
    }  # fmt: skip

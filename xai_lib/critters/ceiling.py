"""The best that could be done: Bayes' rule, told every number that a critter was drawn from.

No classifier that sees pixels should do better, as those numbers are all in which classes differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xai_lib.critters.parameters import CROSSED, HYBRIDS, NAMES, RIVALS, SPREADS, STRAY

if TYPE_CHECKING:
    from torch import Tensor

_FLOOR = 1e-12  #: density of what a class never draws, so that a stray of the rival outweighs it and nothing is log 0


def ceiling(parameters: Tensor | np.ndarray) -> np.ndarray:
    """The most probable class of each row: `(N,)` int64, places in `CLASSES`; classes are drawn equally often.

    `parameters`: `(N, P)`, columns `NAMES`, NaN where a family has no such number, as in `Batch.parameters`. Densities are those
    of `random_parameters`: normal, nothing beyond two deviations, a number in fifty from a rival and in hybrids two in five.
    The little mass that is cut off to the edges is left out (our choice): it would give classes away by equality of floats.
    """
    table = np.asarray(parameters, dtype=np.float64)
    scores = np.stack([_log_likelihood(table, kind) for kind in SPREADS], 1)
    return scores.argmax(1)


def _log_likelihood(table: np.ndarray, kind: str) -> np.ndarray:
    """`(N,)`: the log density of each row under one class, up to what is alike for all; -inf for the other family."""
    columns = [NAMES.index(name) for name in SPREADS[kind]]
    own = _density(table, kind)
    parts = []
    for rival in RIVALS[kind]:
        other = _density(table, rival)
        for share, weight in ((STRAY, 1 - HYBRIDS), (CROSSED, HYBRIDS)):
            mixed = np.log((1 - share) * own + share * other + _FLOOR).sum(1)
            parts.append(mixed + np.log(weight / len(RIVALS[kind])))
    found = np.logaddexp.reduce(parts, axis=0)
    return np.where(np.isnan(table[:, columns]).any(1), -np.inf, found)


def _density(table: np.ndarray, kind: str) -> np.ndarray:
    """`(N, shape numbers)`: the normal density of each number, 0 beyond two deviations (and a hair, for float32)."""
    mean, deviation = np.array(list(SPREADS[kind].values())).T
    z = (table[:, [NAMES.index(name) for name in SPREADS[kind]]] - mean) / deviation
    return np.where(np.abs(z) <= 2 + 1e-4, np.exp(-(z**2) / 2) / deviation, 0.0)

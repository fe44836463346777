"""A cheap model of the fitness over masks: what the masks already paid for say about the next ones.

LIME fits a linear model to the network's answers and calls it the explanation. Here a model of the same answers only
proposes candidates, which the network then judges, so it may be flexible: kernel ridge regression (the mean of a
Gaussian process) with a linear part and a smooth function of how far two masks differ, in which superpixels that lie
side by side stand in for each other. Our choice; the general idea is surrogate-assisted evolution (Jin 2011, Swarm and
Evolutionary Computation 1).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg.lapack import dposv
from threadpoolctl import ThreadpoolController

NEIGHBOURS = 0.5  #: weight of likeness by place against likeness by identity, 0..1
REACH = 0.15  #: distance of centroids, in sides of the image, at which likeness by place has fallen to 0.6
LENGTH = 0.8  #: difference of two masks (0 none, 1 opposite) over which their scores lose their likeness
RIDGE = 0.01  #: added to the diagonal, relative to it
CLIP = 5.0  #: scores this far (log-odds) below the best are all "bad": how bad carries no information
MEMORY = 256  #: masks the model is fitted to, the best ones; keeps its cost below that of a forward pass


def likeness(segments: np.ndarray) -> np.ndarray:
    """How far a superpixel speaks for another, `(d, d)`: identity mixed with a Gaussian of their centroids' distance.

    `segments`: int `(H, W)`, numbered 0..d-1. Scaled so that two equal full masks have the inner product 1.
    """
    labels = segments.ravel()
    area = np.bincount(labels)
    rows, columns = (np.bincount(labels, axis.ravel()) / area for axis in np.indices(segments.shape))
    square = ((rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2) / max(segments.shape) ** 2
    mixed = (1 - NEIGHBOURS) * np.eye(len(area)) + NEIGHBOURS * np.exp(-square / (2 * REACH**2))
    return mixed / mixed.sum()


class MaskSurrogate:
    """Predicts scores of masks `(n, d)` bool from masks that were scored."""

    def __init__(self, masks: np.ndarray, scores: np.ndarray, alike: np.ndarray) -> None:
        """Fit to `masks` and their `scores` `(n,)`, log-odds; `alike` from `likeness`. O(n^3) with n <= 256."""
        if len(masks) > MEMORY:
            best = np.argsort(-scores, kind="stable")[:MEMORY]
            masks, scores = masks[best], scores[best]
        self._alike = alike
        self._signs, self._projected, self._squares = self._features(masks)
        target = np.maximum(scores, scores.max() - CLIP)
        self._mean = target.mean()
        kernel = self._kernel(self._projected, self._squares)
        kernel.ravel()[:: len(masks) + 1] *= 1 + RIDGE
        _, self._weights, _ = dposv(kernel, target - self._mean)  # scipy's wrappers cost more than the solution

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """Predicted scores `(n,)`."""
        _, projected, squares = self._features(masks)
        return self._kernel(projected, squares) @ self._weights + self._mean

    def _features(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks as -1 and 1, their products with `alike`, and their squared lengths in that inner product."""
        signs = masks * 2.0 - 1.0
        projected = signs @ self._alike
        return signs, projected, (signs * projected).sum(1)

    def _kernel(self, projected: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """4 <a, b> + exp(-|a - b|^2 / (4 LENGTH)), in the inner product of `alike`."""
        inner = projected @ self._signs.T
        distance = squares[:, None] + self._squares - 2 * inner
        return 4 * inner + np.exp(distance / (-4 * LENGTH))


@cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")


def one_thread() -> AbstractContextManager[Any]:
    """One thread for numpy's products: a second pool beside torch's made both several times slower, and a fixed number
    of threads keeps the sums, and so the search, the same whatever the number of threads."""
    return _blas().limit(limits=1)

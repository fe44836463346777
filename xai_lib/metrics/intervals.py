"""How sure a number is: Wilson's interval of a share, the bootstrap over images, and the area under the ROC curve.

Thin over scipy, with one form of answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xai_lib.errors import XaiError


class IntervalError(XaiError):
    """Counts that are no counts, too few values, or NaN among them."""


class Interval(NamedTuple):
    """An estimate with the ends of its interval, low <= high."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def wilson(right: int, n: int, level: float = 0.95) -> Interval:
    """The share `right` / `n` with Wilson's score interval (Wilson 1927, JASA 22), 0..1."""
    from scipy.stats import binomtest

    if not 0 <= right <= n or n < 1:
        raise IntervalError(f"wilson: expected 0 <= right <= n and n >= 1, found right={right}, n={n}")
    found = binomtest(right, n).proportion_ci(_checked_level(level), "wilson")
    return Interval(right / n, float(found.low), float(found.high))


def bootstrap(
    values: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    seed: int = 0,
    n: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The statistic of `values` `(images,)` with the percentile interval of `n` redraws of the images (Efron 1979).

    `statistic`: takes `axis`, as numpy's do. For a difference of methods give the differences, one an image. Raises
    `IntervalError` for less than two values and for NaN: leave those out and count them.
    """
    from scipy import stats

    found = _checked("values", values, 2)
    level, rng = _checked_level(level), np.random.default_rng(seed)
    drawn = stats.bootstrap((found,), statistic, n_resamples=n, confidence_level=level, method="percentile", rng=rng)
    low, high = drawn.confidence_interval
    return Interval(float(statistic(found, axis=0)), float(low), float(high))


def auc(higher: ArrayLike, lower: ArrayLike) -> float:
    """The chance that a value of `higher` exceeds one of `lower`, ties counted half: 0..1, 0.5 for no difference.

    The area under the ROC curve of the score that tells the two apart; Mann and Whitney's U over the number of pairs. With few
    values it is coarse: of 5 and 5 alike, chance alone gives 0.84 or more, or 0.16 or less, in 24 of 252 orders.
    """
    from scipy.stats import rankdata

    one, two = _checked("higher", higher, 1), _checked("lower", lower, 1)
    ranks = rankdata(np.concatenate([one, two]))[: len(one)]
    return float(ranks.mean() - (len(one) + 1) / 2) / len(two)


def _checked(name: str, values: ArrayLike | Sequence[float], least: int) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) < least or not np.isfinite(found).all():
        raise IntervalError(f"{name}: expected {least} finite numbers or more in one row, found {found.shape} {found[:5]}")
    return found


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise IntervalError(f"level: expected a share between 0 and 1, such as 0.95, found {level}")
    return level

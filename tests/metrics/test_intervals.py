"""Intervals: published and closed-form numbers, plain loops, coverage."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xai_lib.metrics.intervals import Interval, IntervalError, auc, bootstrap, wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(311, 394, 74.6, 82.7), (294, 394, 70.1, 78.7), (81, 263, 25.53, 36.62), (0, 20, 0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilson_of_published_counts(right: int, n: int, low: float, high: float) -> None:
    """The last three: Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    found = wilson(right, n)
    assert found.value == right / n
    assert found.low * 100 == pytest.approx(low, abs=0.05 if low > 50 else 0.006)
    assert found.high * 100 == pytest.approx(high, abs=0.05 if low > 50 else 0.006)


def test_wilson_is_its_formula_at_other_levels() -> None:
    z = NormalDist().inv_cdf(0.995)
    p, n = 0.3, 50
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson(15, 50, 0.99)[1:] == pytest.approx(((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)))


def test_bootstrap_by_a_plain_loop() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    rng = np.random.default_rng(5)
    for statistic in (np.mean, np.median):
        drawn = [statistic(rng.choice(values, 40)) for _ in range(4000)]
        found = bootstrap(values, statistic, n=4000, level=0.9)
        assert found.value == pytest.approx(statistic(values))
        assert found[1:] == pytest.approx(np.percentile(drawn, [5, 95]), rel=0.05)


def test_bootstrap_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    values = list(np.random.default_rng(0).normal(size=30))
    before = np.random.get_state()[1].tobytes()  # type: ignore[index,union-attr]
    assert bootstrap(values) == bootstrap(values) != bootstrap(values, seed=1)
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[index,union-attr]


def test_bootstrap_covers() -> None:
    rng = np.random.default_rng(1)
    found = [bootstrap(rng.normal(size=50), seed=i, n=300) for i in range(200)]
    share = np.mean([i.low <= 0 <= i.high for i in found])
    assert 0.88 <= share <= 0.99  # about 0.94, three standard errors 0.05


def test_auc_by_pairs_and_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        one, two = rng.integers(0, 6, 9), rng.integers(0, 5, 7)
        pairs = np.mean([(a > b) + 0.5 * (a == b) for a in one for b in two])
        assert auc(one, two) == pytest.approx(pairs) == pytest.approx(roc_auc_score([1] * 9 + [0] * 7, [*one, *two]))
        assert auc(two, one) == pytest.approx(1 - pairs)
    assert auc([2, 3], [0, 1]) == 1 and auc([1, 1], [1, 1, 1]) == 0.5


def test_chance_of_auc_is_as_documented() -> None:
    orders = [(one, sorted({*range(10)} - {*one})) for one in itertools.combinations(range(10), 5)]
    found = [auc(one, two) for one, two in orders]
    assert len(found) == 252 and sum(f >= 0.84 or f <= 0.16 for f in found) == 24


def test_an_interval_reads_as_one() -> None:
    assert str(Interval(0.7893, 0.7463, 0.8267)) == "0.789 [0.746, 0.827]"


def test_what_has_no_interval_is_refused() -> None:
    for right, n in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(IntervalError, match=f"right={right}, n={n}"):
            wilson(right, n)
    with pytest.raises(IntervalError, match="values: expected 2 finite numbers or more"):
        bootstrap([1.0])
    with pytest.raises(IntervalError, match="values: expected 2 finite numbers or more"):
        bootstrap([1.0, math.nan, 2.0])
    with pytest.raises(IntervalError, match="lower: expected 1 finite numbers or more"):
        auc([1.0], [])
    for level in (0.0, 1.0, 95):
        with pytest.raises(IntervalError, match="level: expected a share between 0 and 1"):
            wilson(1, 2, level)

"""Where candidates come from, and settings that no strategy can be run with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xai_lib.strategies import TuningError, asker

SOUND: dict[str, Any] = {
    "strategy": "cma", "size": 3, "population": 4, "generations": 2, "start": 0.5, "sigma": 0.25, "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"population": 1}, "population: CMA-ES compares the candidates of a generation, expected 2 or more, found 1"),
        ({"population": 0}, "population: expected a whole number from 1, found 0"),
        ({"population": 2.5}, "population: expected a whole number from 1, found 2.5"),
        ({"generations": 0, "strategy": "random"}, "generations: expected a whole number from 1, found 0"),
        ({"size": 0, "strategy": "grid"}, "size: expected a whole number from 1, found 0"),
        ({"sigma": 0.0}, "sigma: expected a width above 0, such as 0.25, found 0.0"),
        ({"sigma": float("nan")}, "sigma: expected a width above 0"),
        ({"sigma": float("inf")}, "sigma: expected a width above 0"),
        ({"start": 1.5}, "start: expected a coordinate of the unit cube, 0..1, found 1.5"),
        ({"start": float("nan")}, "start: expected a coordinate of the unit cube"),
        ({"strategy": "cmaes"}, "strategy: expected cma, random, grid, found 'cmaes'"),
    ],
)
def test_settings_that_cannot_be_run(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TuningError, match=message):
        asker(**SOUND | wrong)


@pytest.mark.parametrize("edge", [{}, {"start": 0.0}, {"start": 1.0}, {"population": 2}, {"size": 1}, {"sigma": 5.0}])
def test_settings_at_the_edge_run(edge: dict[str, Any]) -> None:
    """Two generations of CMA-ES find a lower sum of squares than the first candidate, and stay in the unit cube."""
    search = asker(**SOUND | edge)
    for _ in range(2):
        points = search.ask()
        assert points.shape == ((SOUND | edge)["population"], (SOUND | edge)["size"]) and 0 <= points.min() <= points.max() <= 1
        search.tell(np.square(points).sum(1))


@pytest.mark.parametrize("strategy", ["random", "grid"])
def test_other_strategies_take_one_candidate_a_generation(strategy: str) -> None:
    search = asker(**SOUND | {"strategy": strategy, "population": 1, "sigma": 0.0, "start": 9.0})
    assert [search.ask().shape for _ in range(2)] == [(1, 3), (1, 3)]

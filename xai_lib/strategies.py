"""Where the candidates of a search come from, each strategy with the same budget, and a state that outlives a kill.

Candidates are points of the unit cube, asked for a population at a time and told their costs. CMA-ES (Hansen 2016, arXiv
1604.00772) is the package `cma`.
"""

from __future__ import annotations

import itertools
import os
import pickle
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import pandas as pd

from xai_lib.errors import XaiError, whole

Strategy = Literal["cma", "random", "grid"]


class TuningError(XaiError):
    """A search that cannot be run, or a checkpoint that does not belong to it."""


class Asker(Protocol):
    """A strategy: `ask` gives candidates `(P, size)` in 0..1, `tell` takes their costs `(P,)`."""

    def ask(self) -> np.ndarray: ...

    def tell(self, costs: np.ndarray) -> None: ...


class Normal:
    """Random numbers of CMA-ES from a generator of its own; the package's default draws from numpy's global one."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)


class Cma:
    """CMA-ES (package cma) on the unit cube, without its own criteria for stopping: every search has the same budget."""

    def __init__(self, size: int, population: int, start: float, sigma: float, seed: int) -> None:
        import cma

        self.size = size
        options = {
            "bounds": [0, 1], "popsize": population, "seed": np.nan, "randn": Normal(seed), "verbose": -9, "verb_log": 0,
            "signals_filename": "",
        }  # fmt: skip
        self.strategy = cma.CMAEvolutionStrategy([start] * max(size, 2), sigma, options)  # cma wants two dimensions at least
        self.asked: list[np.ndarray] = []

    def ask(self) -> np.ndarray:
        self.asked = self.strategy.ask()
        return np.clip(np.array(self.asked), 0, 1)[:, : self.size]

    def tell(self, costs: np.ndarray) -> None:
        self.strategy.tell(self.asked, costs.tolist())


class Listed:
    """Candidates that were fixed beforehand, a population at a time."""

    def __init__(self, points: np.ndarray, population: int) -> None:
        self.points, self.population, self.at = points, population, 0

    def ask(self) -> np.ndarray:
        self.at += self.population
        return self.points[self.at - self.population : self.at]

    def tell(self, costs: np.ndarray) -> None:
        pass


def asker(strategy: Strategy, size: int, population: int, generations: int, start: float, sigma: float, seed: int) -> Asker:
    """The strategy of that name; `start` and `sigma` are those of CMA-ES.

    Raises `TuningError`: an unknown strategy, no candidates, and for CMA-ES a population below 2, `sigma` not above 0, `start`
    outside of 0..1.
    """
    if strategy not in get_args(Strategy):
        raise TuningError(f"strategy: expected {', '.join(get_args(Strategy))}, found {strategy!r}")
    for name, value in (("size", size), ("population", population), ("generations", generations)):
        whole(name, value, 1, TuningError)
    if strategy == "cma":
        if population < 2:
            raise TuningError("population: CMA-ES compares the candidates of a generation, expected 2 or more, found 1")
        if not 0 <= start <= 1:
            raise TuningError(f"start: expected a coordinate of the unit cube, 0..1, found {start!r}")
        if not (0 < sigma < np.inf):
            raise TuningError(f"sigma: expected a width above 0, such as 0.25, found {sigma!r}")
        return Cma(size, population, start, sigma, seed)
    budget = population * generations
    points = np.random.default_rng([seed, 1]).random((budget, size)) if strategy == "random" else lattice(size, budget)
    return Listed(points, population)


def lattice(size: int, budget: int) -> np.ndarray:
    """`budget` points of the unit cube `(budget, size)`: the largest regular lattice, then equal values in all groups."""
    steps = max(s for s in range(1, budget + 1) if s**size <= budget)
    axis = np.linspace(0, 1, steps) if steps > 1 else np.array([0.5])
    points = np.array([*itertools.product(axis, repeat=size)])
    rest = budget - len(points)
    return np.concatenate([points, np.tile((np.arange(rest)[:, None] + 0.5) / max(rest, 1), size)])


class State(NamedTuple):
    key: str
    asker: Any
    rows: list[pd.DataFrame]
    seconds: float


def read(checkpoint: str | Path | None, key: str) -> State | None:
    if checkpoint is None or not Path(checkpoint).exists():
        return None
    try:
        state = pickle.loads(Path(checkpoint).read_bytes())
        wrong = not isinstance(state, State)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise TuningError(f"checkpoint {checkpoint} cannot be read ({type(error).__name__}); remove it to begin anew") from None
    if wrong or state.key != key:
        raise TuningError(f"checkpoint {checkpoint} belongs to another search (other images, other settings); remove it")
    return state


def write(checkpoint: str | Path | None, state: State) -> None:
    if checkpoint is None:
        return
    path = Path(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(pickle.dumps(state))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)

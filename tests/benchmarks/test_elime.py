"""The speed measurement itself: what it counts is right, whatever the machine's speed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.networks import planted
from xai_lib.explainers import elime
from xai_lib.explanation import rng_for
from xai_lib.superpixels import Fitness

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "elime.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_elime", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def problem(bench: ModuleType) -> Any:
    classifier, image, segments = planted(5)
    return classifier, "planted", image, segments, 1


def test_a_round_counts_calls_until_limes_best_is_passed(bench: ModuleType, problem: Any) -> None:
    classifier, _, image, segments, target = problem
    row = bench.race(classifier, image, segments, target, seed=3)
    assert set(row["methods"]) == set(bench.SEARCHES)
    fitness = Fitness(classifier, image, segments, target, calls=bench.CALLS)
    for _ in elime.evolve(fitness, elime.Settings(), rng_for(3, image, target)):
        pass
    exact = fitness.probabilities(fitness.masks)
    above = np.flatnonzero(exact > row["lime_best"])
    assert row["methods"]["elime"]["calls"] == (above[0] + 1 if len(above) else None)
    assert row["lime_best"] >= float(fitness.probabilities(np.ones((1, 25), dtype=bool))[0])


def test_a_search_that_never_passes_counts_as_nought(bench: ModuleType) -> None:
    def row(calls: int | None) -> dict[str, Any]:
        return {"lime_seconds": 10.0, "methods": {"elime": {"calls": calls, "seconds": calls and calls / 100}}}

    rows = [row(10), row(None), row(50)]
    assert bench.ratio(rows, "elime", "calls") == {"median": 20, "min": 0, "max": 100, "passed": 2}
    assert bench.ratio(rows, "elime", "seconds") == {"median": 20, "min": 0, "max": 100, "passed": 2}
    assert bench.until([row(None), row(None), row(5)], "elime", 1.0) is None


def test_the_whole_measurement_and_its_resume(
    bench: ModuleType, problem: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "problems", lambda networks: iter([problem]))
    monkeypatch.setattr(bench, "PHOTOGRAPHS", ("planted",))
    rows = tmp_path / "rows.jsonl"
    bench.compare(["planted"], 1, rows)
    with rows.open("a") as file:
        file.write('{"network": "planted", "photo')  # cut off while it was being written
    figures = bench.compare(["planted"], 2, rows)
    assert sum('"seed": 0' in line for line in rows.read_text().splitlines()) == 1  # not measured again
    assert list(bench.kept_rounds(rows)) == [("planted", "planted", 0), ("planted", "planted", 1)]
    bench.show(figures)
    assert "greedy_deletion" in capsys.readouterr().out
    assert json.loads(json.dumps(figures))["planted"]["runs"] == 2
    worth = bench.levers(["planted"], 1, rows)
    assert worth["default"]["runs"] == 1 and 1 <= worth["default"]["median"] <= bench.CALLS
    assert elime.first_population.__module__ == "xai_lib.explainers.elime"  # patched for a lever, and put back

"""The measurement of EVO-LRP's speed: what it compares is the same, whatever the machine's speed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evo_lrp.py"
SMALLEST = (
    "--busy --rounds 1 --images 1 --runs 4 --subset 100 --samples 1 --population 2 --plain 1 --networks squeezenet1_1 "
    "--rap resnet18 --size 64 --threads 1"
)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_evo_lrp", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def figures(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the smallest run; it ends with an error where zennit or quantus finds something else."""
    rows, threads, lines = tmp_path_factory.mktemp("rows") / "rows", torch.get_num_threads(), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evo_lrp.py", *SMALLEST.split(), "--rows", str(rows)])
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        bench.main()
    torch.set_num_threads(threads)
    assert [json.loads(r)["figure"] for r in rows.read_text().split("\n\n")] == ["alphabeta", "rap", "candidates"]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def test_rounds_in_the_file_are_not_measured_again(bench: ModuleType, tmp_path: Path) -> None:
    def measured(settings: str, count: int) -> tuple[list[int], list[int]]:
        calls: list[int] = []

        def measure(i: int) -> dict[str, int]:
            calls.append(i)
            return {"value": i}

        rows = bench.Kept(tmp_path / "rows", settings).rounds("f", "n", count, measure)
        return [r["value"] for r in rows], calls

    assert measured("a", 2) == ([0, 1], [0, 1])
    with (tmp_path / "rows").open("a") as out:
        out.write('\n{"figure": "f", "net')  # cut off
    assert measured("a", 3) == ([0, 1, 2], [2])
    assert measured("b", 1) == ([0], [0]) and measured("a", 1) == ([0], [])


def test_scores_and_relevance_are_those_of_zennit_and_quantus(bench: ModuleType, figures: dict[str, Any]) -> None:
    (one,) = figures["candidates"]
    assert one["checked"] and one["same"] and one["refused_by_quantus"] == 0
    assert max(one["deviation"].values()) <= bench.SAME_SCORES and set(one["deviation"]) == {"FC", "SP", "AS"}
    relevance = figures["alphabeta"]
    assert relevance["same"] and relevance["candidates"] == 2
    assert max(relevance["deviation"], relevance["deviation_from_float64"]) <= bench.SAME_RELEVANCE == 1e-5


def test_its_three_figures_are_medians_of_what_stands_behind_them(figures: dict[str, Any]) -> None:
    assert figures["candidate_speedup"] == figures["candidates"][0]["speedup"]["median"] > 0
    assert figures["alphabeta_forwards"] == figures["alphabeta"]["anew"]["median"] > 0
    assert figures["rap_forwards"] == max(figures["rap"][n]["median"] for n in ("one", "eight")) > 0
    for spread in (figures["candidates"][0]["seconds_plain"], figures["alphabeta"]["zennit"], figures["rap"]["one"]):
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]


def test_a_difference_ends_it_with_an_error(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spread = dict.fromkeys(("median", "min", "max"), 1.0)
    one = {"network": "n", "checked": True, "same": False, "speedup": spread}
    monkeypatch.setattr(bench, "candidates", lambda *_: one)
    monkeypatch.setattr(bench, "alphabeta", lambda *_: {"network": "n", "same": True, "anew": spread})
    monkeypatch.setattr(bench, "rap_cost", lambda *_: {"one": spread, "eight": spread})
    monkeypatch.setattr(bench, "show", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["evo_lrp.py", "--busy", "--networks", "n", "--threads", str(torch.get_num_threads())])
    with pytest.raises(SystemExit, match="not the same"):
        bench.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["candidates"] == [one]


def test_numbers_that_were_drawn_are_put_back(bench: ModuleType) -> None:
    before = np.random.choice
    with bench.drawn("choice", iter([np.array([3, 1])])):
        assert np.random.choice(9, 2, replace=False).tolist() == [3, 1]
    assert np.random.choice is before

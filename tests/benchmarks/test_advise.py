"""The measurement of ADVISE's speed: what it counts is right, whatever the machine's speed."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.networks import picture, tiny
from xai_lib.classifiers import Classifier
from xai_lib.explainers import advise

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "advise.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_advise", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_estimators_find_the_same_peaks(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "LAYERS", {49: 40})
    monkeypatch.setattr(bench, "COMPARED", {49: 6})
    found = bench.density_speedup(49, 2)
    assert found["same_peaks"] == 1 and found["units"] == 40 and 0 < found["min"] <= found["speedup"] <= found["max"]


def test_units_lie_where_the_estimators_agree(bench: ModuleType) -> None:
    x = bench.units(50, 49, 3)
    assert float(x.amin()) == -0.05 and float(x.amax()) == 0.95 < 1 - 0.5 / 48
    assert torch.equal(x, bench.units(50, 49, 3)) and not torch.equal(x, bench.units(50, 49, 4))


def test_the_clock_counts_the_outermost_call_and_puts_everything_back(bench: ModuleType) -> None:
    clock, before = bench.Clock(), (Classifier.forward, advise.adaptive_kde, torch.autograd.grad)
    nap = clock.timed(lambda: time.sleep(0.02))
    started = time.perf_counter()
    clock.timed(lambda: (nap(), nap()))()
    assert 0.04 <= clock.needed <= time.perf_counter() - started  # once, not twice
    with clock.running():
        assert Classifier.forward is not before[0]
        bench.table_of_one(tiny(), picture(1), costly=False)
    assert (Classifier.forward, advise.adaptive_kde, torch.autograd.grad) == before and clock.needed > 0.04

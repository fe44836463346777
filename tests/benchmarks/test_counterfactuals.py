"""The measurement of the search's speed: what it counts is right, whatever the machine's speed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "counterfactuals.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_counterfactuals", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_last_line_is_what_was_measured(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["counterfactuals.py", "--updates", "2", "--rounds", "1", "--plain"])
    bench.main()
    table, last = capsys.readouterr().out.rsplit("\n", 2)[:2]
    found = json.loads(last)
    assert found["updates"] == 2 and found["batched_speedup"] > 0 and 0 < found["compute_share"] < 1
    assert "one at a time" in table and "package, whole classifier" in table


def test_the_plain_way_finds_what_ours_finds(bench: ModuleType) -> None:
    model, _, classifier = bench.small()
    own = bench.Generator(model)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    z, vector = bench.generators.noise(1, 64, 0), torch.eye(8)[1:2]
    features = bench.Features(classifier)
    with torch.no_grad():
        ours = features(own(z, vector))
        theirs = bench.counterfactuals.features(classifier, (model(z, vector, 1.0) + 1) / 2).flatten(1)
    assert torch.allclose(ours, theirs, atol=1e-3 * float(theirs.abs().max()))
    assert bench.plain_search(model, classifier, image, 1) > 0 and all(p.grad is None for p in own.parameters())


def test_nothing_stays_timed(bench: ModuleType) -> None:
    grad, forward = torch.autograd.grad, bench.Features.forward
    _, generator, classifier = bench.small()
    assert 0 < bench.compute_share(generator, classifier, torch.rand(1, 3, 64, 64), 2) < 1
    assert torch.autograd.grad is grad and bench.Features.forward is forward

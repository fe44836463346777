"""The measurement of execution runs real projects, and counts what it says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "execution.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_execution", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_idle_share_and_overhead_of_real_runs(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BUSY", 2)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parents[1]))
    found = bench.idle(tmp_path)
    assert found["two_notebooks_seconds"] > 2
    assert 0 <= found["idle_share"] < 1  # start and end weigh much where the notebooks take two seconds
    found = bench.overhead(tmp_path, rounds=1)
    difference = found["xai_run_seconds"] - found["jupyter_execute_seconds"]
    assert found["overhead_seconds"] == pytest.approx(difference)
    assert [path.name for path in (tmp_path / "empty" / "papermill_runs" / "default").glob("0*")] == ["01_empty"]


def test_a_command_that_fails_ends_the_measurement(bench: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="failed: "):
        bench.seconds(["false"], tmp_path)

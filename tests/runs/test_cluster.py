"""The batch on a real SLURM of one node: shards, a job that the cluster ends, and Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from . import slurm
from .compendium import REPOSITORY, Compendium
from .test_shards import MEASURING
from .test_signals import SLOW, alive, wait_for_kernel

SMALLEST = {
    "photographs": "coffee,chelsea", "costly": "1", "lime_samples": "20", "defined": "1", "noise": "0.1", "noisy": "1",
    "checked": "1", "randomised": "1", "random_steps": "2", "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")):
        yield


def prepare(root: Path) -> None:
    slurm.small_profile(REPOSITORY / "papermill_runs" / "executors" / "slurm", root / "papermill_runs" / "executors" / "slurm")


@pytest.mark.usefixtures("cluster")
def test_notebook_02_in_two_shards(tmp_path: Path) -> None:
    """What two jobs of a cluster measure and a third puts together, beside what one process here makes of it."""
    (tmp_path / "notebooks").mkdir()
    for name in ("01_elime", "02_advise"):
        shutil.copy(REPOSITORY / "notebooks" / f"{name}.ipynb", tmp_path / "notebooks")
    for name in ("profiles", "Snakefile"):
        source = REPOSITORY / "papermill_runs" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / "papermill_runs" / name)
    prepare(tmp_path)
    environment = {k: v for k, v in os.environ.items() if k not in ("XAI_WEIGHTS_HOME", "XAI_DATA_HOME")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "TORCH_HOME": str(tmp_path / "no_weights")}
    options = [word for name, value in SMALLEST.items() for word in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "xai_lib.runs.command", "--root", str(tmp_path), "run", "02", *options]
    folder, found = tmp_path / "papermill_runs" / "default" / "02_advise", []
    for more in (["--executor", "slurm", "--shards", "2"], ["--force"]):
        ended = subprocess.run([*command, *more], env=environment, text=True, capture_output=True, timeout=300)
        assert ended.returncode == 0, ended.stderr + (tmp_path / "papermill_runs/.state/default/snakemake.log").read_text()
        units = json.loads((folder / "run.json").read_text())["units"]
        found.append((units, {path.name: pd.read_csv(path) for path in sorted(folder.glob("tables/*.csv"))}))
    (by_shards, there), (whole, here) = found
    assert whole["kept"] == 0 and by_shards["kept"] > 10
    assert sum(by_shards.values()) == whole["measured"]
    assert by_shards["measured"] < 6  # what is not worth a shard: gradients, times of a forward pass
    assert list(there) == list(here) and len(here) > 15
    for name, table in here.items():
        timed = ("second", "forward", "ours" if name == "table-anomalies.csv" else "second")
        untimed = [column for column in table.columns if not any(word in column for word in timed)]
        pd.testing.assert_frame_equal(table[untimed], there[name][untimed], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("cluster")
def test_a_job_that_the_cluster_ends_is_named_and_runs_again(compendium: Compendium) -> None:
    prepare(compendium.root)
    compendium.write("01_m", *MEASURING[:-1], MEASURING[-1], SLOW)
    running = compendium.start("run", "--executor", "slurm")
    wait_for_kernel(compendium)
    subprocess.run(["scancel", *slurm.queue()], check=True)
    _, error = running.communicate(timeout=120)
    assert running.returncode == 1 and error.startswith("01_m: "), error
    (compendium.root / "go").touch()
    assert compendium.xai("run", "--executor", "slurm").returncode == 0


@pytest.mark.usefixtures("cluster")
def test_a_signal_takes_the_jobs_back(compendium: Compendium) -> None:
    prepare(compendium.root)
    compendium.write("01_slow", "# Slow", "@n = 1", SLOW)
    running = compendium.start("run", "--executor", "slurm")
    kernel = wait_for_kernel(compendium)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130 and "goes on from here" in error
    deadline = time.monotonic() + 20
    while (slurm.queue() or alive(kernel)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not slurm.queue() and not alive(kernel)
    assert not (compendium.path("default", "01_slow")).exists()

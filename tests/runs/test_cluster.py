"""The batch on a real SLURM of one node; notebook 02 in two shards on it is in `tests/notebooks/test_02_advise.py`."""

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.runs import slurm
from tests.runs.compendium import Compendium
from tests.runs.test_shards import MEASURING
from tests.runs.test_signals import SLOW, alive, wait_for_kernel


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def prepared(compendium: Compendium) -> Compendium:
    slurm.small_profile(compendium.path())
    return compendium


def test_a_job_that_the_cluster_ends_is_named_and_runs_again(prepared: Compendium) -> None:
    prepared.write("01_m", *MEASURING, SLOW)
    running = prepared.start("run", "--executor", "slurm")
    wait_for_kernel(prepared)
    subprocess.run(["scancel", *slurm.queue()], check=True)
    _, error = running.communicate(timeout=120)
    assert running.returncode == 1 and error.startswith("01_m: its job was "), error
    (prepared.root / "computed").unlink()
    (prepared.root / "go").touch()
    assert prepared.xai("run").returncode == 0
    assert not (prepared.root / "computed").exists()  # what the job had measured was kept


def test_a_signal_takes_the_jobs_back(prepared: Compendium) -> None:
    prepared.write("01_slow", "# Slow", "@n = 1", SLOW)
    running = prepared.start("run", "--executor", "slurm")
    kernel = wait_for_kernel(prepared)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130 and "goes on from here" in error
    deadline = time.monotonic() + 20
    while (slurm.queue() or alive(kernel)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not slurm.queue() and not alive(kernel)
    assert not prepared.path("default", "01_slow").exists()

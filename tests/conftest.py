"""Fixtures that tests of more than one folder ask for, and how `make test` divides the suite between two processes.

A file's tests stay in one process, as they share fixtures; so do folders and files that share a server, a cluster or one
batch of runs. Where that takes long it comes first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from xai_lib.runs.job import THREADS

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: two processes with two threads each wait for each other
    os.environ |= dict.fromkeys(THREADS, "1")

import torch

TOGETHER = {
    "browser": "browser", "runs": "runs", "notebooks/test_02_advise.py": "runs",  # two files start a cluster
}  # fmt: skip
SLOWEST = ("notebooks", "runs", "contract", "explainers", "training", "browser")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups for `--dist loadgroup`; the order matters with several processes only."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    places = {item: item.path.relative_to(Path(__file__).parent).as_posix() for item in items}
    for item, place in places.items():
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(TOGETHER.get(place) or TOGETHER.get(place.partition("/")[0]) or place))
    order = {name: i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(places[item].partition("/")[0], len(order)))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads wait for each other on a machine that is busy, and small layers gain nothing by them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

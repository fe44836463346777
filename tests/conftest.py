"""Fixtures that tests of more than one folder ask for, and how `make test` divides the suite between two processes.

A file's tests stay in one process, as they share fixtures; so do folders and files that share a server, a cluster or one
batch of runs. Where that takes long it comes first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from xai_lib.runs.job import THREADS

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: two processes with two threads each wait for each other
    os.environ |= dict.fromkeys(THREADS, "1")

import torch

SLOWEST = ("notebooks", "runs", "contract", "explainers", "course", "training", "browser")


def group_of(nodeid: str) -> str:
    """Whose process a test shares: that of its file, or of all that start a cluster, or a browser, or use one batch of runs."""
    place = nodeid.partition("::")[0].removeprefix("tests/")
    folder = "runs" if place == "notebooks/test_02_advise.py" else place.partition("/")[0]  # two files start a cluster
    return folder if folder in ("runs", "browser") else place


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {name: i for i, name in enumerate(SLOWEST)}
        items.sort(key=lambda item: order.get(item.nodeid.removeprefix("tests/").partition("/")[0], len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In place of `--dist loadgroup`, which pytest-xdist 3.8 does not do with pytest 9.2 and says nothing of it."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # in the order above, not by the number of tests
    return ByGroup(config, log)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads wait for each other on a machine that is busy, and small layers gain nothing by them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

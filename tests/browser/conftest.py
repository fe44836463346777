"""One JupyterLab with one browser for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.lab import Lab

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    pytest.importorskip("selenium", reason="selenium is not installed")
    from tests.browser.lab import missing, running_lab

    if reason := missing():
        pytest.skip(reason)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with running_lab(tmp_path_factory.mktemp("lab"), {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}) as running:
        yield running

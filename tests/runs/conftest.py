"""One batch for all tests of runs, and copies of it for those that change something."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .compendium import COMPLETE, Batch, Compendium, new_compendium


@pytest.fixture
def compendium(tmp_path: Path) -> Compendium:
    """A project without notebooks."""
    return new_compendium(tmp_path)


@pytest.fixture(scope="session")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    made = new_compendium(tmp_path_factory.mktemp("batch"))
    made.write("01_complete", *COMPLETE)
    made.write("02_broken", "# Broken", "@n = 1", ">text = 'no'", "## Where it `breaks`", ">1 / 0", ">text")
    made.write("03_left", "# Left", "@n = 1", ">import sys\nsys.exit(0)", ">n", ">n")
    made.write("04_killed", "# Killed", "@n = 1", ">import os\nos.kill(os.getpid(), 9)")
    made.write(
        "05_units",
        "# Units",
        "@output_dir = ''",
        ">from pathlib import Path\nfrom xai_lib import runs\nresults = runs.Results(output_dir)\n"
        "def compute(i):\n    with open('computed', 'a') as log:\n        log.write(f'{i}\\n')\n"
        "    return {'third': i / 3, 'pair': (i, i)}",
        ">values = [results.unit({'i': i}, lambda: compute(i)) for i in range(2)]",
        ">assert Path('go').exists(), 'cut short'\n"
        "values.append(results.unit({'i': 2}, lambda: compute(2)))\nresults.record('values', values)",
    )
    return Batch(made, made.xai("run", "--jobs", "2"))


@pytest.fixture
def changeable(batch: Batch, tmp_path: Path) -> Compendium:
    """A copy of the project after its batch, results and all."""
    shutil.copytree(batch.compendium.root.parent, tmp_path / "copy", symlinks=True)
    return Compendium(tmp_path / "copy" / "project", tmp_path / "copy" / "package")


@pytest.fixture
def record() -> Callable[[Path], Any]:
    """Reads the run.json of a result."""
    return lambda folder: json.loads((folder / "run.json").read_text())

"""Notebooks run for real in a project of their own, and the size of what they leave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]


def command(root: Path, notebook: str, parameters: Mapping[str, str], *more: str) -> dict[str, Any]:
    """`xai run NOTEBOOK` in a project of its own, without scans or weights but those of the install: for `subprocess`."""
    (root / "notebooks").mkdir(exist_ok=True)
    for each in (REPOSITORY / "notebooks").glob("*.ipynb"):  # the profile names them all
        shutil.copy(each, root / "notebooks")
    for name in ("profiles/default.yaml", "Snakefile"):
        (root / "papermill_runs" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "papermill_runs" / name, root / "papermill_runs" / name)
    environment = {k: v for k, v in os.environ.items() if k not in ("XAI_WEIGHTS_HOME", "XAI_DATA_HOME")}
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"PYTHONPATH": path, "TORCH_HOME": str(root / "no_weights"), "XDG_CACHE_HOME": str(root / "no_cache")}
    options = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
    arguments = [sys.executable, "-m", "xai_lib.runs.command", "--root", str(root), "run", notebook, *options, *more]
    return {
        "args": arguments, "env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT,
        "preexec_fn": _own_core,
    }  # fmt: skip


def _own_core() -> None:
    """Beside another process of the suite a run gets one core, and so one thread."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def finished(root: Path, notebook: str, parameters: Mapping[str, str]) -> Path:
    """The folder of that run once it is complete."""
    done = subprocess.run(**command(root, notebook, parameters), timeout=900)
    assert done.returncode == 0, done.stdout
    return root / "papermill_runs" / "default" / notebook


def check_size(result: Path) -> None:
    """Figures no wider than a page at 150 dots an inch; all but the HTML within what is committed."""
    for path in (result / "figures").glob("*.png"):
        assert Image.open(path).width <= 7.4 * 150, path.name
    assert sum(path.stat().st_size for path in result.rglob("*") if path.suffix != ".html") < 3_000_000

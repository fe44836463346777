"""What headless execution costs beside the notebooks' own time.

    python benchmarks/execution.py        the table, and one JSON object as the last line

`overhead_seconds`: `xai run` on an empty notebook less `jupyter execute` on it, imports included, in turn. `resume_seconds`:
`make run` where all is complete, that is `make install` with nothing to install and `xai run` with nothing to run.
`idle_share`: of a command that runs two notebooks of the same length side by side, the share of two workers' time in which
one of them is not at work, the command's start and end included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import v4

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
BUSY = 20  #: seconds that each of the two notebooks keeps a core busy


def new_project(folder: Path, notebooks: dict[str, str]) -> Path:
    """A project with notebooks of one cell of code each."""
    (folder / "notebooks").mkdir(parents=True)
    (folder / "papermill_runs" / "profiles").mkdir(parents=True)
    (folder / "papermill_runs" / "profiles" / "default.yaml").write_text("# nothing\n")
    shutil.copy(ROOT / "papermill_runs" / "Snakefile", folder / "papermill_runs")
    for name, code in notebooks.items():
        parameters = v4.new_code_cell("n: int = 1  # nothing", metadata={"tags": ["parameters"]})
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        book = v4.new_notebook(cells=[parameters, v4.new_code_cell(code)], metadata=kernel)
        nbformat.write(book, folder / "notebooks" / f"{name}.ipynb")
    return folder


def seconds(command: list[str], folder: Path) -> float:
    started = time.perf_counter()
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed: {ended.stderr}")
    return time.perf_counter() - started


def xai(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "xai_lib.runs.command", *arguments]


def overhead(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of `xai run` and of `jupyter execute` on an empty notebook."""
    project = new_project(folder / "empty", {"01_empty": "n"})
    shutil.copy(project / "notebooks" / "01_empty.ipynb", folder / "plain.ipynb")
    plain = [sys.executable, "-m", "jupyter", "execute", str(folder / "plain.ipynb"), "--output=executed.ipynb"]
    ours, theirs = [], []
    for _ in range(rounds + 1):
        theirs.append(seconds(plain, project))
        ours.append(seconds(xai("run", "--force"), project))
    differences = [a - b for a, b in zip(ours[1:], theirs[1:], strict=True)]  # the first round fills caches
    return {
        "overhead_seconds": statistics.median(differences), "overhead_min": min(differences), "overhead_max": max(differences),
        "xai_run_seconds": statistics.median(ours[1:]), "jupyter_execute_seconds": statistics.median(theirs[1:]),
    }  # fmt: skip


def resume(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of a `make run` that finds all complete."""
    project = new_project(folder / "complete", {"01_a": "n", "02_b": "n"})
    seconds(xai("run"), project)
    nothing = [seconds(["make", "install"], ROOT) for _ in range(rounds + 1)][1:]
    again = [seconds(xai("run"), project) for _ in range(rounds)]
    installed = statistics.median(nothing)
    return {"resume_seconds": installed + statistics.median(again), "make_install_seconds": installed}


def idle(folder: Path) -> dict[str, float]:
    """The share of two workers' time in which they wait, over two notebooks of `BUSY` seconds."""
    code = f"import time\nbegan = time.perf_counter()\nwhile time.perf_counter() - began < {BUSY}:\n    sum(range(1000))"
    project = new_project(folder / "two", {"01_a": code, "02_b": code})
    whole = seconds(xai("run", "--jobs", "2"), project)
    spans = []
    for name in ("01_a", "02_b"):
        record = json.loads((project / "papermill_runs" / "default" / name / "run.json").read_text())
        said = json.loads((project / "papermill_runs" / ".state" / "default" / f"{name}.progress").read_text())
        spans.append((said["began"], said["began"] + record["seconds"]))
    worked = sum(end - start for start, end in spans)
    return {"idle_share": 1 - worked / (2 * whole), "two_notebooks_seconds": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--busy", action="store_true", help="measure although other processes are running")
    chosen = parser.parse_args()
    cores = os.cpu_count() or 1
    if os.getloadavg()[0] > cores and not chosen.busy:
        sys.exit(f"load {os.getloadavg()[0]:.1f} on {cores} cores: times would mean nothing; wait, or pass --busy")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {**overhead(folder, chosen.rounds), **resume(folder, chosen.rounds), **idle(folder)}
    for key, value in figures.items():
        print(f"{key:28s} {value:7.2f}")
    print(json.dumps({**figures, "measured": datetime.now().isoformat(timespec="minutes")}))


if __name__ == "__main__":
    main()

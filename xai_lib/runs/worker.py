"""One job of the batch: run one notebook of a plan, and put its result in place only if it is complete.

Called as `python -m xai_lib.runs.worker PLAN NOTEBOOK THREADS`; says how it stands in a small file beside
the plan.
"""

import asyncio
import errno
import logging
import re
import sys
import time
import traceback
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from papermill.parameterize import parameterize_notebook

from xai_lib.runs import folders, notebook, record
from xai_lib.runs.job import Job, read_job
from xai_lib.runs.kernel import INJECTED, CellFailure, PrivateKernel, Stopped, run_cells
from xai_lib.runs.parameters import OUTPUT
from xai_lib.runs.project import write_whole


def prepare(job: Job) -> NotebookNode:
    """The notebook with its parameters injected; `output_dir` is relative to the kernel's folder."""
    source = nbformat.from_dict(job.source)
    source.metadata.papermill = {}
    for cell in source.cells:
        cell.metadata.setdefault("tags", [])
    values = {**job.parameters, OUTPUT: job.project.relative(job.working)}
    ready: NotebookNode = parameterize_notebook(source, values, kernel_name="python3", language="python")
    del ready.metadata["papermill"]
    for cell in ready.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return ready


def run(job: Job) -> None:
    """Run the notebook beside its result and swap the new result in. Raises CellFailure or Stopped."""
    ready = prepare(job)
    code = [
        index
        for index, cell in enumerate(ready.cells)
        if cell.cell_type == "code" and INJECTED not in cell.metadata.tags
    ]

    def started(cell: int) -> None:
        job.say(
            "running", cell=cell, cells=len(code), heading=notebook.heading_above(ready.cells, code[cell - 1])
        )

    job.working.mkdir(parents=True)
    with job.log.open("ab") as log:
        try:
            seconds = asyncio.run(
                run_cells(
                    ready,
                    PrivateKernel(job.folder),
                    folder=job.project.root,
                    environment=job.environment(),
                    timeout=job.timeout,
                    log=log,
                    started=started,
                )
            )
        except CellFailure as failure:
            folders.remove(job.working)  # first, as its files may be what filled the disk
            _keep_failed(job, ready, code, failure)
            raise
    job.say("running", cell=len(code), cells=len(code), heading="writing the result")
    record.complete(job, ready, seconds)
    folders.swap(job.working, job.result)
    folders.remove(job.project.failed(job.profile, job.name))
    folders.remove(job.project.units(job.profile, job.name))


def explain(job: Job, ready: NotebookNode, code: list[int], failure: CellFailure) -> str:
    """The failure in one line: notebook, cell, heading, cause."""
    if not failure.cell:
        said = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{job.name}: {failure}" + (f" ({said[-1]})" if said else "")
    heading = notebook.heading_above(ready.cells, code[failure.cell - 1])
    place = f"cell {failure.cell} of {len(code)}" + (f' under "{heading}"' if heading else "")
    cause = str(failure).strip()
    if cause == "left the notebook":
        rest = len(code) - failure.cell
        return f"{job.name}: {place}: cell {failure.cell} left the notebook, {rest} cells did not run"
    return f"{job.name}: {place}: {cause.splitlines()[-1]}"


def _keep_failed(job: Job, ready: NotebookNode, code: list[int], failure: CellFailure) -> None:
    """Keep the notebook and the log of a failed run, beside the result that stays."""
    failed = job.project.failed(job.profile, job.name)
    folders.remove(failed)
    failed.mkdir(parents=True)
    (failed / f"{job.name}.ipynb").write_text(nbformat.writes(ready) + "\n", encoding="utf-8")
    message = explain(job, ready, code, failure)
    kernel_words = job.log.read_text(encoding="utf-8", errors="replace")
    outputs = [output for cell in ready.cells for output in cell.get("outputs", [])]
    trace = ["\n".join(output.traceback) for output in outputs if output.output_type == "error"]
    words = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join([message, "", *trace, "", kernel_words]))  # no colours
    (failed / "log.txt").write_text(words, encoding="utf-8")
    write_whole(failed / "failure.txt", message)


def main(arguments: list[str]) -> int:
    """0 complete, 1 failed, else 128 + signal."""
    plan_path, name, threads = Path(arguments[0]), arguments[1], int(arguments[2])
    job = read_job(plan_path, name, threads)
    job.log.unlink(missing_ok=True)
    logging.disable(logging.CRITICAL)  # the log is the kernel's; failures are told in our own words
    job.say("running", cell=0, cells=0, heading="starting the kernel")
    try:
        run(job)
    except Stopped as stop:
        job.say("stopped")
        return 128 + stop.signal
    except CellFailure:
        job.say("failed")
        return 1
    except Exception as error:
        folders.remove(job.working)
        _keep_crash(job, error)
        job.say("failed")
        return 1
    finally:
        folders.remove(job.working)
        folders.remove(job.folder)
    job.say("complete", seconds=round(time.time() - job.began, 1))
    return 0


def _keep_crash(job: Job, error: Exception) -> None:
    """A fault outside of a cell, such as a full disk: its last line is the message, its trace the log."""
    failed = job.project.failed(job.profile, job.name)
    failed.mkdir(parents=True, exist_ok=True)
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    hint = f"; free some space on the disk of {job.project.relative(job.result.parent)} and run again" if full else ""
    (failed / "log.txt").write_text(traceback.format_exc(), encoding="utf-8")
    message = traceback.format_exc().strip().splitlines()[-1]
    write_whole(failed / "failure.txt", f"{job.name}: {message}{hint}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

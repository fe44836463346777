"""One job of the batch: run one notebook of a plan, and put its result in place only if it is complete.

Called as `python -m xai_lib.runs.worker PLAN NOTEBOOK THREADS [NUMBER/COUNT]`; says how it stands in a small file
beside the plan. With NUMBER/COUNT it runs that shard alone and leaves a stamp in place of a result.
"""

import asyncio
import errno
import functools
import logging
import re
import sys
import threading
import time
import traceback
from pathlib import Path

sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # nbformat's schema asks for it: 0.5 s

import nbformat  # noqa: E402
from nbformat import NotebookNode  # noqa: E402

from xai_lib.runs import folders, notebook, record, shards  # noqa: E402
from xai_lib.runs.job import Job, read_job  # noqa: E402
from xai_lib.runs.kernel import INJECTED, CellFailure, PrivateKernel, Stopped, run_cells  # noqa: E402
from xai_lib.runs.parameters import OUTPUT  # noqa: E402
from xai_lib.runs.parameters import TAG as PARAMETERS  # noqa: E402
from xai_lib.runs.project import write_whole  # noqa: E402


def prepare(job: Job) -> NotebookNode:
    """The notebook, or what a shard runs of it, with its parameters injected; `output_dir` is relative to the kernel's folder."""
    from papermill.parameterize import parameterize_notebook

    source = nbformat.from_dict(job.source)
    source.metadata.papermill = {}
    if job.shard:
        kept = shards.needed(source.cells)
        source.cells = [
            cell
            for index, cell in enumerate(source.cells)
            if cell.cell_type != "code" or index in kept or PARAMETERS in cell.metadata.get("tags", [])
        ]
    for cell in source.cells:
        cell.metadata.setdefault("tags", [])
    values = {**job.parameters, OUTPUT: job.project.relative(job.working)}
    ready: NotebookNode = parameterize_notebook(source, values, kernel_name="python3", language="python")
    del ready.metadata["papermill"]
    for cell in ready.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return ready


class Book:
    """The notebook of a job; made when it is first asked for, which is while the kernel starts."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @functools.cached_property
    def ready(self) -> NotebookNode:
        return prepare(self._job)

    @functools.cached_property
    def code(self) -> list[int]:
        """Places of the cells that a reader counts: those of code, without the one that papermill adds."""
        return [
            index
            for index, cell in enumerate(self.ready.cells)
            if cell.cell_type == "code" and INJECTED not in cell.metadata.tags
        ]

    def heading(self, cell: int) -> str:
        return notebook.heading_above(self.ready.cells, self.code[cell - 1])


def run(job: Job) -> None:
    """Run the notebook beside its result, and put away what it gave. Raises CellFailure or Stopped."""
    book = Book(job)

    def started(cell: int) -> None:
        job.say("running", cell=cell, cells=len(book.code), heading=book.heading(cell))

    job.working.mkdir(parents=True)
    with job.log.open("ab") as log:
        try:
            seconds = asyncio.run(
                run_cells(
                    lambda: book.ready,
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
            _keep_failed(job, book, failure)
            raise
    if job.shard:
        declared = record.handed_over(job.working)["inputs"]
        shards.write_stamp(job.project.state(job.profile) / f"{job.label}.done", job.key, declared)
    else:
        job.say("running", cell=len(book.code), cells=len(book.code), heading="writing the result")
        record.complete(job, book.ready, seconds)
        folders.swap(job.working, job.result)
        folders.remove(job.project.units(job.profile, job.name))
    folders.remove(job.failed)


def explain(job: Job, book: Book, failure: CellFailure) -> str:
    """The failure in one line: notebook, cell, heading, cause."""
    name = f"{job.name}: {job.shard}" if job.shard else job.name
    if not failure.cell:
        said = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{name}: {failure}" + (f" ({said[-1]})" if said else "")
    heading = book.heading(failure.cell)
    place = f"cell {failure.cell} of {len(book.code)}" + (f' under "{heading}"' if heading else "")
    cause = str(failure).strip()
    if cause == "left the notebook":
        rest = len(book.code) - failure.cell
        return f"{name}: {place}: cell {failure.cell} left the notebook, {rest} cells did not run"
    return f"{name}: {place}: {cause.splitlines()[-1]}"


def _keep_failed(job: Job, book: Book, failure: CellFailure) -> None:
    """Keep the notebook and the log of a failed run, beside the result that stays."""
    failed = job.failed
    folders.remove(failed)
    failed.mkdir(parents=True)
    (failed / f"{job.name}.ipynb").write_text(nbformat.writes(book.ready) + "\n", encoding="utf-8")
    message = explain(job, book, failure)
    kernel_words = job.log.read_text(encoding="utf-8", errors="replace")
    outputs = [output for cell in book.ready.cells for output in cell.get("outputs", [])]
    trace = ["\n".join(output.traceback) for output in outputs if output.output_type == "error"]
    words = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join([message, "", *trace, "", kernel_words]))  # no colours
    (failed / "log.txt").write_text(words, encoding="utf-8")
    write_whole(failed / "failure.txt", message)


def main(arguments: list[str]) -> int:
    """0 complete, 1 failed, else 128 + signal."""
    threading.Thread(target=_import_what_comes_last, daemon=True).start()  # while the kernel starts
    plan_path, name, threads = Path(arguments[0]), arguments[1], int(arguments[2])
    number, _, count = arguments[3].partition("/") if len(arguments) > 3 else ("", "", "")
    job = read_job(plan_path, name, threads, shards.Shard(int(number), int(count)) if count else None)
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
    failed = job.failed
    failed.mkdir(parents=True, exist_ok=True)
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    hint = f"; free some space on the disk of {job.project.relative(job.result.parent)} and run again" if full else ""
    (failed / "log.txt").write_text(traceback.format_exc(), encoding="utf-8")
    message = traceback.format_exc().strip().splitlines()[-1]
    write_whole(failed / "failure.txt", f"{job.name}: {message}{hint}")


def _import_what_comes_last() -> None:
    import nbconvert.exporters.html  # noqa: F401


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

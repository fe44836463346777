"""Grade one submission: `python -m xai_lib.course.worker JOB`, a JSON file; the result is written beside it, whole."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from xai_lib.course import assembly, guard, session
from xai_lib.runs.job import THREADS, short_folder
from xai_lib.runs.project import write_whole


def grade(job: dict[str, Any]) -> dict[str, Any]:
    """Marks by task and remarks. `job`: source, submission, out (paths), threads, cell, whole (seconds), forbidden (folders)."""
    source = assembly.load(Path(job["source"]))
    whole = {task.name: task for task in assembly.tasks(source)}
    try:
        submission = assembly.load(Path(job["submission"]))
    except assembly.CourseError as error:
        none = {name: [None if t.by_hand else 0.0, "the notebook cannot be read"] for name, t in whole.items()}
        return {"marks": none, "remarks": [str(error).replace(job["submission"], Path(job["submission"]).name)]}
    made = assembly.assemble(source, submission)
    with tempfile.TemporaryDirectory(prefix="xai-", dir=short_folder()) as folder:
        room = Path(folder)
        (room / "work").mkdir()
        fence_log = room / "fence"
        fence = guard.code([Path(each) for each in job["forbidden"]], fence_log)
        with (room / "log").open("ab") as log:
            limits = session.Limits(job["cell"], job["whole"])
            running = session.Session(room / "work", room / "k", _environment(room, job["threads"]), log, fence, limits)
            said = session.run(running, made.notebook, _is_test)
        attempts = fence_log.read_text(encoding="utf-8").splitlines() if fence_log.exists() else []
    remarks = made.remarks + [f"tried: {what}" for what in dict.fromkeys(attempts)]
    marks: dict[str, list[Any]] = {}
    for index, cell in enumerate(made.notebook.cells):
        told = cell.metadata.get("nbgrader", {})
        name, words = told.get("grade_id", ""), said.get(index, "")
        if name in whole and whole[name].by_hand:
            answered = cell.source.strip() and cell.source.strip() != _released_answer(source, name)
            marks[name] = [None, "for a person to grade" if answered else "not answered"]
        elif name in whole:
            marks[name] = [0.0 if words else whole[name].points, words]
        elif words and words != "not answered yet":
            remarks.append(f"cell {name or 'added by the student'}: {words}")
    executed = Path(job["out"]).with_suffix(".ipynb")
    write_whole(executed, nbformat.writes(_without_hidden(made.notebook)))
    return {"marks": marks, "remarks": remarks, "restarts": running.restarts}


def _is_test(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))


def _released_answer(source: NotebookNode, name: str) -> str:
    for cell in source.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == name:
            return assembly.released(cell)
    return ""


def _without_hidden(notebook: NotebookNode) -> NotebookNode:
    """The executed notebook as a student may see it: no hidden test, and of a failed one the message alone."""
    for cell in notebook.cells:
        if _is_test(cell) and cell.cell_type == "code":
            cell.source = assembly.released(cell)
            for output in cell.outputs:
                if output.output_type == "error":
                    output.traceback = [f"{output.ename}: {output.evalue}"]
        elif cell.cell_type == "markdown":
            cell.source = assembly.released(cell)
    return notebook


def _environment(room: Path, threads: int) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("XAI_")}
    return kept | dict.fromkeys(THREADS, str(threads)) | {"IPYTHONDIR": str(room / "ipython"), "MPLBACKEND": "agg"}


def main(arguments: list[str]) -> int:
    """0 graded; 1 the grader itself failed, with the reason in the result."""
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    try:
        result = grade(job)
    except Exception as error:  # one submission must never cost the batch
        result = {"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    write_whole(Path(job["out"]), json.dumps(result, ensure_ascii=False, indent=1))
    return 1 if "failed" in result else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

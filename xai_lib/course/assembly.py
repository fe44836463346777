"""A submission made whole: the student's answers in the teacher's notebook, whose tests nobody can change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode, v4

from xai_lib.errors import XaiError

HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS[ \t]*\n?", re.S | re.M)
SCHEME = re.compile(r"^=== BEGIN MARK SCHEME ===.*?=== END MARK SCHEME ===[ \t]*\n?", re.S | re.M)


class CourseError(XaiError):
    """A folder or an assignment that cannot be graded at all; what one student did wrong never raises it."""


@dataclass(frozen=True)
class Task:
    """A graded cell: its name, its points, and whether a person grades it."""

    name: str
    points: float
    by_hand: bool


@dataclass
class Assembly:
    """What is run: a notebook, and remarks on what had to be put right in it."""

    notebook: NotebookNode
    remarks: list[str]


def load(path: Path) -> NotebookNode:
    """A notebook in version 4; raises `CourseError` for a file that is none."""
    try:
        found: NotebookNode = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        found.cells  # noqa: B018  # a JSON file without cells is no notebook
    except Exception as error:  # nbformat and json raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CourseError(f"{path} cannot be read as a notebook ({reason})") from None
    return found


def tasks(source: NotebookNode) -> list[Task]:
    """The graded cells of the teacher's notebook, in order."""
    return [
        Task(told["grade_id"], float(told["points"]), cell.cell_type == "markdown" or bool(told["solution"]))
        for cell, told in _told(source)
        if told.get("grade")
    ]


def released(cell: NotebookNode) -> str:
    """What students see of a cell that they may not change."""
    return SCHEME.sub("", HIDDEN.sub("", cell.source)).strip()


def assemble(source: NotebookNode, submission: NotebookNode) -> Assembly:
    """The teacher's cells in the teacher's order, with the student's answers in place of the solutions.

    Cells that a student added stay behind the cell that they follow. Locked cells (tests, data) are the teacher's, hidden tests
    included; one that was changed, deleted or doubled is remarked on and costs nothing by itself.
    """
    known = {told["grade_id"] for _, told in _told(source)}
    given: dict[str, NotebookNode] = {}
    added: dict[str, list[NotebookNode]] = {}
    remarks: list[str] = []
    before = ""
    for cell in submission.cells:
        name = cell.get("metadata", {}).get("nbgrader", {}).get("grade_id", "")
        if name not in known:
            if cell.cell_type == "code" and cell.source.strip():
                added.setdefault(before, []).append(v4.new_code_cell(cell.source))
            continue
        if name in given:
            remarks.append(f"the cell {name} occurs twice; the first was taken")
            continue
        given[name], before = cell, name
    cells = list(added.get("", []))
    for cell, told in _told(source):
        name = told["grade_id"]
        cells += [_put_together(cell, told, given.get(name), remarks), *added.get(name, [])]
    return Assembly(v4.new_notebook(cells=cells, metadata=source.metadata), remarks)


def _put_together(cell: NotebookNode, told: dict[str, Any], answer: NotebookNode | None, remarks: list[str]) -> NotebookNode:
    name, ours = told["grade_id"], v4.new_code_cell if cell.cell_type == "code" else v4.new_markdown_cell
    about = {"nbgrader": dict(told)}
    if told.get("solution"):
        if answer is None:
            remarks.append(f"the answer cell {name} is missing")
        return ours(answer.source if answer is not None else "", metadata=about)
    if not told.get("locked") and answer is not None:  # students may change it, as the cell with their name
        return ours(answer.source, metadata=about)
    if answer is None and cell.cell_type == "code":
        remarks.append(f"the cell {name} was deleted; it was put back")
    elif answer is not None and cell.cell_type == "code" and released(answer) != released(cell):
        remarks.append(f"the cell {name} was changed; the original was run")
    return ours(cell.source, metadata=about)


def _told(notebook: NotebookNode) -> list[tuple[NotebookNode, dict[str, Any]]]:
    """Cells with what nbgrader says of them."""
    return [(cell, cell.metadata["nbgrader"]) for cell in notebook.cells if "nbgrader" in cell.get("metadata", {})]

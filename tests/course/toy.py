"""A toy assignment and the many ways in which students hand it in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode, v4

DOUBLE = "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION\n"
SQUARE = "def square(x):\n    ### BEGIN SOLUTION\n    return x * x\n    ### END SOLUTION\n"
TEST_DOUBLE = (
    "assert double(2) == 4, 'double: 2 gives 4'\n### BEGIN HIDDEN TESTS\n"
    "assert double(7) == 14, 'double: works for 2 alone'\n### END HIDDEN TESTS\n"
)
STUB = "    # YOUR CODE HERE\n    raise NotImplementedError()\n"


def cell(kind: str, name: str, source: str, grade: bool = False, solution: bool = False, points: float = 0) -> NotebookNode:
    told: dict[str, Any] = {"grade": grade, "grade_id": name, "locked": not solution, "schema_version": 3, "solution": solution}
    told |= {"points": points} if grade else {}
    make = v4.new_code_cell if kind == "code" else v4.new_markdown_cell
    return make(source, metadata={"nbgrader": told})


def source() -> NotebookNode:
    """Two functions, a test each (2 and 3 points), a text (4 points)."""
    scheme = "Why?\n\n=== BEGIN MARK SCHEME ===\nbecause\n=== END MARK SCHEME ===\n"
    return v4.new_notebook(cells=[
        cell("markdown", "intro", "Write two functions."),
        cell("code", "given", "numbers = [1, 2, 3]"),
        cell("code", "double", DOUBLE, solution=True),
        cell("code", "test-double", TEST_DOUBLE, grade=True, points=2),
        cell("code", "square", SQUARE, solution=True),
        cell("code", "test-square", "assert [square(n) for n in numbers] == [1, 4, 9], 'square: wrong'", grade=True, points=3),
        cell("markdown", "why", scheme, grade=True, solution=True, points=4),
    ])  # fmt: skip


def released() -> NotebookNode:
    """What a student gets."""
    notebook = source()
    for each in notebook.cells:
        name = each.metadata.nbgrader.grade_id
        if name in ("double", "square"):
            each.source = f"def {name}(x):\n{STUB}"
        elif name == "test-double":
            each.source = "assert double(2) == 4, 'double: 2 gives 4'\n"
        elif name == "why":
            each.source = "Why?"
    return notebook


def answered(answers: Mapping[str, str] | None = None) -> NotebookNode:
    """The release with right answers, but for the cells given."""
    right = {"double": "def double(x):\n    return x + x", "square": "def square(x):\n    return x ** 2", "why": "Because."}
    notebook = released()
    for each in notebook.cells:
        name = each.metadata.nbgrader.grade_id
        each.source = (right | dict(answers or {})).get(name, each.source)
    return notebook


def without(notebook: NotebookNode, name: str) -> NotebookNode:
    notebook.cells = [each for each in notebook.cells if each.metadata.nbgrader.grade_id != name]
    return notebook


def hand_in(folder: Path, student: str, notebook: NotebookNode) -> None:
    """As nbgrader collects it."""
    path = folder / student / "toy" / "toy.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)

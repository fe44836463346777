"""Each assignment: the solutions get all points, the release none, and typical mistakes lose theirs and are told why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from nbformat import NotebookNode

from xai_lib.course import assembly
from xai_lib.course.session import reason

FOLDER = Path(__file__).parents[2] / "notebooks" / "assignments"
MISTAKES = Path(__file__).parent / "mistakes"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/*.ipynb"))


def source(name: str) -> NotebookNode:
    return assembly.load(FOLDER / name / f"{name}.ipynb")


def lost(name: str, answers: dict[str, str] | None = None, solved: bool = True) -> dict[str, str]:
    """The tests that fail with the solutions, but for the cells in `answers`; unsolved, every answer is the release's stub."""
    found: dict[str, str] = {}
    space: dict[str, Any] = {}
    with mpl.rc_context({"backend": "agg"}):
        for cell in source(name).cells:
            told = cell.metadata.get("nbgrader", {})
            if cell.cell_type != "code" or (answers and "plt.subplots" in cell.source):  # figures take half of the time
                continue
            code = (answers or {}).get(told.get("grade_id", ""), cell.source)
            if not solved and told.get("solution") and "### BEGIN SOLUTION" in code:
                code = "raise NotImplementedError"
            try:
                exec(compile(code, told.get("grade_id", "cell"), "exec"), space)
            except Exception as error:
                if told.get("grade"):
                    found[told["grade_id"]] = reason(type(error).__name__, str(error))
                elif solved:
                    raise
        plt.close("all")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_solutions_get_all_points(name: str) -> None:
    assert lost(name) == {}


@pytest.mark.parametrize("name", NAMES)
def test_solutions_get_all_points_whatever_the_student_is_called(name: str) -> None:
    for student in ("李雷", "t0000040"):
        assert lost(name, {"student": f"STUDENT = {student!r}"}) == {}, student


@pytest.mark.parametrize("name", NAMES)
def test_the_untouched_release_gets_none(name: str) -> None:
    assert set(lost(name, solved=False)) == {task.name for task in assembly.tasks(source(name)) if not task.by_hand}


@pytest.mark.parametrize("name", NAMES)
def test_an_assignment_has_its_form(name: str) -> None:
    notebook = source(name)
    text = notebook.cells[0].source
    assert all(word in text for word in ("You will learn", "Read first", "Time", "Points"))
    tasks = assembly.tasks(notebook)
    assert 10 <= len(tasks) <= 14 and any(task.by_hand for task in tasks)
    assert f"**Points:** {sum(task.points for task in tasks):g}" in text
    for cell in notebook.cells:
        told = cell.metadata.get("nbgrader", {})
        if told.get("grade") and told.get("solution"):
            assert "=== BEGIN MARK SCHEME ===" in cell.source
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def mistakes(name: str) -> list[tuple[str, str, dict[str, str]]]:
    """Cell, wrong answer, and what each test that fails says: blocks of `mistakes/NAME.txt`."""
    found = []
    for block in (MISTAKES / f"{name}.txt").read_text(encoding="utf-8").split("# %% ")[1:]:
        cell, *lines = block.splitlines()
        heads = [line[2:].partition(": ") for line in lines if line.startswith("# test-")]
        code = "\n".join(line for line in lines if not line.startswith("# test-"))
        found.append((cell.strip(), code, {test: words for test, _, words in heads}))
    return found


@pytest.mark.parametrize(
    ("name", "cell", "code", "said"),
    [pytest.param(name, *each, id=f"{name}-{i}-{each[0]}") for name in NAMES for i, each in enumerate(mistakes(name))],
)
def test_typical_mistakes_lose_their_points_and_are_told_why(name: str, cell: str, code: str, said: dict[str, str]) -> None:
    found = lost(name, {cell: code})
    assert set(found) == set(said), found
    assert all(words in found[test] for test, words in said.items()), found


@pytest.mark.parametrize("name", NAMES)
def test_there_are_six_typical_mistakes_at_least(name: str) -> None:
    assert len(mistakes(name)) >= 6 and all(said for _, _, said in mistakes(name))

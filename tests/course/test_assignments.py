"""Each assignment: the solutions get all points, the release none, and typical mistakes lose theirs and are told why."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from nbformat import NotebookNode

from xai_lib.course import assembly
from xai_lib.course.session import reason
from xai_lib.runs.shards import _names

FOLDER = Path(__file__).parents[2] / "notebooks" / "assignments"
MISTAKES = Path(__file__).parent / "mistakes"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/*.ipynb"))


def source(name: str) -> NotebookNode:
    return assembly.load(FOLDER / name / f"{name}.ipynb")


class Run:
    """An assignment run with its solutions, or every answer the release's stub: what failed, and all names after each cell."""

    def __init__(self, name: str, solved: bool = True) -> None:
        self.cells = [cell for cell in source(name).cells if cell.cell_type == "code"]
        self.lost: dict[str, str] = {}
        self.names: list[dict[str, Any]] = [{}]
        space: dict[str, Any] = {}
        for cell in self.cells:
            code = cell.source
            if not solved and task(cell).get("solution") and "### BEGIN SOLUTION" in code:
                code = "raise NotImplementedError"
            run(cell, code, space, self.lost, strict=solved)
            self.names.append(dict(space))

    def lost_with(self, answers: dict[str, str]) -> dict[str, str]:
        """What fails once other answers stand in their cells: those run again, and all that depends on them by its names."""
        codes = [answers.get(task(cell).get("grade_id", ""), cell.source) for cell in self.cells]
        found = [_names(code) for code in codes]
        changed = {i for i, cell in enumerate(self.cells) if codes[i] != cell.source}
        again, moved, mutated = set[int](), set[str](), set[str]()
        while new := (changed | {i for i, n in enumerate(found) if n.used & moved or n.bound & mutated}) - again:
            again |= new
            for names in (each for i in new for each in (found[i], _names(self.cells[i].source))):
                moved |= names.bound | names.changed
                mutated |= names.changed

        def is_old(name: str, cell: int) -> bool:
            """Whether what the name stands for, where this cell begins, was made by a cell that does not run again."""
            return name not in moved or max((i for i in range(cell) if name in found[i].bound), default=-1) not in again

        lost: dict[str, str] = {}
        space: dict[str, Any] = {}
        for i in sorted(again):
            space.update({name: value for name, value in self.names[i].items() if is_old(name, i)})
            if "plt.subplots" not in self.cells[i].source:  # figures take half of the time
                run(self.cells[i], codes[i], space, lost)
        return lost


def task(cell: NotebookNode) -> dict[str, Any]:
    told: dict[str, Any] = cell.metadata.get("nbgrader", {})
    return told


def run(cell: NotebookNode, code: str, space: dict[str, Any], lost: dict[str, str], strict: bool = True) -> None:
    with mpl.rc_context({"backend": "agg"}):
        try:
            exec(compile(code, task(cell).get("grade_id", "cell"), "exec"), space)
        except Exception as error:
            if task(cell).get("grade"):
                lost[task(cell)["grade_id"]] = reason(type(error).__name__, str(error))
            elif strict:
                raise
        plt.close("all")


@cache
def solution(name: str) -> Run:
    return Run(name)


@pytest.mark.parametrize("name", NAMES)
def test_solutions_get_all_points(name: str) -> None:
    assert solution(name).lost == {}


@pytest.mark.parametrize("name", NAMES)
def test_solutions_get_all_points_whatever_the_student_is_called(name: str) -> None:
    for student in ("李雷", "t0000040"):
        assert solution(name).lost_with({"student": f"STUDENT = {student!r}"}) == {}, student


@pytest.mark.parametrize("name", NAMES)
def test_the_untouched_release_gets_none(name: str) -> None:
    assert set(Run(name, solved=False).lost) == {task.name for task in assembly.tasks(source(name)) if not task.by_hand}


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
    found = solution(name).lost_with({cell: code})
    assert set(found) == set(said), found
    assert all(words in found[test] for test, words in said.items()), found


@pytest.mark.parametrize("name", NAMES)
def test_there_are_six_typical_mistakes_at_least(name: str) -> None:
    assert len(mistakes(name)) >= 6 and all(said for _, _, said in mistakes(name))

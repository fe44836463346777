"""What students handed in, which assignment it belongs to, and the points it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xai_lib.course import assembly
from xai_lib.course.assembly import CourseError
from xai_lib.errors import nearest


@dataclass
class Submission:
    """One student's notebook of one assignment, or that it is missing."""

    student: str
    assignment: str
    source: Path
    path: Path | None
    result: dict[str, Any] = field(default_factory=dict)


def assignments(folder: Path) -> dict[str, Path]:
    """The teacher's notebooks below a folder, `NAME/*.ipynb`, by the folder's name."""
    found = {path.parent.name: path for path in sorted(folder.glob("*/*.ipynb"))}
    if not found:
        raise CourseError(f"{folder} holds no assignment; expected NAME/NAME.ipynb in it")
    return found


def submissions(folder: Path, known: dict[str, Path]) -> list[Submission]:
    """What students handed in: `STUDENT/ASSIGNMENT/*.ipynb`, as nbgrader collects it, or `STUDENT/ASSIGNMENT.ipynb`.

    Only assignments that anybody handed in are graded; who did not hand one of them in is listed with it missing.
    """
    if not folder.is_dir():
        raise CourseError(f"{folder} is no folder; give the folder of submissions, which holds a folder a student")
    students = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
    if not students:
        raise CourseError(f"{folder} holds no folder of a student")
    handed: dict[tuple[str, str], Path] = {}
    for student in students:
        for path in sorted([*student.glob("*.ipynb"), *student.glob("*/*.ipynb")]):
            name = path.parent.name if path.parent != student else path.stem
            if name in known:
                handed.setdefault((student.name, name), path)
            elif ".ipynb_checkpoints" not in path.parts:
                raise CourseError(f"{path} belongs to no assignment called {name!r}; {nearest(name, list(known))}")
    wanted = [name for name in known if any(name == assignment for _, assignment in handed)]
    if not wanted:
        raise CourseError(f"{folder} holds no notebook of any assignment; expected STUDENT/ASSIGNMENT/*.ipynb")
    return [Submission(s.name, name, known[name], handed.get((s.name, name))) for name in wanted for s in students]


def summary(each: Submission) -> str:
    """Points in a line."""
    if "failed" in each.result:
        return f"not graded: {each.result['failed']}"
    if each.path is None:
        return "not handed in"
    reached, most, by_hand = points(each)
    return f"{reached:g} of {most:g} points" + (f", {by_hand:g} more by hand" if by_hand else "")


def points(each: Submission) -> tuple[float, float, float]:
    """Reached and possible points of what is graded here, and what a person may add."""
    tasks, marks = assembly.tasks(assembly.load(each.source)), each.result.get("marks", {})
    reached = sum(marks[t.name][0] or 0 for t in tasks if t.name in marks and not t.by_hand)
    return reached, sum(t.points for t in tasks if not t.by_hand), sum(t.points for t in tasks if t.by_hand)

"""A folder of submissions graded in parallel; marks and feedback are written whatever any of them does."""

from __future__ import annotations

import concurrent.futures
import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xai_lib.course import assembly, feedback
from xai_lib.course.assembly import CourseError
from xai_lib.errors import nearest
from xai_lib.runs.project import write_whole


@dataclass
class Submission:
    """One student's notebook of one assignment, or that it is missing."""

    student: str
    assignment: str
    source: Path
    path: Path | None
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manner:
    """How to grade: so many at a time, threads for each, seconds for a cell and for all."""

    jobs: int = 1
    threads: int = 1
    cell: int = 60
    whole: int = 600


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


def grade(folder: Path, source: Path, out: Path, manner: Manner, say: Callable[[str], Any] = print) -> list[Submission]:
    """Grade all, write `marks.csv`, `totals.csv` and a page a student into `out`. What was graded and is unchanged stays."""
    many = submissions(folder, assignments(source))
    out.mkdir(parents=True, exist_ok=True)
    forbidden = [str(source.resolve()), str(folder.resolve()), str(out.resolve())]
    with concurrent.futures.ThreadPoolExecutor(manner.jobs) as pool:
        waiting = {pool.submit(_one, each, out, manner, forbidden): each for each in many}
        for done in concurrent.futures.as_completed(waiting):
            each = waiting[done]
            each.result = done.result()
            say(f"{each.student}  {each.assignment}  {summary(each)}")
    write_tables(many, out)
    feedback.write(many, out)
    return many


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


def _one(each: Submission, out: Path, manner: Manner, forbidden: list[str]) -> dict[str, Any]:
    """Grade one in a process of its own, which is ended if it does not end by itself."""
    if each.path is None:
        by_hand = {t.name: t.by_hand for t in assembly.tasks(assembly.load(each.source))}
        return {"marks": {name: [None if hand else 0.0, "not handed in"] for name, hand in by_hand.items()}, "remarks": []}
    place = out / ".graded" / each.student / f"{each.assignment}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(each.source.read_bytes() + each.path.read_bytes() + repr(manner).encode()).hexdigest()
    if (kept := _kept(place, key)) is not None:
        return kept
    place.unlink(missing_ok=True)
    job = {
        "source": str(each.source), "submission": str(each.path), "out": str(place), "threads": manner.threads,
        "cell": manner.cell, "whole": manner.whole, "forbidden": forbidden,
    }  # fmt: skip
    plan = place.with_suffix(".job")
    write_whole(plan, json.dumps(job))
    command = [sys.executable, "-m", "xai_lib.course.worker", str(plan)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * manner.whole + 300, env=dict(os.environ))
        words = done.stderr
    except subprocess.TimeoutExpired:
        words = "the grader itself took too long"
    plan.unlink(missing_ok=True)
    if not place.is_file():
        return {"failed": words.strip().splitlines()[-1] if words.strip() else "the grader ended without a word"}
    result: dict[str, Any] = json.loads(place.read_text(encoding="utf-8")) | {"key": key}
    write_whole(place, json.dumps(result, ensure_ascii=False, indent=1))
    return result


def _kept(place: Path, key: str) -> dict[str, Any] | None:
    if not place.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if found.get("key") == key and "failed" not in found else None


def write_tables(many: list[Submission], out: Path) -> None:
    """`marks.csv`: a row a student and task. `totals.csv`: a row a student and assignment."""
    with (out / "marks.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["student", "assignment", "task", "points", "of", "feedback"])
        for each in many:
            for task in assembly.tasks(assembly.load(each.source)):
                mark, words = each.result.get("marks", {}).get(task.name, [None, each.result.get("failed", "not graded")])
                table.writerow([each.student, each.assignment, task.name, "" if mark is None else mark, task.points, words])
    with (out / "totals.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["student", "assignment", "points", "of", "by_hand", "remarks"])
        for each in many:
            remarks = "; ".join(each.result.get("remarks", [])) or each.result.get("failed", "")
            table.writerow([each.student, each.assignment, *points(each), remarks])

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xai_lib.course import assembly, feedback
from xai_lib.course.submissions import Submission, assignments, points, submissions, summary
from xai_lib.runs.project import write_whole


@dataclass(frozen=True)
class Manner:
    """How to grade: so many at a time, threads for each, seconds for a cell and for all."""

    jobs: int = 1
    threads: int = 1
    cell: int = 60
    whole: int = 600


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

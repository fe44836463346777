"""`xai grade`: a folder of submitted assignments graded in parallel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from xai_lib.runs import project as projects
from xai_lib.runs.command import app

EXIT_CODES = "Exit codes: 0 all graded, whatever their marks; 1 the grader failed on one (the others are graded); 2 usage."
HELP = f"""Grade submitted assignments: a CSV of marks for every task and a page of feedback for every student.

FOLDER holds STUDENT/ASSIGNMENT/*.ipynb, as nbgrader collects it, or STUDENT/ASSIGNMENT.ipynb. Answers are put into the
teacher's notebook, so that tests which were changed or deleted are run as they were. A cell that does not end, ends the
kernel or prints without end costs its task; what works is marked. Submissions run without network and away from the solutions.

\b
Examples:
  xai grade submitted                        writes submitted-graded/marks.csv, totals.csv, feedback/STUDENT.html
  xai grade submitted --jobs 4 --out marks
  xai grade submitted --assignments my/course

{EXIT_CODES}"""


@app.command("grade", help=HELP, short_help="Grade submitted assignments.")
def grade_folder(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Submissions, a folder a student.", show_default=False)],
    assignments: Annotated[
        Path | None, typer.Option(metavar="FOLDER", show_default="notebooks/assignments", help="The teacher's versions.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", show_default="FOLDER-graded", help="Where marks go.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, show_default="cores", help="Submissions at a time.")] = None,
    timeout: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Limit for each cell.")] = 60,
    limit: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Limit for each submission.")] = 600,
) -> None:
    from xai_lib.course import grading

    source = assignments or projects.find(context.obj).root / "notebooks" / "assignments"
    target = out or folder.with_name(folder.resolve().name + "-graded")
    cores = os.cpu_count() or 1
    at_once = jobs or cores
    manner = grading.Manner(at_once, max(1, cores // at_once), timeout, limit)
    many = grading.grade(folder, source, target, manner, typer.echo)
    typer.echo(f"marks: {target / 'marks.csv'}; feedback: {target / 'feedback'}")
    if any("failed" in each.result for each in many):
        raise typer.Exit(1)

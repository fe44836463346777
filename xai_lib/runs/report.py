"""One page over the results of a profile: what each paper claims, what we measured, whether it holds."""

import csv
import itertools
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from xai_lib.errors import XaiError
from xai_lib.runs import freshness, notebook
from xai_lib.runs.batch import Standing, survey
from xai_lib.runs.freshness import State
from xai_lib.runs.page import STYLE, TEMPLATE
from xai_lib.runs.progress import clock
from xai_lib.runs.project import Project, profile_parameters, write_whole
from xai_lib.runs.results import VERDICTS

ROWS = 40
"""Rows of a table that the page shows; the link leads to all."""
LOG_LINES = 25
"""Lines of a failed run's log that the page shows."""
_TONES = {
    "complete": "good",
    "failed": "bad",
    "damaged": "bad",
    "stale": "warn",
    "running": "warn",
    "never run": "warn",
}


def write(project: Project, profile: str) -> Path:
    """Write `papermill_runs/<profile>/index.html` over all notebooks, run or not; returns its path."""
    from jinja2 import Environment

    profile_parameters(project, profile)  # an unknown profile is an error, not an empty page
    engine = Environment(autoescape=True)
    engine.filters |= {
        "clock": clock,
        "path": quote,
        "pretty": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
    }
    page = engine.from_string(TEMPLATE).render(
        style=STYLE,
        profile=profile,
        made=time.strftime("%Y-%m-%d %H:%M"),
        tones=_TONES,
        verdicts=VERDICTS,
        claim_tones={True: "good", False: "bad", None: "warn"},
        entries=[_entry(project, profile, name) for name in project.names()],
        cards=[_card(path) for path in project.cards()],
    )
    path = project.runs / profile / "index.html"
    write_whole(path, page)
    return path


def _standing(project: Project, profile: str, name: str) -> tuple[Standing, dict[str, Any]]:
    """A notebook's standing and content; one that cannot be run takes nothing from the others."""
    try:
        return survey(project, profile, [name], [])[0], notebook.load(project.notebook(name))
    except XaiError as error:
        return Standing(name, {}, "", State("failed", str(error))), {"cells": []}


def _entry(project: Project, profile: str, name: str) -> dict[str, Any]:
    """What the page says of one notebook; a damaged result shows what can still be read of it."""
    standing, content = _standing(project, profile, name)
    folder, failed = project.result(profile, name), project.failed(profile, name)
    record = freshness.read_record(folder)
    tables = record["results"]["tables"] if record else []
    return {
        "name": name,
        "title": notebook.title(content, name),
        "paper": notebook.reference(content),
        "state": standing.state,
        "record": record,
        "html": f"{name}/{name}.html" if (folder / f"{name}.html").exists() else "",
        "ipynb": f"{name}/{name}.ipynb" if (folder / f"{name}.ipynb").exists() else "",
        "error": freshness.read_failure(project, profile, name) or ("" if content["cells"] else standing.state.detail),
        "log": f".failed/{name}/log.txt" if (failed / "log.txt").exists() else "",
        "log_end": _end(failed / "log.txt"),
        "failed_notebook": f".failed/{name}/{name}.ipynb" if (failed / f"{name}.ipynb").exists() else "",
        "tables": [{**table, "head": _head(folder / table["file"])} for table in tables],
    }


def _card(path: Path) -> tuple[str, list[tuple[str, list[list[str]]]]]:
    """A method's card: its title, and its sections with the rows of their tables."""
    title, *parts = path.read_text(encoding="utf-8").partition("# ")[2].split("\n## ")
    sections = []
    for part in parts:
        head, *lines = part.strip().split("\n")
        rows = [line.strip("| ").split(" | ", 1) for line in lines if line.startswith("| ") and line.strip("| ")]
        sections.append((head, rows))
    return f"{path.stem}: {title.splitlines()[0]}", sections


def _end(log: Path) -> str:
    """The last lines of a log, which may be long."""
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LOG_LINES:])


def _head(path: Path) -> list[list[str]]:
    """The header and the first rows of a table, numbers shortened to four digits."""
    if not path.is_file():
        return [["this file is missing"]]
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(itertools.islice(csv.reader(stream), ROWS + 1))
    return [rows[0], *([_short(cell) for cell in row] for row in rows[1:])] if rows else [[]]


def _short(cell: str) -> str:
    try:
        return cell if cell.lstrip("-").isdigit() else f"{float(cell):.4g}"
    except ValueError:
        return cell

"""A page of feedback for each student: points by task, why one was lost, and what was put right."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment

from xai_lib.course import assembly
from xai_lib.course.submissions import Submission, summary
from xai_lib.runs.page import STYLE
from xai_lib.runs.project import write_whole

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ student }}: feedback</title><style>{{ style|safe }}</style></head><body>
<header><h1>{{ student }}</h1></header><main>
{% for one in assignments %}<section><h2>{{ one.name }}</h2><p class="soft">{{ one.said }}</p>
{% for remark in one.remarks %}<p class="error">{{ remark }}</p>{% endfor %}
<div class="wide"><table><tr><th>Task</th><th>Points</th><th>Feedback</th></tr>
{% for task in one.tasks %}<tr><td>{{ task.name }}</td><td>{{ task.mark }}</td>
<td class="{{ task.tone }}">{{ task.words }}</td></tr>
{% endfor %}</table></div></section>
{% endfor %}</main></body></html>
"""


def write(many: list[Submission], out: Path) -> list[Path]:
    """`feedback/STUDENT.html` for each; returns the files."""
    template = Environment(autoescape=True).from_string(PAGE)
    files = []
    for student in dict.fromkeys(each.student for each in many):
        shown = []
        for each in (one for one in many if one.student == student):
            rows = []
            for task in assembly.tasks(assembly.load(each.source)):
                mark, words = each.result.get("marks", {}).get(task.name, [None, "not graded"])
                tone = "" if mark is None else "good" if mark == task.points else "bad"
                said = f"– of {task.points:g}" if mark is None else f"{mark:g} of {task.points:g}"
                rows.append({"name": task.name, "mark": said, "words": words or "right", "tone": tone})
            remarks = each.result.get("remarks", [])
            shown.append({"name": each.assignment, "said": summary(each), "remarks": remarks, "tasks": rows})
        file = out / "feedback" / f"{student}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, template.render(student=student, style=STYLE, assignments=shown))
        files.append(file)
    return files

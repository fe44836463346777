"""The release versions that nbgrader makes by the project's own configuration: nothing of the teacher's survives."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xai_lib.course import assembly

FOLDER = Path(__file__).parents[2] / "notebooks" / "assignments"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/*.ipynb"))
SECRET = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS|MARK SCHEME)\n(.*?)### END \1", re.DOTALL)


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source and its release, in a project of its own."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(FOLDER, root / "notebooks" / "assignments")
    (root / "course").mkdir()
    name: str = request.param
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", name, "--create", "--log-level=WARN"]
    done = subprocess.run(command, cwd=root / "notebooks" / "assignments", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return FOLDER / name / f"{name}.ipynb", root / "course" / "release" / name / f"{name}.ipynb"


def test_no_line_of_a_solution_hidden_test_or_mark_scheme_survives(pair: tuple[Path, Path]) -> None:
    source, release = (assembly.load(path) for path in pair)
    whole = "\n".join(cell.source for cell in source.cells)
    kept = {line.strip() for line in SECRET.sub("", whole).splitlines()}
    secret = {line.strip() for found in SECRET.finditer(whole) for line in found[2].splitlines()} - kept - {""}
    assert len(secret) > 30
    handed = {line.strip() for cell in release.cells for line in cell.source.splitlines()}
    assert not secret & handed
    assert "### BEGIN" not in pair[1].read_text() and "### END" not in pair[1].read_text()


def test_what_students_may_see_is_what_grading_takes_for_unchanged(pair: tuple[Path, Path]) -> None:
    source, release = (assembly.load(path) for path in pair)
    assert [c.metadata.get("nbgrader", {}).get("grade_id") for c in release.cells] == [
        c.metadata.get("nbgrader", {}).get("grade_id") for c in source.cells
    ]
    assert not any("changed" in remark or "missing" in remark for remark in assembly.assemble(source, release).remarks)
    graded = [task for task in assembly.tasks(source) if not task.by_hand]
    assert {task.name for task in graded} <= {c.metadata.get("nbgrader", {}).get("grade_id") for c in release.cells}
    assert any("raise NotImplementedError" in cell.source for cell in release.cells)

"""The release versions that nbgrader makes: nothing of the teacher's survives, and grading takes them for unchanged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.course import releases
from xai_lib.course import assembly

SECRET = re.compile(r"(?:###|===) BEGIN (SOLUTION|HIDDEN TESTS|MARK SCHEME)[ =]*\n(.*?)(?:###|===) END \1", re.DOTALL)


@pytest.fixture(scope="module", params=releases.NAMES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source and its release."""
    pytest.importorskip("nbgrader", reason="nbgrader (the extra `course`) is not installed")
    name: str = request.param
    return releases.FOLDER / name / f"{name}.ipynb", releases.made(name, tmp_path_factory.mktemp("project"))


def test_no_line_of_a_solution_hidden_test_or_mark_scheme_survives(pair: tuple[Path, Path]) -> None:
    source, release = (assembly.load(path) for path in pair)
    whole = "\n".join(cell.source for cell in source.cells)
    kept = {line.strip() for line in SECRET.sub("", whole).splitlines()}
    secret = {line.strip() for found in SECRET.finditer(whole) for line in found[2].splitlines()} - kept - {""}
    assert len(secret) > 30
    handed = {line.strip() for cell in release.cells for line in cell.source.splitlines()}
    assert not secret & handed
    assert {found[1] for found in SECRET.finditer(whole)} == {"SOLUTION", "HIDDEN TESTS", "MARK SCHEME"}
    assert not re.search("(###|===) (BEGIN|END)", pair[1].read_text())


def test_what_students_may_see_is_what_grading_takes_for_unchanged(pair: tuple[Path, Path]) -> None:
    source, release = (assembly.load(path) for path in pair)
    told = [[c.metadata.get("nbgrader", {}).get("grade_id") for c in each.cells] for each in (source, release)]
    assert told[0] == told[1]
    assert assembly.assemble(source, release).remarks == []
    assert any("raise NotImplementedError" in cell.source for cell in release.cells)


def test_every_text_task_keeps_its_question_and_has_a_mark_scheme_for_the_teacher(pair: tuple[Path, Path]) -> None:
    source, release = (assembly.load(path) for path in pair)
    guide = (releases.FOLDER / "README.md").read_text(encoding="utf-8")
    texts = [i for i, cell in enumerate(source.cells) if cell.cell_type == "markdown" and cell.metadata["nbgrader"]["solution"]]
    assert len(texts) >= 2
    for i in texts:
        question = source.cells[i - 1]
        assert question.metadata["nbgrader"]["locked"] and "?" in question.source
        assert release.cells[i - 1].source == question.source
        assert release.cells[i].source == "YOUR ANSWER HERE"
        (scheme,) = SECRET.findall(source.cells[i].source)
        assert scheme[1].strip() in guide

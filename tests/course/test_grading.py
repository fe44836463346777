"""Submissions of every kind: what works is marked, what does not is said, and no batch is lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from tests.course import toy
from xai_lib.command import main
from xai_lib.course import assembly, grading, submissions
from xai_lib.course.assembly import CourseError

LONG = "import sys\nfor _ in range(1100):\n    sys.stdout.write('x' * 100_000)\ndef square(x):\n    return x * x"
READS = "def square(x):\n    return len(open(SOURCE).read())\nSOURCE = {!r}"
CASES = {
    "ada": (toy.answered(), {"test-double": (2, ""), "test-square": (3, "")}),
    "untouched": (toy.released(), {"test-double": (0, "not answered yet"), "test-square": (0, "not answered yet")}),
    "half": (
        toy.answered({"double": "def double(x):\n    return 4"}),
        {"test-double": (0, "double: works for 2 alone"), "test-square": (3, "")},
    ),
    "loop": (
        toy.answered({"double": "def double(x):\n    while True:\n        pass"}),
        {"test-double": (0, "took longer than 4 s and was stopped"), "test-square": (3, "")},
    ),
    "dead": (
        toy.answered({"double": "import os\ndef double(x):\n    os._exit(3)"}),
        {"test-double": (0, "the kernel died (out of memory, or the cell ended it)"), "test-square": (3, "")},
    ),
    "leaver": (
        toy.answered({"double": "import sys\ndef double(x):\n    sys.exit(0)"}),
        {"test-double": (0, "the cell left the notebook with sys.exit"), "test-square": (3, "")},
    ),
    "typo": (
        toy.answered({"square": "def sqare(x):\n    return x * x"}),
        {"test-double": (2, ""), "test-square": (0, "NameError: name 'square' is not defined")},
    ),
    "printer": (toy.answered({"square": LONG}), {"test-double": (2, ""), "test-square": (3, "")}),
    "network": (
        toy.answered({"square": "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)"}),
        {"test-double": (2, ""), "test-square": (0, "NameError: name 'square' is not defined")},
    ),
}
REMARKS = {
    "ada": "", "printer": "", "half": "", "untouched": "", "network": "tried: looking up 192.0.2.1",
    "deleted": "the cell test-double was deleted; it was put back",
    "edited": "the cell test-double was changed; the original was run",
    "reader": "tried: reading ", "broken": "toy.ipynb cannot be read as a notebook",
}  # fmt: skip


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them graded by the command, two at a time; the folder of marks."""
    root = tmp_path_factory.mktemp("course")
    path = root / "source" / "toy" / "toy.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(toy.source(), path)
    for student, (notebook, _) in CASES.items():
        toy.hand_in(root / "submitted", student, notebook)
    wrong = {"double": "def double(x):\n    return 4"}
    toy.hand_in(root / "submitted", "deleted", toy.without(toy.answered(wrong), "test-double"))
    edited = toy.answered(wrong)
    edited.cells[3].source = "assert True"
    edited.cells.insert(4, v4.new_code_cell("helper = 1"))
    toy.hand_in(root / "submitted", "edited", edited)
    toy.hand_in(root / "submitted", "reader", toy.answered({"square": READS.format(str(path))}))
    (root / "submitted" / "broken" / "toy").mkdir(parents=True)
    (root / "submitted" / "broken" / "toy" / "toy.ipynb").write_text("{")
    (root / "submitted" / "absent").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["xai", "grade", str(root / "submitted"), "--assignments", str(root / "source"),
                                   "--jobs", "2", "--timeout", "4", "--out", str(root / "marks")])  # fmt: skip
        with pytest.raises(SystemExit) as left:
            main()
    assert not left.value.code
    return root / "marks"


def marks(graded: Path) -> dict[tuple[str, str], tuple[str, str]]:
    with (graded / "marks.csv").open(encoding="utf-8") as file:
        return {(row["student"], row["task"]): (row["points"], row["feedback"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("student", list(CASES))
def test_what_works_is_marked_and_what_does_not_is_said(graded: Path, student: str) -> None:
    found = marks(graded)
    for task, (points, words) in CASES[student][1].items():
        mark, said = found[student, task]
        assert (float(mark), said) == (points, words)


def test_tests_that_were_deleted_or_changed_are_run_as_they_were(graded: Path) -> None:
    found = marks(graded)
    for student in ("deleted", "edited"):
        assert found[student, "test-double"] == ("0.0", "double: works for 2 alone")
        assert found[student, "test-square"][0] == "3.0"
    assert found["reader", "test-square"][0] == "0.0" and "is not allowed" in found["reader", "test-square"][1]


def test_texts_are_left_to_a_person(graded: Path) -> None:
    found = marks(graded)
    assert found["ada", "why"] == ("", "for a person to grade") and found["untouched", "why"] == ("", "not answered")


def test_who_handed_in_nothing_or_rubbish_is_listed_with_no_points(graded: Path) -> None:
    found = marks(graded)
    assert found["absent", "test-double"] == ("0.0", "not handed in")
    assert found["broken", "test-square"] == ("0.0", "the notebook cannot be read")


def test_totals_and_remarks(graded: Path) -> None:
    with (graded / "totals.csv").open(encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert (rows["ada"]["points"], rows["ada"]["of"], rows["ada"]["by_hand"]) == ("5.0", "5.0", "4.0")
    for student, remark in REMARKS.items():
        said = rows[student]["remarks"]
        assert remark in said if remark else not said, student


def test_a_page_a_student_shows_no_hidden_test(graded: Path) -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (graded / "feedback").iterdir()}
    assert set(pages) == {*CASES, "deleted", "edited", "reader", "broken", "absent"}
    assert "2 of 2" in pages["ada"] and "double: works for 2 alone" in pages["half"]
    executed = (graded / ".graded" / "half" / "toy.ipynb").read_text(encoding="utf-8")
    assert "HIDDEN" not in executed and "MARK SCHEME" not in executed and "double(7)" not in executed
    assert (graded / ".graded" / "printer" / "toy.ipynb").stat().st_size < 2_000_000


def test_what_is_unchanged_is_not_graded_again(graded: Path) -> None:
    root = graded.parent
    kept = {path: path.stat().st_mtime_ns for path in (graded / ".graded").rglob("*.json")}
    nbformat.write(toy.answered(), root / "submitted" / "half" / "toy" / "toy.ipynb")
    said: list[str] = []
    grading.grade(root / "submitted", root / "source", graded, grading.Manner(2, 1, 4, 600), said.append)
    changed = [path.parent.name for path, at in kept.items() if path.stat().st_mtime_ns != at]
    assert len(said) == 14 and set(changed) <= {"half"} and "half  toy  5 of 5 points, 4 more by hand" in said


def test_a_kernel_that_is_lost_again_and_again_ends_the_submission_not_the_batch() -> None:
    cells = [toy.cell("code", f"t{i}", "import os; os._exit(1)", grade=True, points=1) for i in range(2)]
    made = assembly.assemble(v4.new_notebook(cells=cells), v4.new_notebook())
    assert [cell.source for cell in made.notebook.cells] == ["import os; os._exit(1)"] * 2 and len(made.remarks) == 2


def test_students_own_cells_stay_where_they_were() -> None:
    submission = toy.answered()
    submission.cells.insert(0, v4.new_code_cell("first = 1"))
    submission.cells.insert(4, v4.new_code_cell("helper = 2"))
    submission.cells.append(submission.cells[3].copy())
    made = assembly.assemble(toy.source(), submission)
    sources = [cell.source for cell in made.notebook.cells]
    assert sources[0] == "first = 1" and sources.index("helper = 2") == sources.index("def double(x):\n    return x + x") + 1
    assert made.remarks == ["the cell double occurs twice; the first was taken"]


def test_folders_that_cannot_be_graded_are_explained(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="holds no assignment"):
        submissions.assignments(tmp_path)
    known = {"toy": tmp_path / "toy.ipynb"}
    with pytest.raises(CourseError, match="is no folder"):
        submissions.submissions(tmp_path / "none", known)
    with pytest.raises(CourseError, match="holds no folder of a student"):
        submissions.submissions(tmp_path, known)
    (tmp_path / "ada").mkdir()
    with pytest.raises(CourseError, match="holds no notebook of any assignment"):
        submissions.submissions(tmp_path, known)
    (tmp_path / "ada" / "tyo.ipynb").write_text(json.dumps({}))
    with pytest.raises(CourseError, match=r"tyo.ipynb belongs to no assignment called 'tyo'; nearest: toy"):
        submissions.submissions(tmp_path, known)

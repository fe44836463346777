"""`xai report --check`: what counts as moved, and what cannot be compared."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xai_lib.runs import comparison, folders
from xai_lib.runs.comparison import Comparison, DamagedReferenceError, Tolerance
from xai_lib.runs.project import Project

from .compendium import Compendium

TABLE = [
    ["network", "method", "images", "AVX", "said", "seconds"],
    ["efficientnet_lite0", "advise", "8", "0.35", "0.355 ± 0.159 (8)", "1.5"],
    ["efficientnet_lite0", "lime", "8", "0.45", "", "20"],
    ["mobilenetv1_075", "advise", "8", "120.5", "none", ""],
]


def write(
    folder: Path, rows: list[list[str]], tolerance: Tolerance, inputs: "dict[str, str | None] | None" = None, cpu: str = "A"
) -> None:
    """A complete result with one table."""
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    with (folder / "tables" / "t.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    declared = [{"path": path, "sha256": sha} for path, sha in (inputs or {}).items()]
    table = {"name": "t", "file": "tables/t.csv", "caption": "c", "paper": "", "rows": len(rows) - 1, "tolerance": tolerance}
    content = {
        "files": folders.files(folder, ("run.json",)),
        "parameters": {"runs": 3},
        "hashes": {},
        "hardware": {"cpu": cpu[:1], "vectors": cpu[1:], "threads": 2},
        "versions": {"torch": "2.14"},
        "results": {"tables": [table], "inputs": declared, "record": {}},
    }
    (folder / "run.json").write_text(json.dumps(content))


def changed(row: int, column: int, cell: str) -> list[list[str]]:
    rows = [list(each) for each in TABLE]
    rows[row][column] = cell
    return rows


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., Comparison]:
    project = Project(tmp_path)

    def compare(
        rows: list[list[str]], tolerance: Tolerance = 0.01, then: Any = None, now: Any = None, cpu: str = "A"
    ) -> Comparison:
        write(project.runs / "reference" / "default" / "n", TABLE, tolerance, then)
        write(project.result("default", "n"), rows, 1e9, now, cpu)
        found = comparison.compare(project, "default", "n")
        assert found
        return found

    return compare


@pytest.mark.parametrize(
    ("row", "column", "cell", "moved"),
    [
        (1, 3, "0.3599", None),  # within 0.01
        (1, 3, "0.3601", "t: efficientnet_lite0, advise: AVX 0.3601, 0.35 in the reference"),
        (3, 3, "121.7", None),  # within 0.01 of 120.5
        (3, 3, "121.71", "t: mobilenetv1_075, advise: AVX 121.71, 120.5 in the reference"),
        (1, 3, "", "t: efficientnet_lite0, advise: AVX empty, 0.35 in the reference"),
        (3, 3, "nan", "t: mobilenetv1_075, advise: AVX nan, 120.5 in the reference"),
        (1, 4, "0.364 ± 0.151 (8)", None),  # numbers within a text
        (1, 4, "0.355 ± 0.159 (9)", "t: efficientnet_lite0, advise: said 0.355 ± 0.159 (9), 0.355 ± 0.159 (8) in the reference"),
        (3, 4, "some", "t: mobilenetv1_075, advise: said some, none in the reference"),
        (2, 5, "400", None),  # a time
        (2, 1, "shap", "t: the row 'efficientnet_lite0, lime' is missing"),
        (0, 3, "FSIM", "t: columns network, method, images, FSIM, said, seconds, in the reference network, method"),
    ],
)
def test_what_moved(compared: Callable[..., Comparison], row: int, column: int, cell: str, moved: str | None) -> None:
    found = compared(changed(row, column, cell))
    assert [text[: len(moved or "")] for text in found.moved[:1]] == ([moved] if moved else [])
    if not moved:
        assert (found.held, found.left_out) == (15, 3)


@pytest.mark.parametrize(
    ("tolerance", "moved"),
    [(0.2, 0), (0.001, 1), ({"A*": 0.2}, 0), ({"A*": None}, 0), ({"B*": None}, 1), ({"*": 0.2, "AVX": 0.0}, 0)],
)
def test_the_tolerance_is_the_reference_s(compared: Callable[..., Comparison], tolerance: Tolerance, moved: int) -> None:
    assert len(compared(changed(1, 3, "0.45"), tolerance).moved) == moved


@pytest.mark.parametrize(("cpu", "moved", "left_out"), [("A", 1, 3), ("B", 0, 3), ("A avx2", 0, 3)])
@pytest.mark.parametrize("elsewhere", [0.2, None])
def test_elsewhere_a_search_may_end_elsewhere(
    compared: Callable[..., Comparison], cpu: str, moved: int, left_out: int, elsewhere: float | None
) -> None:
    found = compared(changed(1, 3, "0.45"), {"AVX": (1e-3, elsewhere), "*": 1e-3}, cpu=cpu)
    assert len(found.moved) == moved
    assert found.left_out == left_out + (3 if cpu != "A" and elsewhere is None else 0)


def test_what_a_missing_file_explains_is_not_compared(compared: Callable[..., Comparison]) -> None:
    rows = changed(1, 3, "")[:3]
    found = compared(rows, then={"$XAI_WEIGHTS_HOME/m.pth": "ab"}, now={"$XAI_WEIGHTS_HOME/m.pth": None})
    assert found.moved == []
    assert found.not_compared == ["what the reference made with $XAI_WEIGHTS_HOME/m.pth: not on this machine"]
    assert len(compared(rows, then={"m": "ab"}, now={"m": "ab"}).moved) == 2
    assert compared(TABLE, then={"m": "ab"}, now={"m": "cd"}).moved == ["the input m is another"]


def test_no_result_other_parameters_a_damaged_reference(compared: Callable[..., Comparison], tmp_path: Path) -> None:
    compared(TABLE)
    project = Project(tmp_path)
    path = project.result("default", "n") / "run.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "parameters": {"runs": 4}}))
    found = comparison.compare(project, "default", "n")
    assert found and found.moved == ["it was run with other parameters than the reference: runs"]
    path.unlink()
    found = comparison.compare(project, "default", "n")
    assert found and found.moved[0].startswith("the result is damaged: run.json is missing")
    assert comparison.compare(project, "default", "other") is None
    (project.runs / "reference" / "default" / "n" / "tables" / "t.csv").write_text("")
    with pytest.raises(DamagedReferenceError, match="reference/default/n: tables/t.csv is not what the run wrote"):
        comparison.compare(project, "default", "n")


def test_the_command(changeable: Compendium) -> None:
    ended = changeable.xai("report", "--check")
    assert ended.returncode == 1 and "01_complete  no reference of profile 'default'" in ended.stdout
    assert changeable.xai("publish", "01").returncode == 0
    ended = changeable.xai("report", "--check")
    assert ended.returncode == 0, ended.stdout
    assert "01_complete  holds: 40 values agree with the reference, 0 not compared (times)\n" in ended.stdout
    table = changeable.path("default", "01_complete", "tables", "table-1.csv")
    before = table.read_bytes()
    table.write_bytes(before.replace(b"0.14285714285714285", b"0.15"))
    ended = changeable.xai("report", "--check", "01")
    assert ended.returncode == 1 and "the result is damaged: tables/table-1.csv is not what the run wrote" in ended.stdout
    table.write_bytes(before)
    notebook = changeable.root / "notebooks" / "01_complete.ipynb"
    notebook.write_text(notebook.read_text().replace("i / 7 for", "i / 7.1 for"))
    assert changeable.xai("run", "01").returncode == 0
    ended = changeable.xai("report", "--check", "01")
    assert ended.returncode == 1
    assert "01_complete  19 moved: 21 values agree with the reference" in ended.stdout
    assert "    table-1: row 2: x<y 0.14084507042253522, 0.14285714285714285 in the reference\n" in ended.stdout

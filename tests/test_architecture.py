"""What keeps the package as its layout says: directions of imports, cheap imports, small files, clean notebooks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "xai_lib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LINES, CELL_LINES = 450, 25
VAGUE = {"utils", "util", "helpers", "common", "core", "misc"}

OFFLINE = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise AssertionError(f"{event} {arguments} at import")
sys.addaudithook(refuse)
"""
EVERY_MODULE = """
import importlib, random
import numpy, torch
before = random.getstate(), numpy.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()
for name in {names!r}:
    importlib.import_module(name)
after = random.getstate(), numpy.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()
assert before == after, "random numbers were drawn at import"
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def lint_imports(folder: Path) -> tuple[int, str]:
    code = "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports(no_cache=True, no_logo=True))"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {code}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_imports_go_one_way() -> None:
    code, said = lint_imports(ROOT)
    assert code == 0, said
    assert "3 kept, 0 broken" in said


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("images/__init__.py", "import xai_lib.explanation", "The science is layered"),
        ("plots/__init__.py", "import xai_lib.explanation", "The science is layered"),
        ("metrics.py", "import xai_lib.framework", "The science is layered"),
        ("stray.py", "", "The science is layered"),
        ("runs/lock.py", "from xai_lib.images import View", "Headless execution knows nothing of the science"),
        ("superpixels.py", "import xai_lib.runs", "The science knows nothing of headless execution"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, module: str, line: str, broken: str) -> None:
    shutil.copytree(ROOT / "xai_lib", tmp_path / "xai_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "xai_lib" / "framework.py").touch()
    with (tmp_path / "xai_lib" / module).open("a") as file:
        file.write(f"\n{line}\n")
    code, said = lint_imports(tmp_path)
    assert code != 0
    assert f"{broken} BROKEN" in said, said


def test_the_package_is_cheap_to_import() -> None:
    done = python(OFFLINE + "import xai_lib, xai_lib.runs\nassert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_no_import_takes_the_network_or_draws_random_numbers() -> None:
    names = [str(file.relative_to(ROOT).with_suffix("")).replace("/", ".") for file in MODULES]
    done = python(OFFLINE + EVERY_MODULE.format(names=[name.removesuffix(".__init__") for name in names]))
    assert done.returncode == 0, done.stderr


def test_modules_have_telling_names_and_one_page_of_thought() -> None:
    assert len(MODULES) > 20
    assert [str(file) for file in MODULES if {file.stem, file.parent.name} & VAGUE] == []
    lengths = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8").count("\n") for file in MODULES}
    assert {name: length for name, length in lengths.items() if length >= LINES} == {}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_clean(file: Path) -> None:
    cells = [cell for cell in nbformat.read(file, 4).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells), "clear all outputs"
    too_long = {i: cell.source.count("\n") + 1 for i, cell in enumerate(cells)}
    assert {i: lines for i, lines in too_long.items() if lines > CELL_LINES} == {}
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


def test_nothing_names_a_place_of_one_machine() -> None:
    """No absolute path of somebody's home in what is committed as text."""
    suffixes = {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".cff", ".csv"}
    folders = [ROOT / name for name in ("xai_lib", "notebooks", "benchmarks", "data", "papermill_runs/reference")]
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in suffixes]
    files += [ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "environment.yml")]
    place = re.compile(r"(?<![\w.])/(home|root|Users|work)/\w")
    assert [str(file) for file in files if place.search(file.read_text(encoding="utf-8"))] == []

"""What is complete is skipped; what changed is told and run again; content decides, not time."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from xai_lib.runs.folders import heal

from .compendium import COMPLETE, Compendium


def touch(here: Compendium) -> None:
    for path in here.root.parent.rglob("*"):
        if path.is_file():
            os.utime(path, (4e9, 4e9))


def add_outputs(here: Compendium) -> None:
    path = here.root / "notebooks" / "01_complete.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells[2].update(execution_count=7, outputs=[nbformat.v4.new_output("stream", text="x")])
    book.metadata["language_info"] = {"name": "python"}
    nbformat.write(book, path)


def edit_notebook(here: Compendium) -> None:
    here.write("01_complete", *COMPLETE, "One more sentence.")


def edit_package(here: Compendium) -> None:
    (here.package / "xai_lib" / "science.py").write_text("x = 1\n")


def edit_profile(here: Compendium) -> None:
    here.path("profiles", "default.yaml").write_text("01_complete:\n    runs: 4\n")


def edit_input(here: Compendium) -> None:
    (here.root / "data" / "photograph.bin").write_bytes(b"other pixels")


def add_input(here: Compendium) -> None:
    (here.root / "weights").mkdir()
    (here.root / "weights" / "absent.pth").write_bytes(b"weights")


def truncate_notebook(here: Compendium) -> None:
    path = here.path("default", "01_complete", "01_complete.ipynb")
    path.write_bytes(path.read_bytes()[:100])


def remove_figure(here: Compendium) -> None:
    here.path("default", "01_complete", "figures", "figure-3.png").unlink()


def halve_record(here: Compendium) -> None:
    path = here.path("default", "01_complete", "run.json")
    path.write_bytes(path.read_bytes()[:200])


def remove_result(here: Compendium) -> None:
    shutil.rmtree(here.path("default", "01_complete"))


def nothing(here: Compendium) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (nothing, "complete: 2"),
        (touch, "complete: 2"),
        (add_outputs, "complete: 2"),
        (edit_notebook, "stale: notebook changed\n"),
        (edit_package, "stale: package changed\n"),
        (edit_profile, "stale: parameters (runs) changed\n"),
        (edit_input, "stale: inputs (data/photograph.bin) changed\n"),
        (add_input, "stale: inputs ($XAI_WEIGHTS_HOME/absent.pth) changed\n"),
        (truncate_notebook, "damaged: 01_complete.ipynb is not what the run wrote\n"),
        (remove_figure, "damaged: figures/figure-3.png is missing\n"),
        (halve_record, "damaged: run.json is missing or unreadable\n"),
        (remove_result, "never run\n"),
    ],
)
def test_status(changeable: Compendium, change: Callable[[Compendium], None], state: str) -> None:
    change(changeable)
    shown = changeable.xai("status", "01").stdout
    assert shown.startswith(f"default  01_complete  {state}")


def test_status_names_every_notebook(changeable: Compendium) -> None:
    lines = changeable.xai("status").stdout.splitlines()
    assert [line.split("  ")[1:] for line in lines][1:3] == [
        [
            "02_broken",
            'failed: 02_broken: cell 3 of 4 under "Where it breaks": ZeroDivisionError: division by zero',
        ],
        [
            "03_left",
            'failed: 03_left: cell 2 of 4 under "Left": cell 2 left the notebook, 2 cells did not run',
        ],
    ]


def test_a_complete_result_is_skipped_and_any_change_runs_it_again(changeable: Compendium) -> None:
    path = changeable.path("default", "01_complete", "run.json")
    touch(changeable)
    before = path.read_bytes()
    ended = changeable.xai("run", "01")
    assert ended.returncode == 0 and path.read_bytes() == before
    assert ended.stdout.startswith(f"01_complete: complete, skipped ({json.loads(before)['finished']})\n")

    for change in (edit_notebook, edit_package, edit_input, add_input, remove_figure):
        change(changeable)
    ended = changeable.xai("run", "01", "-p", "runs=9")
    assert ended.returncode == 0, ended.stderr
    after, earlier = json.loads(path.read_bytes()), json.loads(before)
    assert after["parameters"] == {"runs": 9, "seed": 0}
    for part in ("notebook", "package", "key"):
        assert after["hashes"][part] != earlier["hashes"][part]
    assert all(entry["sha256"] for entry in after["results"]["inputs"])
    assert changeable.xai("status", "01", "-p", "runs=9").stdout.startswith("default  01_complete  complete")
    assert changeable.xai("status", "01").stdout.endswith("stale: parameters (runs) changed\n")


def test_a_crash_between_the_two_renames_is_healed(tmp_path: Path) -> None:
    for name in (".01_a.old-7-100", ".01_a.run-7-101", "02_b", ".02_b.old-7-100", ".failed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    heal(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".failed", "01_a", "02_b"]
    assert (tmp_path / "01_a" / ".01_a.old-7-100").exists()
    assert (tmp_path / "02_b" / "02_b").exists()

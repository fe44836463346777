"""The progress line of a notebook, on a terminal and in a file."""

import io
import json
import re
import time
from pathlib import Path

import pytest

from xai_lib.runs import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def say(folder: Path, name: str, **said: object) -> None:
    (folder / f"{name}.progress").write_text(json.dumps({"began": time.time() - 65, "pid": 1, **said}))


def test_on_a_terminal_each_notebook_has_one_line_that_is_redrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    shown = progress.Progress(["01_a", "02_longer"], tmp_path, stream)
    shown.show()
    assert stream.getvalue() == "\x1b[2K01_a       waiting\n\x1b[2K02_longer  waiting\n"
    stream.truncate(0)
    stream.seek(0)
    say(tmp_path, "01_a", state="running", cell=3, cells=12, heading="A heading that is far too long for this")
    say(tmp_path, "02_longer", state="complete", seconds=3725)
    shown.show()
    first, second = stream.getvalue().splitlines()
    assert first.startswith("\x1b[2A\x1b[2K01_a       cell 3 of 12, 1:05, A head") and len(first) == 39 + 8
    assert second == "\x1b[2K02_longer  complete in 1:02:05"


def test_in_a_file_there_is_a_line_at_each_change_and_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.Progress(["01_a"], tmp_path, stream)
    shown.show()
    say(tmp_path, "01_a", state="running", cell=0, cells=0, heading="starting the kernel")
    shown.show()
    assert stream.getvalue() == ""
    for cell, seconds in ((1, 0), (2, 10), (3, 10), (4, 15), (5, 1)):
        now[0] += seconds
        say(tmp_path, "01_a", state="running", cell=cell, cells=9, heading="Part")
        shown.show()
    (tmp_path / "01_a.progress").write_text("{half")  # is being written: nothing is lost by looking again
    shown.show()
    say(tmp_path, "01_a", state="failed")
    shown.show()
    shown.show()
    lines = stream.getvalue().splitlines()
    assert [re.sub(r"1:0\d", "T", line) for line in lines] == [
        "01_a  cell 1 of 9, T, Part", "01_a  cell 4 of 9, T, Part", "01_a  failed",
    ]  # fmt: skip

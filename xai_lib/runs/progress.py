"""One line a notebook: redrawn in place on a terminal, now and then a plain line elsewhere."""

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

PLAIN_EVERY = 30.0
"""Seconds between two plain lines of one notebook."""


def read(state: Path, name: str) -> dict[str, Any]:
    """What the notebook's job last said; empty before it began."""
    try:
        said: dict[str, Any] = json.loads((state / f"{name}.progress").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said


def describe(said: dict[str, Any]) -> str:
    """`cell 3 of 12, 0:45, heading`."""
    if not said:
        return "waiting"
    if said["state"] == "complete":
        return f"complete in {clock(said['seconds'])}"
    if said["state"] != "running":
        return str(said["state"])
    cell = f"cell {said['cell']} of {said['cells']}, " if said["cell"] else ""
    return f"{cell}{clock(time.time() - said['began'])}, {said['heading']}".rstrip(", ")


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Shows how the notebooks of a batch stand; call `show` as often as you like."""

    def __init__(self, names: Iterable[str], state: Path, stream: TextIO) -> None:
        self.names, self.state, self.stream = list(names), state, stream
        self._terminal = stream.isatty()
        self._drawn = 0
        self._last: dict[str, tuple[str, float]] = {}

    def show(self) -> None:
        said = {name: read(self.state, name) for name in self.names}
        if self._terminal:
            self._redraw(said)
        else:
            for name in self.names:
                self._tell(name, said[name])

    def _redraw(self, said: dict[str, dict[str, Any]]) -> None:
        width = shutil.get_terminal_size().columns - 1
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        lines = [f"\x1b[2K{self._line(name, said[name])[:width]}\n" for name in self.names]
        self.stream.write(up + "".join(lines))
        self.stream.flush()
        self._drawn = len(lines)

    def _tell(self, name: str, said: dict[str, Any]) -> None:
        state, since = self._last.get(name, ("", 0.0))
        begun = said.get("state", "") if said.get("cell", 1) else ""
        if begun and (begun != state or (begun == "running" and time.monotonic() - since >= PLAIN_EVERY)):
            self._last[name] = (begun, time.monotonic())
            self.stream.write(self._line(name, said) + "\n")
            self.stream.flush()

    def _line(self, name: str, said: dict[str, Any]) -> str:
        return f"{name:<{max(map(len, self.names))}}  {describe(said)}"

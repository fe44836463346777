"""What cells print, bounded: a cell that prints without end must not fill the memory, the notebook or the log.

Of each stream of a cell the beginning and the end are kept, and a line between them says how much was left out. A
carriage return begins its line anew, as in a terminal, so that a progress bar leaves one line. Anything else that a
cell shows is left out where it is larger than a page can bear.
"""

import json
from collections import deque
from typing import Any

from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_output

HEAD, TAIL = 200_000, 50_000
"""Characters of a cell's stream that are kept from its beginning and its end."""
LARGEST = 20_000_000
"""Bytes of one output that is not printed text, such as a picture."""


class Printed:
    """One stream of one cell: `add` what comes, `text` is what is kept of it."""

    def __init__(self) -> None:
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._line = ""
        self._room, self._kept, self._left_out = HEAD, 0, 0

    def add(self, text: str) -> None:
        *lines, rest = text.split("\n")
        for line in lines:
            self._finish(self._line + line + "\n")
            self._line = ""
        line = self._line + rest
        self._line = _shown(line) + ("\r" if line.endswith("\r") else "")  # what comes next begins it anew
        if len(self._line) > TAIL:  # a line without end
            self._keep(self._line[:-TAIL])
            self._line = self._line[-TAIL:]

    @property
    def text(self) -> str:
        head, tail = "".join(self._head), "".join(self._tail) + _shown(self._line)
        cut = f"\n[... {self._left_out:,} characters left out ...]\n" if self._left_out else ""
        return head + cut + tail

    def _finish(self, line: str) -> None:
        self._keep(_shown(line[:-1]) + "\n")

    def _keep(self, text: str) -> None:
        if self._room > 0:
            self._head.append(text[: self._room])
            text, self._room = text[self._room :], self._room - len(text)
        if text:
            self._left_out += max(0, len(text) - TAIL)
            self._tail.append(text[-TAIL:])
            self._kept += len(self._tail[-1])
        while self._tail and self._kept - len(self._tail[0]) >= TAIL:
            gone = len(self._tail.popleft())
            self._kept, self._left_out = self._kept - gone, self._left_out + gone


def _shown(line: str) -> str:
    """What a terminal shows of a line in which carriage returns went back to its beginning."""
    return line.rstrip("\r").rsplit("\r", 1)[-1]


class BoundedClient(NotebookClient):
    """nbclient's client, with what a cell shows bounded as it comes."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._printed: dict[str, tuple[NotebookNode, Printed]] = {}

    async def async_execute_cell(
        self, cell: NotebookNode, cell_index: int, execution_count: int | None = None, store_history: bool = True
    ) -> NotebookNode:
        self._printed = {}
        try:
            return await super().async_execute_cell(cell, cell_index, execution_count, store_history)
        finally:
            for output, printed in self._printed.values():
                output.text = printed.text

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        kind, content = msg["msg_type"], msg["content"]
        if kind == "stream":
            self._stream(outs, content["name"], content["text"], cell_index)
            return None
        size = len(json.dumps(content.get("data", {}), default=str)) if kind != "error" else 0
        if size > LARGEST:
            note = f"[an output of {size / 1e6:.0f} MB is left out: at most {LARGEST / 1e6:.0f} MB are kept]\n"
            self._stream(outs, "stderr", note, cell_index)
            return None
        return super().output(outs, msg, display_id, cell_index)

    def _stream(self, outs: list[NotebookNode], name: str, text: str, cell_index: int) -> None:
        if self.clear_before_next_output:
            outs[:] = []
            self.clear_display_id_mapping(cell_index)
            self.clear_before_next_output = False
        known = self._printed.get(name)
        if known is None or not any(known[0] is each for each in outs):  # none yet, or cleared
            known = self._printed[name] = new_output("stream", name=name, text=""), Printed()
            outs.append(known[0])
        known[1].add(text)

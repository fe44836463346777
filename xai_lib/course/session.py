"""One submission's cells in a kernel: each with its own time, and a new kernel where one was lost."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode, v4

from xai_lib.runs.kernel import START_TIMEOUT, PrivateKernel, end
from xai_lib.runs.outputs import BoundedClient

RESTARTS = 4  #: kernels that a submission may lose; what follows is not run any more


@dataclass
class Limits:
    """Seconds for a cell and for the whole submission."""

    cell: int = 60
    whole: int = 600


@dataclass
class Session:
    """Runs cells and remembers what each said: "" where it completed, else the reason in a line."""

    folder: Path  #: the kernel's working directory
    sockets: Path
    environment: dict[str, str]
    log: IO[bytes]
    fence: str
    limits: Limits
    said: dict[int, str] = field(default_factory=dict)
    restarts: int = 0

    async def run(self, notebook: NotebookNode, is_test: Callable[[NotebookNode], bool]) -> dict[int, str]:
        """Every code cell in order. Cells that completed and are no tests are run again in a kernel that follows a lost one."""
        began, client = time.monotonic(), await self._start(notebook)
        try:
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code":
                    continue
                if time.monotonic() - began > self.limits.whole:
                    self.said[index] = f"not reached: all cells together may take {self.limits.whole} s"
                    continue
                if self.restarts > RESTARTS:
                    self.said[index] = "not reached: too many kernels were lost before"
                    continue
                self.said[index], lost = await self._one(client, cell, index)
                if lost and self.restarts <= RESTARTS:
                    await self._end(client)
                    self.restarts += 1
                    client = await self._start(notebook)
                    await self._again(client, notebook, index, is_test)
        finally:
            await self._end(client)
        return self.said

    async def _start(self, notebook: NotebookNode) -> BoundedClient:
        sockets = self.sockets / str(self.restarts)
        sockets.mkdir(parents=True)
        client = BoundedClient(
            notebook, km=PrivateKernel(sockets), timeout=self.limits.cell, startup_timeout=START_TIMEOUT, allow_errors=False
        )
        await client.async_start_new_kernel(cwd=str(self.folder), env=self.environment, stdout=self.log, stderr=self.log)
        await client.async_start_new_kernel_client()
        await client.async_execute_cell(v4.new_code_cell(self.fence), 0, store_history=False)
        return client

    async def _again(
        self, client: BoundedClient, notebook: NotebookNode, until: int, is_test: Callable[[NotebookNode], bool]
    ) -> None:
        for index, cell in enumerate(notebook.cells[:until]):
            if cell.cell_type == "code" and not is_test(cell) and self.said.get(index) == "":
                await self._one(client, v4.new_code_cell(cell.source), index)

    async def _one(self, client: BoundedClient, cell: NotebookNode, index: int) -> tuple[str, bool]:
        """What the cell said, and whether the kernel is lost."""
        try:
            await client.async_execute_cell(cell, index)
        except CellTimeoutError:
            return f"took longer than {self.limits.cell} s and was stopped", True
        except DeadKernelError:
            return "the kernel died (out of memory, or the cell ended it)", True
        except CellExecutionError as error:
            return reason(error.ename, error.evalue), False
        if any(output.get("ename") == "SystemExit" for output in cell.get("outputs", [])):
            return "the cell left the notebook with sys.exit", False
        return "", False

    async def _end(self, client: BoundedClient) -> None:
        assert isinstance(client.km, PrivateKernel)
        await end(client, client.km, gently=False)


def reason(name: str, value: str) -> str:
    """An error in one line, as a student should read it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", value).strip()
    first = text.splitlines()[0] if text else ""
    if name == "AssertionError":
        return first or "an assertion failed"
    if name == "NotImplementedError":
        return "not answered yet"
    if name == "SystemExit":
        return "the cell left the notebook with sys.exit"
    return f"{name}: {first}" if first else name


def run(session: Session, notebook: NotebookNode, is_test: Callable[[NotebookNode], Any]) -> dict[int, str]:
    """`Session.run` to its end."""
    return asyncio.run(session.run(notebook, is_test))

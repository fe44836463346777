"""One kernel of this very Python, reached over sockets in a private folder, and the cells it runs."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_async
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode, v4

from xai_lib.errors import XaiError
from xai_lib.runs.outputs import BoundedClient

START_TIMEOUT = 120
"""Seconds a kernel may take to answer (our choice: a loaded machine needs some twenty)."""
SOCKET_PATH_LIMIT = 100
"""Longest path of a socket; systems allow 104 to 108 bytes."""
INJECTED = "injected-parameters"
"""Tag of the cell that papermill adds; not counted, as it is not in the notebook that a reader knows."""


class CellFailure(XaiError):
    """A cell that did not complete; `cell` counts code cells from 1, 0 where no cell had begun."""

    def __init__(self, cell: int, message: str) -> None:
        super().__init__(message)
        self.cell = cell


class Stopped(Exception):
    """A signal ended the run; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class PrivateKernel(AsyncKernelManager):
    """A kernel of `sys.executable`, whatever kernels are installed, over IPC sockets: no port is opened."""

    def __init__(self, folder: Path) -> None:
        socket = folder / "k"
        if len(str(socket)) + 2 > SOCKET_PATH_LIMIT:
            raise CellFailure(0, f"the folder for the kernel's sockets has too long a path: {folder}")
        self.peak = 0
        super().__init__(transport="ipc", ip=str(socket), connection_file=str(folder / "kernel.json"))

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")

    def measure(self) -> None:
        """Note the largest memory, in bytes, that the kernel and what it started have held: `peak`."""
        pid = getattr(self.provisioner, "pid", None)
        if pid is None:
            return
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            held = sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])
            self.peak = max(self.peak, held)

    def end(self, number: int) -> None:
        """Send a signal to the kernel and whatever it started."""
        pid = getattr(self.provisioner, "pid", None)
        if pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


async def run_cells(
    prepare: Callable[[], NotebookNode],
    kernel: PrivateKernel,
    *,
    folder: Path,
    environment: dict[str, str],
    timeout: int | None,
    log: IO[bytes],
    started: Callable[[int], None],
) -> list[float]:
    """Run every code cell in a fresh kernel whose working directory is `folder`; seconds of each.

    `prepare` gives the notebook, while the kernel starts; the outputs go into it.
    `started(cell)` is called as a code cell begins, counted from 1. The
    kernel's own words go to `log`. Raises CellFailure at the first cell that does not complete, Stopped
    after a signal.
    """
    client = BoundedClient(v4.new_notebook(), km=kernel, timeout=timeout, startup_timeout=START_TIMEOUT)
    watching = asyncio.create_task(_watch(kernel))
    with _stopping() as stopped:
        try:
            start = {"cwd": str(folder), "env": environment, "stdout": log, "stderr": log}
            return await _run_cells(client, prepare, started, start)
        except BaseException:
            if not stopped:
                raise
            raise Stopped(stopped[0]) from None
        finally:
            watching.cancel()
            await end(client, kernel, gently=bool(stopped))


async def _watch(kernel: PrivateKernel) -> None:
    while True:
        kernel.measure()
        await asyncio.sleep(0.2)


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """SIGINT and SIGTERM cancel the task, however this process was started; which one is in the list then."""
    stopped: list[int] = []
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop(number: int) -> None:
        if not stopped and task:
            stopped.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    yield stopped  # the handlers stay until the loop ends: a second signal must not cut the cleaning short


async def _run_cells(
    client: BoundedClient,
    prepare: Callable[[], NotebookNode],
    started: Callable[[int], None],
    start: dict[str, Any],
) -> list[float]:
    try:
        await client.async_start_new_kernel(**start)
        client.nb = prepare()
        await client.async_start_new_kernel_client()
    except RuntimeError as error:
        raise CellFailure(0, f"the kernel did not start: {error}") from error
    seconds: list[float] = []
    for index, cell in enumerate(client.nb.cells):
        if INJECTED in cell.metadata.get("tags", []):
            await _run_cell(client, cell, index, 1, counted=False)
        elif cell.cell_type == "code":
            started(len(seconds) + 1)
            begin = time.perf_counter()
            await _run_cell(client, cell, index, len(seconds) + 1)
            seconds.append(round(time.perf_counter() - begin, 3))
    return seconds


async def _run_cell(
    client: BoundedClient, cell: NotebookNode, index: int, number: int, counted: bool = True
) -> None:
    try:
        await client.async_execute_cell(cell, index, store_history=counted)
    except CellTimeoutError as error:
        raise CellFailure(
            number, f"took longer than {client.timeout} s; allow more with --timeout"
        ) from error
    except DeadKernelError as error:
        held, total = getattr(client.km, "peak", 0) / 1e9, psutil.virtual_memory().total / 1e9
        message = f"the kernel died (often: out of memory; it held up to {held:.1f} GB of {total:.0f})"
        raise CellFailure(number, message) from error
    except CellExecutionError as error:
        if error.ename == "SystemExit":
            raise CellFailure(number, "left the notebook") from error
        raise CellFailure(number, f"{error.ename}: {error.evalue}") from error
    if any(output.get("ename") == "SystemExit" for output in cell.get("outputs", [])):
        raise CellFailure(number, "left the notebook")
    if not counted:
        cell.execution_count = None  # so that the others have the numbers they have in JupyterLab


async def end(client: BoundedClient, kernel: PrivateKernel, gently: bool) -> None:
    """End the kernel and what it started; `gently` interrupts it first, so that its cell can clean up."""
    if gently and kernel.has_kernel:
        kernel.end(signal.SIGINT)
        await asyncio.sleep(0.5)
    if client.kc:
        client.kc.stop_channels()
    kernel.end(signal.SIGKILL)
    if kernel.has_kernel:
        await kernel.shutdown_kernel(now=True)
    await ensure_async(kernel.cleanup_resources())

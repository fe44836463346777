"""One batch a profile at a time, and the end of what a dead one left.

The lock is `flock`: the system drops it when its holder ends, however it ends. Whoever holds it knows that
every mark of an earlier batch is stale.
"""

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from xai_lib.errors import XaiError
from xai_lib.runs.project import Project


class HeldError(XaiError):
    """Another run holds the profile."""

    exit_code = 3


class Lock:
    """The held lock file; what it says lets the next batch clean up after a dead one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, **said: Any) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(said).encode(), 0)


@contextmanager
def hold(project: Project, profile: str) -> Iterator[Lock]:
    """Hold the profile, and end what a dead batch left. Raises HeldError with the holder's pid and start."""
    path = project.state(profile) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _take(descriptor)
        except BlockingIOError as error:
            holder = _read(path)
            raise HeldError(
                f"profile '{profile}' is held by another run (pid {holder.get('pid', 'unknown')}, since "
                f"{holder.get('since', 'a moment ago')}): wait for it, or end it"
            ) from error
        _end_remains(_read(path), project.state(profile))
        lock = Lock(descriptor)
        lock.write(pid=os.getpid(), since=now())
        yield lock
        lock.write()
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    """Take the lock; tries for a second, as `is_held` of another process holds it for an instant."""
    deadline = time.monotonic() + 1
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def is_held(project: Project, profile: str) -> bool:
    """Whether a batch of the profile is running."""
    path = project.state(profile) / "lock"
    if not path.exists():
        return False
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8") or "{}")
    except ValueError:
        return {}
    return said


def _end_remains(said: dict[str, Any], state: Path) -> None:
    """End the jobs of a dead batch, by the process group it named, and remove its sockets."""
    group = said.get("group")
    if group and any(str(state) in " ".join(_command(process)) for process in members(group)):
        kill(group)
    if "sockets" in said:
        shutil.rmtree(said["sockets"], ignore_errors=True)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def members(group: int) -> list[psutil.Process]:
    """The living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def terminate(group: int, patience: float) -> None:
    """Ask every process of a group to end, and kill what is left after `patience` seconds.

    The group's leader, Snakemake, is not waited for: it keeps nothing that the jobs have not put away.
    """
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(process.pid != group for process in members(group)):
        time.sleep(0.05)
    kill(group)


def kill(group: int) -> None:
    """Kill a group at once, and the kernels below it (each leads a group of its own)."""
    processes = members(group)
    for process in list(processes):
        with suppress(psutil.Error):
            processes += process.children(recursive=True)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()

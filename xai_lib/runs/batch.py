"""A batch: what is stale is worked out, written down as a plan, and run by Snakemake, one job a notebook."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil

from xai_lib.errors import XaiError
from xai_lib.runs import folders, freshness, notebook, progress
from xai_lib.runs.freshness import State
from xai_lib.runs.lock import Lock, hold, is_held, kill, terminate
from xai_lib.runs.parameters import parse_options, read, resolve
from xai_lib.runs.project import Project, profile_parameters, select, write_whole

PATIENCE = 3.5
"""Seconds the jobs get to end after a signal, so that all is over within five."""


MEMORY = 5_000_000_000
"""Bytes that are left to each notebook (our choice)."""


class BatchError(XaiError):
    """The batch itself failed, not a notebook of it."""


@dataclass(frozen=True)
class Standing:
    """A notebook, the parameters a run would get now, its hash, and how its result stands."""

    name: str
    parameters: dict[str, Any]
    hash: str
    state: State


@dataclass(frozen=True)
class Outcome:
    """How a batch ended: the exit code, and a message for each notebook that failed."""

    code: int
    failures: list[str]


def survey(
    project: Project, profile: str, wanted: list[str], options: list[str], held: bool | None = None
) -> list[Standing]:
    """How each wanted notebook stands. Raises before anything runs if a name, type or cell is wrong.

    `held` says whether another batch is running, where the caller knows it.
    """
    given, texts = profile_parameters(project, profile), parse_options(options)
    held = is_held(project, profile) if held is None else held
    found = []
    for name in select(project, wanted):
        content = notebook.load(project.notebook(name))
        values = resolve(name, read(content, name), given.get(name, {}), profile, texts)
        digest = notebook.content_hash(content)
        said = progress.read(project.state(profile), name)
        if held and said.get("state") == "running":
            state = State("running", progress.describe(said))
        else:
            state = freshness.state(project, profile, name, digest, values)
        found.append(Standing(name, values, digest, state))
    return found


def run(
    project: Project,
    profile: str,
    wanted: list[str],
    options: list[str],
    *,
    jobs: int | None,
    timeout: int | None,
    force: bool,
    stream: TextIO,
) -> Outcome:
    """Run what is not complete, or all with `force`; `jobs` None: as many at a time as the machine bears.

    Raises what `survey` raises before anything is touched, and HeldError while another batch runs.
    """
    survey(project, profile, wanted, options)
    _prepare_folders(project, profile)
    with hold(project, profile) as lock:
        folders.heal(project.runs / profile)
        standings = survey(project, profile, wanted, options, held=False)
        todo = [each for each in standings if force or each.state.kind != "complete"]
        for each in standings:
            if each not in todo:
                stream.write(f"{each.name}: complete, skipped ({each.state.detail})\n")
        stream.flush()
        for each in todo:
            _forget(project, profile, each.name, force)
        return _run(project, profile, lock, todo, jobs or bearable(), timeout, stream) if todo else Outcome(0, [])


def bearable() -> int:
    """Notebooks that this machine bears at a time: two cores and `MEMORY` each, at least one (our choice)."""
    from xai_lib.runs.record import cores

    return max(1, min(cores() // 2, psutil.virtual_memory().available // MEMORY))


def _forget(project: Project, profile: str, name: str, force: bool) -> None:
    for ending in ("done", "progress"):
        (project.state(profile) / f"{name}.{ending}").unlink(missing_ok=True)
    if force:
        folders.remove(project.units(profile, name))


def _prepare_folders(project: Project, profile: str) -> None:
    """The profile's folders, before anything is run. Raises BatchError where they cannot be made."""
    for place in (project.state(profile).parent, project.state(profile), project.runs / profile):
        if place.exists() and not place.is_dir():
            raise BatchError(f"{place} is a file, a folder for the results was expected: move it away")
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BatchError(f"the folder for the results cannot be made: {error}") from error


def _run(
    project: Project,
    profile: str,
    lock: Lock,
    todo: list[Standing],
    jobs: int,
    timeout: int | None,
    stream: TextIO,
) -> Outcome:
    state = project.state(profile)
    jobs = min(jobs, len(todo))
    with _sockets() as sockets:
        plan = _plan(project, profile, todo, jobs, timeout, sockets)
        write_whole(state / "plan.json", json.dumps(plan, indent=1))
        lines = progress.Progress([each.name for each in todo], state, stream)
        try:
            code = _drive(project, state, lock, plan, jobs, lines)
        finally:
            folders.heal(project.runs / profile)
    if code >= 128:
        return Outcome(
            code,
            [
                f"ended by {signal.Signals(code - 128).name}; complete results are kept. "
                "The same command goes on from here"
            ],
        )
    ended = {each.name: progress.read(state, each.name).get("state", "") for each in todo}
    failures = [_failure(project, profile, name, how) for name, how in ended.items() if how != "complete"]
    return Outcome(1 if failures else 0, failures)


def _plan(
    project: Project, profile: str, todo: list[Standing], jobs: int, timeout: int | None, sockets: Path
) -> dict[str, Any]:
    from xai_lib.runs.record import cores

    entries = {
        each.name: {
            "parameters": each.parameters,
            "key": freshness.key(each.hash, freshness.package_hash(), each.parameters),
        }
        for each in todo
    }
    return {
        "plan": str(project.state(profile) / "plan.json"),
        "root": str(project.root),
        "profile": profile,
        "python": sys.executable,
        "threads": max(1, cores() // jobs),
        "timeout": timeout,
        "sockets": str(sockets),
        "notebooks": entries,
    }


@contextmanager
def _sockets() -> Iterator[Path]:
    """A private folder with a short path: sockets allow a hundred bytes, a user's TMPDIR may have more."""
    short = "/tmp" if os.access("/tmp", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="xai-", dir=short))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _drive(
    project: Project, state: Path, lock: Lock, plan: dict[str, Any], jobs: int, lines: progress.Progress
) -> int:
    """Run Snakemake in a group of its own, showing progress; its exit code, or 128 + the signal that came."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(project.runs / "Snakefile"),
        "--directory",
        str(state),
        "--configfile",
        plan["plan"],
        "--cores",
        str(jobs * plan["threads"]),
        "--keep-going",
        "--nolock",
        "--rerun-incomplete",
        "--scheduler",
        "greedy",
    ]
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with (state / "snakemake.log").open("wb") as log, _signals() as came:
        engine = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        lock.write(
            pid=os.getpid(),
            since=plan.setdefault("since", time.strftime("%Y-%m-%d %H:%M:%S")),
            group=engine.pid,
            sockets=plan["sockets"],
        )
        try:
            while engine.poll() is None and not came:
                lines.show()
                time.sleep(0.1)
            lines.show()
        finally:
            if engine.poll() is None:
                came.group = engine.pid
                terminate(engine.pid, PATIENCE)
            engine.wait()
    return 128 + came[0] if came else engine.returncode


class _Came(list[int]):
    """The signals that came; from the second on the group is killed at once."""

    group: int = 0

    def note(self, number: int, _frame: Any) -> None:
        self.append(number)
        if len(self) > 1 and self.group:
            kill(self.group)


@contextmanager
def _signals() -> Iterator[_Came]:
    """Note SIGINT and SIGTERM, also where a shell had SIGINT ignored; and a hang-up, unless ignored."""
    came = _Came()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, came.note) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failure(project: Project, profile: str, name: str, how: str) -> str:
    failed = project.failed(profile, name)
    log = failed / "log.txt"
    if how != "failed":  # the job was killed before it could say anything
        log = project.state(profile) / "snakemake.log"
        cause = "was killed (often: out of memory)" if how == "running" else "did not start"
        write_whole(failed / "failure.txt", f"{name}: its job {cause}")
    return f"{freshness.read_failure(project, profile, name)}\n  log: {project.relative(log)}"

"""Snakemake, which runs the jobs of a plan: started, watched, and ended by a signal with all that it started.

Run as a module this is Snakemake's own command, except that it leaves at once when all is done: Snakemake would wait
for a timer of its rate limiter, a second long.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xai_lib.errors import XaiError
from xai_lib.runs import progress
from xai_lib.runs.job import short_folder
from xai_lib.runs.lock import Lock, kill, terminate
from xai_lib.runs.project import Project

LOCAL = "local"
"""The executor that runs jobs on this machine."""
PATIENCE = 3.5
"""Seconds the jobs get to end after a signal, so that all is over within five."""
CLUSTER_PATIENCE = 30.0
"""Seconds that an executor gets to take its jobs back from a cluster."""


class ExecutorError(XaiError):
    """An executor that Snakemake does not have."""


def check(name: str) -> None:
    """Raises ExecutorError for what Snakemake has no plug-in for."""
    if name == LOCAL:
        return
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    known = sorted(ExecutorPluginRegistry().plugins)
    if name not in known:
        raise ExecutorError(
            f"no executor '{name}'. There are: {', '.join(known)}. Others are plug-ins of Snakemake: "
            f"pip install snakemake-executor-plugin-{name}"
        )


@contextmanager
def sockets() -> Iterator[Path]:
    """A private folder for the kernels' sockets."""
    folder = Path(tempfile.mkdtemp(prefix="xai-", dir=short_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(project: Project, state: Path, plan: dict[str, Any]) -> list[str]:
    """Snakemake's. An executor other than the local one takes its settings from papermill_runs/executors/NAME."""
    command = [
        sys.executable,
        "-m",
        "xai_lib.runs.engine",
        "--snakefile",
        str(project.runs / "Snakefile"),
        "--directory",
        str(state),
        "--configfile",
        plan["plan"],
        "--keep-going",
        "--nolock",
        "--rerun-incomplete",
        "--scheduler",
        "greedy",
    ]
    if plan["executor"] == LOCAL:
        return [*command, "--cores", str(plan["jobs"] * plan["threads"])]
    command += ["--executor", plan["executor"], "--jobs", str(plan["jobs"])]
    settings = project.runs / "executors" / plan["executor"]
    return [*command, "--workflow-profile", str(settings) if settings.is_dir() else "none"]


def drive(
    project: Project, state: Path, lock: Lock, plan: dict[str, Any], lines: progress.Progress
) -> int:
    """Run Snakemake in a group of its own, showing progress; its exit code, or 128 + the signal that came."""
    command = _command(project, state, plan)
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
                if plan["executor"] == LOCAL:
                    terminate(engine.pid, PATIENCE)
                else:
                    _call_back(engine)
            engine.wait()
    return 128 + came[0] if came else engine.returncode


def _call_back(engine: "subprocess.Popen[bytes]") -> None:
    """Have Snakemake cancel what it has submitted; unlike jobs of this machine, its jobs do not end with it."""
    engine.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        engine.wait(CLUSTER_PATIENCE)
    terminate(engine.pid, 0)


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


def main() -> None:
    from snakemake.cli import main as snakemake

    code: Any = 1
    try:
        snakemake()
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()

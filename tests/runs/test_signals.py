"""The end of `xai run` by a signal: in time, and with nothing left behind."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from .compendium import Compendium

SLOW = (
    ">import os, time\nfrom pathlib import Path\n"
    "Path('kernel').write_text(str(os.getpid()))\n"
    "try:\n    time.sleep(0 if Path('go').exists() else 300)\nfinally:\n    Path('ended').touch()"
)


@pytest.fixture
def slow(compendium: Compendium) -> Compendium:
    compendium.write("01_slow", "# Slow", "@n = 1", SLOW)
    return compendium


def wait_for_kernel(here: Compendium) -> int:
    path, deadline = here.root / "kernel", time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, "the kernel did not begin"
        time.sleep(0.05)
    return int(path.read_text())


def left_processes(here: Compendium) -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            said = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if str(here.root) in said and process.status() != psutil.STATUS_ZOMBIE:
            yield said


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def sockets(here: Compendium) -> Path:
    return Path(json.loads(here.path(".state", "default", "plan.json").read_text())["sockets"])


def ignore_interrupts() -> None:
    """As a shell does for what it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("number", "code", "send"),
    [(signal.SIGINT, 130, os.kill), (signal.SIGINT, 130, os.killpg), (signal.SIGTERM, 143, os.kill)],
    ids=["the runner is interrupted", "its group is interrupted", "the runner is asked to end"],
)
def test_a_signal_ends_all(
    slow: Compendium, number: signal.Signals, code: int, send: Callable[[int, int], None]
) -> None:
    running = slow.start("run", start_new_session=True, preexec_fn=ignore_interrupts)
    kernel = wait_for_kernel(slow)
    if number == signal.SIGTERM:
        held = slow.xai("run")
        assert held.returncode == 3
        assert held.stderr.startswith(
            f"xai: profile 'default' is held by another run (pid {running.pid}, since 20"
        )
        assert slow.xai("status").stdout.startswith("default  01_slow  running: cell 2 of 2, 0:0")
    send(running.pid, number)
    _, error = running.communicate(timeout=60)  # five seconds on a quiet machine
    assert running.returncode == code
    assert error == (
        f"ended by {number.name}; complete results are kept. The same command goes on from here\n"
    )
    assert not alive(kernel) and list(left_processes(slow)) == []
    assert (slow.root / "ended").exists(), "the cell was not interrupted before it was ended"
    assert list(slow.path("default").iterdir()) == []


def test_what_a_killed_run_left_is_ended_and_swept_by_the_next(slow: Compendium) -> None:
    running = slow.start("run")
    kernel = wait_for_kernel(slow)
    running.kill()
    running.communicate()
    left = sockets(slow)
    assert alive(kernel) and list(left.glob("*/k-1"))
    (slow.root / "go").touch()
    ended = slow.xai("run")
    assert ended.returncode == 0, ended.stderr
    assert not alive(kernel) and list(left_processes(slow)) == []
    assert not left.exists() and not sockets(slow).exists()
    assert {path.name for path in slow.path("default").iterdir()} == {"01_slow", "index.html"}


def test_two_signals_end_it_at_once(slow: Compendium) -> None:
    running = slow.start("run")
    kernel = wait_for_kernel(slow)
    os.kill(running.pid, signal.SIGINT)
    time.sleep(0.1)
    os.kill(running.pid, signal.SIGINT)
    try:
        running.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        running.kill()
        raise
    assert running.returncode == 130
    deadline = time.monotonic() + 20
    while alive(kernel) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(kernel) and list(slow.path("default").iterdir()) == []

"""Faults that headless execution must survive, each provoked for real against real kernels.

What is tested elsewhere: exceptions, `sys.exit`, killed kernels and cell time-outs in `test_execution`, signals in
`test_signals`, parameters in `test_parameters`, damaged results and time stamps in `test_freshness`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from .compendium import Compendium
from .test_signals import alive, left_processes, sockets, wait_for_kernel

WAIT = (
    ">import os, time\nfrom pathlib import Path\n"
    "Path('kernel').write_text(str(os.getpid()))\n"
    "deadline = time.monotonic() + 60\n"
    "while not Path('go').exists() and time.monotonic() < deadline:\n    time.sleep(0.02)"
)
NOISE = {
    "fifty megabytes": "for i in range(1_000_000):\n    print(f'{i:049d}')",
    "one line of fifty megabytes": "print('x' * 50_000_000)",
    "many updates": "import sys\nfor i in range(300_000):\n    sys.stderr.write(f'\\r{i} of 300000')",
    "a picture of fifty megabytes": "from IPython.display import display, HTML\ndisplay(HTML('x' * 50_000_000))",
}


def largest_memory(process: "subprocess.Popen[str]") -> int:
    """Bytes that the worker, which reads what a kernel prints, holds at most."""
    found = 0
    while process.poll() is None:
        for each in psutil.Process(process.pid).children(recursive=True):
            try:
                if "xai_lib.runs.worker" in each.cmdline():
                    found = max(found, each.memory_info().rss)
            except psutil.Error:
                continue
        time.sleep(0.05)
    return found


def test_chatty_cells_fill_neither_memory_nor_notebook(compendium: Compendium) -> None:
    compendium.write("01_chatty", "@n = 1", *(f">{code}" for code in NOISE.values()))
    running = compendium.start("run")
    peak = largest_memory(running)
    _, error = running.communicate()
    assert running.returncode == 0, error
    assert 50e6 < peak < 6e8, peak
    path = compendium.path("default", "01_chatty", "01_chatty.ipynb")
    assert path.stat().st_size < 2e6
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if "parameters" not in str(cell.metadata.tags)]
    many, long, updates, large = ("".join(o.get("text", "") for o in cell.outputs) for cell in cells)
    assert many.startswith(f"{0:049d}\n") and many.endswith(f"{999_999:049d}\n")
    assert re.search(r"\[\.\.\. [\d,]+ characters left out \.\.\.\]", many)
    assert "characters left out" in long
    assert updates == "299999 of 300000"
    assert large == "[an output of 50 MB is left out: at most 20 MB are kept]\n"


def test_the_message_about_a_dead_kernel_tells_its_memory(compendium: Compendium) -> None:
    grow = ">import os, time\nheld = bytearray(os.urandom(1)) * 700_000_000\ntime.sleep(1)\nos.kill(os.getpid(), 9)"
    compendium.write("01_large", "# Large", "@n = 1", grow)
    compendium.write("02_gone", "# Gone", "@n = 1", ">import os\nos._exit(0)")
    ended = compendium.xai("run", "--jobs", "2")
    assert ended.returncode == 1
    large, gone = (re.search(rf"{name}.*it held up to ([\d.]+) GB of \d+\)", ended.stderr) for name in ("01", "02"))
    assert large and gone and 0.7 <= float(large[1]) < 1.5 and float(gone[1]) < 0.5


def test_a_limit_on_memory_is_an_error_of_its_cell(compendium: Compendium) -> None:
    code = ">import resource\nresource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, 3 * 10**9))\nheld = bytearray(4 * 10**9)"
    compendium.write("01_limit", "# Limit", "@n = 1", code)
    ended = compendium.xai("run")
    assert ended.returncode == 1 and 'cell 2 of 2 under "Limit": MemoryError' in ended.stderr


def test_a_cell_that_leaves_with_a_code_has_failed_too(compendium: Compendium) -> None:
    compendium.write("01_left", "# Left", "@n = 1", ">raise SystemExit(3)", ">n", ">n")
    ended = compendium.xai("run")
    assert ended.returncode == 1 and "cell 2 left the notebook, 2 cells did not run" in ended.stderr


def test_a_kernel_that_never_answers_is_given_up(compendium: Compendium) -> None:
    compendium.write("01_a", "@n = 1")
    (compendium.package / "ipykernel_launcher.py").write_text("import time\ntime.sleep(300)")
    kernel = compendium.package / "xai_lib" / "runs" / "kernel.py"
    text = kernel.read_text()
    assert "START_TIMEOUT = 120" in text
    kernel.write_text(text.replace("START_TIMEOUT = 120", "START_TIMEOUT = 3"))
    ended = compendium.xai("run")
    assert ended.returncode == 1
    assert ended.stderr.startswith("01_a: the kernel did not start: Kernel didn't respond in 3 seconds")
    assert list(left_processes(compendium)) == []


def test_a_cell_that_ignores_interrupts_ends_at_its_limit(compendium: Compendium) -> None:
    deaf = ">import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)"
    compendium.write("01_deaf", "# Deaf", "@n = 1", deaf)
    ended = compendium.xai("run", "--timeout", "2")  # itself given up after 120 s
    assert ended.returncode == 1
    assert 'cell 2 of 2 under "Deaf": took longer than 2 s; allow more with --timeout' in ended.stderr
    assert list(left_processes(compendium)) == []


@pytest.mark.parametrize("in_the_way", ["papermill_runs/default", "papermill_runs/.state"])
def test_a_file_in_the_place_of_a_folder_is_named(compendium: Compendium, in_the_way: str) -> None:
    compendium.write("01_a", "@n = 1")
    (compendium.root / in_the_way).write_text("mine")
    ended = compendium.xai("run")
    assert ended.returncode in (1, 2) and "Traceback" not in ended.stderr
    assert in_the_way in ended.stderr and "move it away" in ended.stderr
    assert (compendium.root / in_the_way).read_text() == "mine"


def test_of_two_runs_at_once_one_says_who_holds_it(compendium: Compendium) -> None:
    compendium.write("01_slow", "@n = 1", WAIT)
    for _ in range(3):
        for name in ("kernel", "go"):
            (compendium.root / name).unlink(missing_ok=True)
        both = [compendium.start("run", "--force") for _ in range(2)]
        loser = next(iter(wait_for_one(both)))
        (compendium.root / "go").touch()
        said = [process.communicate(timeout=60) for process in both]
        winner = both[1 - both.index(loser)]
        assert sorted(process.returncode for process in both) == [0, 3], said
        assert f"held by another run (pid {winner.pid}, since 20" in said[both.index(loser)][1] or "moment ago" in str(said)
    assert list(left_processes(compendium)) == []
    assert {path.name for path in compendium.path("default").iterdir()} == {"01_slow", "index.html"}


def wait_for_one(processes: "list[subprocess.Popen[str]]") -> "Iterator[subprocess.Popen[str]]":
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        yield from (process for process in processes if process.poll() is not None)
        time.sleep(0.05)
    raise AssertionError("both still run")


@pytest.mark.parametrize("moment", ["starting", "swapping"])
def test_a_run_killed_at_a_bad_moment_is_put_right_by_the_next(compendium: Compendium, moment: str) -> None:
    compendium.write("01_a", "@n = 1", ">n")
    assert compendium.xai("run").returncode == 0
    before = compendium.path("default", "01_a", "run.json").read_bytes()
    place = {"starting": ("kernel.py", "client.async_start_new_kernel("), "swapping": ("folders.py", "working.rename(result)")}
    file = compendium.package / "xai_lib" / "runs" / place[moment][0]
    original = file.read_text()
    wait = "__import__('pathlib').Path('at-the-moment').touch() or __import__('time').sleep(60)"
    lines = [
        " " * (len(line) - len(line.lstrip())) + wait + "\n" + line if place[moment][1] in line else line
        for line in original.splitlines()
    ]
    file.write_text("\n".join(lines) + "\n")
    running = compendium.start("run", "--force")
    deadline = time.monotonic() + 60
    while not list(compendium.root.rglob("at-the-moment")):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    file.write_text(original)
    result = compendium.path("default", "01_a", "run.json")
    assert result.exists() == (moment == "starting")
    ended = compendium.xai("run")
    assert ended.returncode == 0 and "complete, skipped" in ended.stdout, ended.stderr
    assert result.read_bytes() == before and list(left_processes(compendium)) == []
    assert {path.name for path in compendium.path("default").iterdir()} == {"01_a", "index.html"}


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_fails_the_run_and_keeps_the_old_result(compendium: Compendium) -> None:
    disk = compendium.path("default")
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        compendium.write("01_a", "@output_dir: str = ''", ">print(1)")
        assert compendium.xai("run").returncode == 0
        before = compendium.path("default", "01_a", "run.json").read_bytes()
        fill = ">from pathlib import Path\nPath(output_dir, 'large').write_bytes(bytes(8_000_000))"
        compendium.write("01_a", "# Full", "@output_dir: str = ''", fill)
        ended = compendium.xai("run")
        assert ended.returncode == 1 and "No space left on device" in ended.stderr and "Traceback" not in ended.stderr
        assert compendium.path("default", "01_a", "run.json").read_bytes() == before
        assert list(left_processes(compendium)) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("edited", ["notebook", "package"])
def test_what_is_edited_while_it_runs_is_not_taken_for_what_ran(compendium: Compendium, edited: str) -> None:
    compendium.write("01_a", "@n = 1", WAIT, ">n")
    running = compendium.start("run")
    wait_for_kernel(compendium)
    if edited == "notebook":
        compendium.write("01_a", "@n = 1", WAIT, ">n + 1")
    else:
        (compendium.package / "xai_lib" / "science.py").write_text("x = 1\n")
    (compendium.root / "go").touch()
    _, error = running.communicate(timeout=60)
    assert running.returncode == 0, error
    assert compendium.xai("status").stdout == f"default  01_a  stale: {edited} changed\n"


MANY = """
import json, os, sys, time
from pathlib import Path
import psutil
from xai_lib.runs import worker
me = psutil.Process()
def look():
    return {"memory": me.memory_info().rss, "children": len(me.children(recursive=True)), "files": me.num_fds()}
plan = Path(sys.argv[1])
found = []
for i in range(10):
    assert worker.main([str(plan), "01_a", "1"]) == 0
    found.append(look())
print(json.dumps(found))
"""


def test_ten_runs_in_one_process_leave_nothing(compendium: Compendium, tmp_path: Path) -> None:
    compendium.write("01_a", "@n = 1", ">n")
    assert compendium.xai("run").returncode == 0
    plan = json.loads(compendium.path(".state", "default", "plan.json").read_text())
    short = Path("/tmp") / f"xai-test-{os.getpid()}"
    short.mkdir()
    plan["sockets"] = str(short)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    ended = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path / "plan.json")],
        cwd=compendium.root, env=compendium.environment, text=True, capture_output=True, timeout=200,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found[-1]["children"] == 0 and found[-1]["files"] <= found[2]["files"] + 2
    assert found[-1]["memory"] - found[2]["memory"] < 25e6
    assert not list(short.glob("*"))
    short.rmdir()


def test_a_deep_temporary_folder_does_not_matter(compendium: Compendium, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 120
    compendium.write("01_a", "@n = 1", WAIT)
    running = subprocess.Popen(
        compendium.command("run"), cwd=compendium.root, env={**compendium.environment, "TMPDIR": str(deep)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    kernel = psutil.Process(wait_for_kernel(compendium))
    assert list(sockets(compendium).glob("*/k-*"))
    [connection] = sockets(compendium).glob("*/kernel.json")
    assert json.loads(connection.read_text())["transport"] == "ipc"
    # one is ipykernel's own, for what processes that a cell forks print; it is bound before it is told
    ports = [c.laddr for c in kernel.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
    (compendium.root / "go").touch()
    _, error = running.communicate(timeout=60)
    assert running.returncode == 0, error
    assert len(ports) <= 1 and all(address.ip == "127.0.0.1" for address in ports)


def test_kernels_started_together_do_not_meet(tmp_path: Path) -> None:
    from .compendium import new_compendium

    four = [new_compendium(tmp_path / str(i)) for i in range(4)]
    for each in four:
        for i in range(5):
            each.write(f"{i:02}_a", f"@n = {i}", ">print(n)")
    running = [each.start("run", "--jobs", "5") for each in four]
    for each, process in zip(four, running, strict=True):
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
        for i in range(5):
            book = nbformat.read(each.path("default", f"{i:02}_a", f"{i:02}_a.ipynb"), as_version=4)
            assert book.cells[-1].outputs[0].text == f"{i}\n"
        assert list(left_processes(each)) == []


@pytest.mark.parametrize(("cores", "gigabytes", "jobs"), [(1, 64, 1), (2, 64, 1), (8, 64, 4), (8, 11, 2), (64, 2, 1)])
def test_jobs_are_what_the_machine_bears(monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: int, jobs: int) -> None:
    from xai_lib.runs import batch, hardware

    monkeypatch.setattr(hardware, "cores", lambda: cores)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=gigabytes * 10**9))
    assert batch.bearable() == jobs


def test_nothing_of_a_dead_kernel_is_alive_afterwards(compendium: Compendium) -> None:
    child = ">import subprocess, os\nfrom pathlib import Path\nchild = subprocess.Popen(['sleep', '300'])\n" \
        "Path('kernel').write_text(str(child.pid))\nos.kill(os.getpid(), 9)"
    compendium.write("01_a", "@n = 1", child)
    assert compendium.xai("run").returncode == 1
    assert not alive(wait_for_kernel(compendium))

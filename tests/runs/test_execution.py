"""One batch of real kernels: what a complete run leaves, and how each kind of failure is told."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from .compendium import Batch, Compendium

FAILURES = {
    "02_broken": 'cell 3 of 4 under "Where it breaks": ZeroDivisionError: division by zero',
    "03_left": 'cell 2 of 4 under "Left": cell 2 left the notebook, 2 cells did not run',
    "04_killed": 'cell 2 of 2 under "Killed": the kernel died (often: out of memory; it held up to MEMORY)',
    "05_units": 'cell 4 of 4 under "Units": AssertionError: cut short',
}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_complete_run_leaves_everything(batch: Batch, record: Callable[[Path], Any]) -> None:
    folder = batch.compendium.path("default", "01_complete")
    assert files(folder) == {
        "01_complete.ipynb",
        "01_complete.html",
        "claims.csv",
        "run.json",
        "figures/figure-3.png",
        "tables/table-1.csv",
    }
    assert (folder / "claims.csv").read_text() == (
        "name,paper,ours,holds,label\nspeed,ten times faster,41x <fast>,true,replicated\n"
        'open,"it is ""best""",2 of 4,,\n'
    )
    run = record(folder)
    assert run["parameters"] == {"runs": 3, "seed": 0} and run["seeds"] == {"seed": 0}
    assert run["state"] == "complete" and run["seconds"] > 0 and len(run["cell_seconds"]) == 5
    assert {"python", "numpy", "torch"} <= set(run["versions"])
    assert run["hardware"]["threads"] * 2 <= max(2, run["hardware"]["cores"]) and run["hardware"]["cpu"]
    assert set(run["files"]) == files(folder) - {"run.json"}
    assert run["results"]["record"] == {"fitness": {"precision": "float32", "seed": 0}}
    assert run["results"]["not_shown"] == [{"item": "Figure 17", "reason": "the authors kept it"}]
    assert [entry["path"] for entry in run["results"]["inputs"]] == [
        "data/photograph.bin",
        "$XAI_WEIGHTS_HOME/absent.pth",
    ]


def test_the_executed_notebook_shows_a_figure_once_and_names_no_place(batch: Batch) -> None:
    folder = batch.compendium.path("default", "01_complete")
    executed = nbformat.read(folder / "01_complete.ipynb", as_version=4)
    nbformat.validate(executed)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, None, 2, 3, 4, 5]
    assert 'output_dir = "papermill_runs/default/01_complete"' in code[1].source
    assert code[2].outputs[0].text == "1 threads in .\n"
    images = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(images) == 1 and images[0].metadata["image/png"]["alt"] == "A line, <b>rising</b>"
    assert "**Figure 3.** A line, <b>rising</b>" in [
        output.data.get("text/markdown") for output in code[3].outputs
    ]
    page = (folder / "01_complete.html").read_text()
    assert page.count("<img ") == 1 and '<img alt="A line, &lt;b&gt;rising&lt;/b&gt;" src=' in page
    for path in (folder / "01_complete.ipynb", folder / "run.json", folder / "01_complete.html"):
        assert str(batch.compendium.root) not in path.read_text()
        assert not re.search(r"run-\d+-\d+", path.read_text())


def test_failures_are_told_one_by_one_and_the_others_complete(batch: Batch) -> None:
    assert batch.ended.returncode == 1
    said = re.sub(r"[\d.]+ GB of \d+", "MEMORY", batch.ended.stderr)
    for name, cause in FAILURES.items():
        assert f"{name}: {cause}\n  log: papermill_runs/default/.failed/{name}/log.txt\n" in said
    assert "Traceback" not in batch.ended.stderr + batch.ended.stdout
    assert re.search(r"^01_complete  complete in \d:\d\d$", batch.ended.stdout, re.MULTILINE)
    # a notebook that fails at once may do so between two looks; not all five do
    assert re.search(r"^0\d_\w+ +cell \d of \d, \d:\d\d, \w", batch.ended.stdout, re.MULTILINE)
    assert batch.ended.stdout.endswith("report: papermill_runs/default/index.html\n")


def test_a_failed_run_is_kept_aside_with_its_log(batch: Batch) -> None:
    failed = batch.compendium.path("default", ".failed", "02_broken")
    log = (failed / "log.txt").read_text()
    assert "----> 1 1 / 0" in log and "\x1b" not in log
    outputs = nbformat.read(failed / "02_broken.ipynb", as_version=4).cells[-2].outputs
    assert outputs[0].ename == "ZeroDivisionError"
    assert not batch.compendium.path("default", "02_broken").exists()


def test_nothing_half_written_is_left(batch: Batch) -> None:
    profile = batch.compendium.path("default")
    assert {path.name for path in profile.iterdir()} == {"01_complete", "index.html", ".failed", ".units"}
    stamps = {path.name for path in batch.compendium.path(".state", "default").glob("*.done")}
    assert stamps == {"01_complete.done"}
    sockets = json.loads(batch.compendium.path(".state", "default", "plan.json").read_text())["sockets"]
    assert not Path(sockets).exists()


def test_a_run_cut_short_goes_on_where_it_was_and_force_begins_anew(
    changeable: Compendium, record: Callable[[Path], Any]
) -> None:
    computed = changeable.root / "computed"
    assert computed.read_text() == "0\n1\n"
    (changeable.root / "go").touch()
    ended = changeable.xai("run", "05")
    assert ended.returncode == 0, ended.stderr
    assert computed.read_text() == "0\n1\n2\n"
    values = record(changeable.path("default", "05_units"))["results"]["record"]["values"]
    assert values == [{"third": i / 3, "pair": [i, i]} for i in range(3)]
    assert not changeable.path("default", ".units", "05_units").exists()
    assert not changeable.path("default", ".failed", "05_units").exists()
    assert changeable.xai("run", "05", "--force").returncode == 0
    assert computed.read_text() == "0\n1\n2\n" * 2


def test_the_previous_result_stays_when_a_run_fails(changeable: Compendium) -> None:
    folder = changeable.path("default", "01_complete")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    changeable.write("01_complete", "# Now slow", "@runs = 3\nseed = 0", ">import time\ntime.sleep(60)")
    ended = changeable.xai("run", "complete", "--timeout", "1")
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        '01_complete: cell 2 of 2 under "Now slow": took longer than 1 s; allow more with --timeout\n'
    )
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before
    assert changeable.xai("status", "01").stdout == (
        'default  01_complete  failed: 01_complete: cell 2 of 2 under "Now slow": took longer than 1 s; '
        "allow more with --timeout; the previous complete result is kept\n"
    )


def test_a_kernel_that_does_not_start_says_why(compendium: Compendium) -> None:
    compendium.write("01_a", "@n = 1")
    (compendium.package / "ipykernel_launcher.py").write_text("raise SystemExit('no kernel today')")
    ended = compendium.xai("run")
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "01_a: the kernel did not start: Kernel died before replying to kernel_info "
        "(no kernel today)\n  log: papermill_runs/default/.failed/01_a/log.txt\n"
    )


@pytest.mark.parametrize(("cells", "found"), [((">x = 1",), "none is"), (("@x = 1", "@x = 2"), "2 are")])
def test_a_notebook_without_its_parameters_cell_is_refused(
    compendium: Compendium, cells: tuple[str, ...], found: str
) -> None:
    compendium.write("01_a", *cells)
    ended = compendium.xai("run")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"xai: 01_a: exactly one code cell must be tagged 'parameters', {found}\n"
    assert not compendium.path("default").exists()

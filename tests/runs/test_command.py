"""The command as a user meets it: listing, help, and every way of asking for what is not there."""

import re
import subprocess
import sys

import pytest

from .compendium import REPOSITORY, Batch, Compendium


def test_list(batch: Batch) -> None:
    shown = batch.compendium.xai("list").stdout
    assert shown.startswith(
        "01_complete  A complete one <script>alert(1)</script>\n    A. Author: The paper, 2024.\n"
        "    runs: int = 3  # how often\n    seed: int = 0  # for everything\n"
        "02_broken  Broken\n    n: int = 1\n"
    )
    assert shown.endswith("profiles: default\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "run 01 -p rnus=5",
            "xai: 01_complete has no parameter 'rnus'; did you mean 'runs'? It takes: runs (int), seed (int)",
        ),
        (
            "run 01 -p runs=many",
            "xai: 01_complete: parameter 'runs': expected int, found 'many' (str). Its default is 3",
        ),
        (
            "run complte",
            "xai: no notebook 'complte'; nearest: 01_complete. There are: 01_complete, 02_broken, "
            "03_left, 04_killed, 05_units",
        ),
        ("run --profile defualt", "xai: no profile 'defualt'; did you mean 'default'? There are: default"),
        ("report --profile paper", "xai: no profile 'paper'. There are: default"),
        ("status --profile paper", "xai: no profile 'paper'. There are: default"),
        (
            "publish 02",
            "xai: {root}/papermill_runs/default/02_broken cannot be published: there is no such folder. "
            "Run the notebook first",
        ),
        ("--root / list", "xai: / is no project: a folder with notebooks/ and papermill_runs/ was expected"),
    ],
)
def test_what_is_not_there(batch: Batch, arguments: str, message: str) -> None:
    ended = batch.compendium.xai(*arguments.split())
    assert ended.returncode == (1 if "publish" in arguments else 2)
    assert ended.stderr == message.format(root=batch.compendium.root) + "\n"


def test_usage_of_the_shell_kind(batch: Batch) -> None:
    ended = batch.compendium.xai("run", "--jobs", "0")
    assert ended.returncode == 2 and "Invalid value for '--jobs'" in ended.stderr


def test_debug_shows_the_traceback(batch: Batch) -> None:
    ended = batch.compendium.xai("--debug", "run", "nothing")
    assert (
        ended.returncode == 2 and "Traceback" in ended.stderr and "xai: no notebook 'nothing'" in ended.stderr
    )


@pytest.mark.parametrize("name", ["01_complete", "01", "complete", "notebooks/01_complete.ipynb"])
def test_names_of_a_notebook(batch: Batch, name: str) -> None:
    assert batch.compendium.xai("status", name).stdout.startswith("default  01_complete  complete")


def test_a_profile_that_names_what_is_not_there(compendium: Compendium) -> None:
    compendium.write("01_a", "@n = 1")
    profile = compendium.path("profiles", "default.yaml")
    for text, message in {
        "02_b: {n: 2}": "papermill_runs/profiles/default.yaml names the notebook '02_b', which is not there. "
        "There are: 01_a",
        "01_a: 3": "papermill_runs/profiles/default.yaml: '01_a' must hold 'parameter: value' lines, found 3",
        "01_a: {m: 3}": "01_a (profile default) has no parameter 'm'. It takes: n (int)",
    }.items():
        profile.write_text(text)
        ended = compendium.xai("status")
        assert (ended.returncode, ended.stderr) == (2, f"xai: {message}\n")


def test_a_file_that_is_no_notebook(compendium: Compendium) -> None:
    path = compendium.root / "notebooks" / "01_a.ipynb"
    path.write_text("{")
    ended = compendium.xai("run")
    assert ended.returncode == 2 and ended.stderr.startswith(f"xai: {path} is no notebook: JSONDecodeError: ")


def test_a_file_in_the_way_of_the_results(compendium: Compendium) -> None:
    compendium.write("01_a", "@n = 1")
    compendium.path("default").write_text("in the way")
    ended = compendium.xai("run")
    assert ended.returncode == 1
    assert (
        "papermill_runs/default is a file, a folder for the results was expected: move it away"
        in ended.stderr
    )


def test_help_tells_examples_and_exit_codes_and_starts_fast(batch: Batch) -> None:
    shown = batch.compendium.xai("--help").stdout
    assert "  xai run 01_elime -p runs=3 -p photographs=coffee,flower\n" in shown
    assert "130 ended by SIGINT; 143 ended by SIGTERM" in " ".join(shown.split())
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, xai_lib.runs.command; print(*sys.modules)"],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.split()
    heavy = {
        "torch",
        "snakemake",
        "papermill",
        "nbclient",
        "numpy",
        "pandas",
        "matplotlib",
        "IPython",
        "jinja2",
    }
    assert heavy.isdisjoint(loaded)


def test_version(batch: Batch) -> None:
    assert re.fullmatch(r"xai \d+[.+]\S+\n", batch.compendium.xai("--version").stdout)

"""The first minutes of a new user: the Makefile, the lock and what must agree with it, the README's table."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from PIL import Image

from xai_lib import classifiers, explainers, explanation, images
from xai_lib.explainers import __main__ as methods

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = [
    "help", "run", "test", "lab", "bench", "reference", "readme", "cards", "assignments", "embedded", "lock", "install", "clean",
]  # fmt: skip
SYSTEMS = {
    "linux": {"os_name": "posix", "platform_system": "Linux", "platform_machine": "x86_64"},
    "darwin": {"os_name": "posix", "platform_system": "Darwin", "platform_machine": "arm64"},
    "win32": {"os_name": "nt", "platform_system": "Windows", "platform_machine": "AMD64"},
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


class Locked(NamedTuple):
    """One entry of requirements.lock."""

    name: str
    version: str
    marker: Marker | None
    hashes: list[str]


def read_lock(text: str) -> Iterator[Locked]:
    for block in re.split(r"\n(?=\S)", text.strip()):
        head, *rest = [line.strip().removesuffix("\\").strip() for line in block.splitlines()]
        pinned = Requirement(head)
        [exact] = pinned.specifier
        assert exact.operator == "==", head
        hashes = [line for line in rest if not line.startswith("#")]
        yield Locked(canonicalize_name(pinned.name), exact.version, pinned.marker, hashes)


@pytest.fixture(scope="module")
def lock() -> list[Locked]:
    return list(read_lock((ROOT / "requirements.lock").read_text(encoding="utf-8")))


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for, extras and build included."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    return [Requirement(line) for line in PROJECT["dependencies"] + extras + build]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_every_dependency_in_range(lock: list[Locked], python: str, system: str) -> None:
    machine = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": system, "extra": ""}
    environment = {**default_environment(), **SYSTEMS[system], **machine}
    here = [each for each in lock if each.marker is None or each.marker.evaluate(environment)]
    versions = {each.name: each.version for each in here}
    assert len(versions) == len(here), "two versions of one package"
    for requirement in wanted():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name in versions, name
            assert versions[name] in requirement.specifier, requirement


def test_the_lock_holds_hashes_and_no_hosts(lock: list[Locked]) -> None:
    assert len(lock) > 200
    for each in lock:
        assert each.hashes, each.name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in each.hashes), each
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|\s@\s", text)


def test_what_is_installed_is_what_is_locked(lock: list[Locked]) -> None:
    for each in lock:
        if each.marker is None or each.marker.evaluate():
            assert metadata.version(each.name).partition("+")[0] == each.version, each.name


def test_conda_installs_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    ranges = {r.name: r.specifier for r in map(Requirement, conda)}
    assert ranges == {"python": SpecifierSet(PROJECT["requires-python"]), "pip": SpecifierSet()}
    assert pip == {"pip": ["--require-hashes", "-r requirements.lock"]}
    assert environment["name"] == PROJECT["name"]


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] == metadata.version("xai-lib")
    assert citation["license"] == PROJECT["license"]
    assert f"## {PROJECT['version']} ({citation['date-released']})" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version = {{{PROJECT['version']}}}" in (ROOT / "README.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# README


def test_the_readme_shows_the_registered_methods() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert methods.renew(readme) == readme, "make readme"
    assert readme.count(methods.BEGIN) == readme.count(methods.END) == 1


def test_a_readme_without_markers_is_an_error() -> None:
    with pytest.raises(methods.MarkersError, match="expected the lines .*begin.* and .*end.*, found neither"):
        methods.renew("nothing")
    with pytest.raises(methods.MarkersError, match="found only the first"):
        methods.renew(f"{methods.BEGIN}\n| old |")


def test_the_readme_explains_a_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet as a newcomer would run it, with a real photograph."""
    [snippet] = [each for each in snippets() if "my.jpg" in each]
    [explore] = [each for each in snippets() if "explorer.explore" in each]
    Image.fromarray(images.load("photos")["chelsea"].pixels).save(tmp_path / "my.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)
    exec(explore, {})  # outside of Jupyter: a figure
    assert names["pixels"].shape == (1, 3, 224, 224)
    assert 281 <= int(names["explanation"].targets) <= 285, "a cat"
    assert names["explanation"].maps.shape == (1, 224, 224)
    assert names["explanation"].maps.unique().tolist() == [0, 1]


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)


def test_the_readme_adds_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet as it stands is a method that works."""
    explainers.names()
    monkeypatch.setattr(explanation, "_registry", dict(explanation._registry))
    exec(snippets()[0], {})
    image = torch.rand(2, 3, 224, 200, generator=torch.Generator().manual_seed(0))
    found = explainers.get("occlusion").explain(classifiers.load("efficientnet_lite0"), image, seed=0)
    assert found.maps.shape == (2, 224, 200) and found.details[0]["calls"] == 50
    assert found.maps[0, :32, :32].unique().numel() == 1 < found.maps[0].unique().numel()


def test_the_readme_shows_the_claims_of_the_published_result() -> None:
    from xai_lib.runs.publication import renew_claims

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    claims = sorted((ROOT / "papermill_runs" / "reference" / "default").glob("*/claims.csv"))
    published = [path.parent for path in claims if len(path.read_text(encoding="utf-8").splitlines()) > 1]
    assert len(published) == 5 and readme.count("| paper says | we measured | holds |") == len(published)
    assert "<!-- end of verdicts -->" in readme and "--><!-- end of verdicts -->" not in readme
    for folder in published:
        assert readme == renew_claims(readme, folder)


def test_the_readme_links_to_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in link]
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


# ---------------------------------------------------------------------------------------------------------------------
# Makefile, in a folder of its own: it makes and removes environments


STAND_IN = """#!/bin/sh
# Python, but its environments are copies of this file and its pip only notes what it is asked for.
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip") shift 2; echo "pip $*" >> calls; test ! -e offline ;;
"-c import ensurepip"*) test ! -e bare ;;
*) exec "%s" "$@" ;;
esac
"""
FIRST = "pip install --quiet --disable-pip-version-check --require-hashes -r .venv/first.lock"
INSTALL = "pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation -r requirements.lock"
PACKAGE = "pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e ."
Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clone whose path has a space, with a Python beside it that installs nothing."""
    clone = tmp_path / "my clone"
    clone.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    (clone / "python").write_text(STAND_IN % sys.executable)
    (clone / "python").chmod(0o755)
    return clone


@pytest.fixture
def make(folder: Path) -> Make:
    def run(*arguments: str, python: str | None = "./python") -> subprocess.CompletedProcess[str]:
        chosen = [f"PYTHON={python}"] if python else []
        command = ["make", "--no-print-directory", *arguments, *chosen]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "PYTHON"}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)

    return run


def calls(folder: Path) -> list[str]:
    """What pip was asked for since the last look."""
    file = folder / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


@needs_make
def test_make_alone_lists_every_target(make: Make, folder: Path) -> None:
    shown = make(python=None)
    assert shown.returncode == 0, shown.stderr
    assert re.findall(r"^  make (\w+) ", shown.stdout, re.M) == TARGETS
    [phony] = re.findall(r"^\.PHONY: (.*)$", (folder / "Makefile").read_text(), re.M)
    assert phony.split() == TARGETS
    assert not (folder / ".venv").exists()


@needs_make
def test_run_hands_its_arguments_to_xai(make: Make) -> None:
    shown = make("-n", "run", "ARGS=01_elime --profile imagenet")
    assert shown.stdout.splitlines()[-1] == ".venv/bin/xai run 01_elime --profile imagenet"


@needs_make
def test_test_is_ruff_mypy_pytest_in_two_processes_and_the_numbers(make: Make) -> None:
    lines = make("-n", "test").stdout.splitlines()[-5:]
    assert [line.split()[2] for line in lines[:3]] == ["ruff", "mypy", "pytest"]
    assert lines[2].endswith("pytest -n 2")
    assert lines[3:] == [".venv/bin/xai run", ".venv/bin/xai report --check"]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The processes that the tests of each of four small files ran in, where `pytest -n 2` divides them; threads, too."""
    folder = tmp_path_factory.mktemp("suite") / "tests"
    test = "import os, pytest, torch\n@pytest.mark.parametrize('i', range(6))\ndef test_it(i):\n" \
           "    print('ran', __file__, os.environ['PYTEST_XDIST_WORKER'], torch.get_num_threads())\n"  # fmt: skip
    for name in ("runs/test_a.py", "runs/test_b.py", "notebooks/test_02_advise.py", "test_c.py", "test_d.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(test)
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "OMP_"))} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-n", "2", "-rP", "--import-mode=importlib", "-p", "no:cacheprovider", "tests"]
    ended = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, set[str]] = {}
    for file, worker, threads in re.findall(r"^ran (\S+) (\S+) (\d+)$", ended.stdout, re.M):
        found.setdefault(Path(file).relative_to(folder).as_posix(), set()).add(worker)
        assert threads == "1"
    return found


def test_what_shares_fixtures_or_a_cluster_shares_a_process(two_processes: dict[str, set[str]]) -> None:
    assert len(two_processes) == 5 and all(len(workers) == 1 for workers in two_processes.values())
    cluster = [two_processes[name] for name in ("runs/test_a.py", "runs/test_b.py", "notebooks/test_02_advise.py")]
    assert cluster[0] == cluster[1] == cluster[2]
    assert set.union(*two_processes.values()) == {"gw0", "gw1"}


def test_continuous_integration_is_a_stranger_first() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    alone = "env -u XAI_WEIGHTS_HOME -u XAI_DATA_HOME "
    first, second = lines.index(f"{alone}make run"), lines.index(f"{alone}.venv/bin/xai report --check")
    assert first < second < next(i for i, line in enumerate(lines) if "export" in line) and lines[-1] == "exec make test"


@needs_make
def test_test_with_arguments_makes_no_run(make: Make) -> None:
    lines = make("-n", "test", "ARGS=tests/test_setup.py -k lock").stdout.splitlines()
    assert lines[-1] == ".venv/bin/python -m pytest tests/test_setup.py -k lock"


@needs_make
def test_the_second_make_installs_nothing(make: Make, folder: Path) -> None:
    first = make("-j4", "install")
    assert first.returncode == 0, first.stderr
    assert "Making .venv with Python 3." in first.stdout
    assert "3 to 15 minutes, 7 GB on Linux" in first.stdout
    assert calls(folder) == [FIRST, INSTALL, PACKAGE]
    locked = list(read_lock((folder / ".venv/first.lock").read_text()))
    assert [each.name for each in locked] == ["packaging", "setuptools", "wheel"]

    second = make("install")
    assert (second.returncode, second.stdout, calls(folder)) == (0, "", [])
    without_name = make("install", python=None)  # the Python of .venv goes first
    assert (without_name.returncode, without_name.stdout, calls(folder)) == (0, "", [])


@needs_make
@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_file_installs_again_in_place(make: Make, folder: Path, name: str) -> None:
    make("install")
    calls(folder)
    (folder / ".venv/mine").touch()
    with (folder / name).open("a") as file:
        file.write("# changed\n")
    again = make("install")
    assert again.returncode == 0, again.stderr
    assert "Making" not in again.stdout
    assert calls(folder) == [FIRST, INSTALL, PACKAGE]
    assert (folder / ".venv/mine").exists()


@needs_make
def test_an_environment_of_the_users_own_is_kept(make: Make, folder: Path) -> None:
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(folder / "python", folder / ".venv/bin")
    assert make("install").returncode == 0
    assert calls(folder) == [FIRST, INSTALL, PACKAGE]

    (folder / ".venv/bin/python").write_text("#!/bin/sh\necho 3.9\n")
    (folder / ".venv/installed").unlink()
    refused = make("install")
    assert refused.returncode != 0
    assert ".venv does not work or is of another Python than ./python" in refused.stderr
    assert "make clean" in refused.stderr
    assert calls(folder) == []


@needs_make
def test_an_interrupted_installation_begins_from_nothing(make: Make, folder: Path) -> None:
    (folder / "offline").touch()
    failed = make("install")
    assert failed.returncode != 0
    assert calls(folder) == [FIRST]
    assert (folder / ".venv/installing").exists()
    assert not (folder / ".venv/installed").exists()

    (folder / "offline").unlink()
    (folder / ".venv/half").touch()
    again = make("install")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("Removing the .venv of an interrupted installation.")
    assert not (folder / ".venv/half").exists()
    assert (folder / ".venv/installed").exists()


@needs_make
def test_a_python_that_cannot_be_used_is_named(make: Make, folder: Path) -> None:
    (folder / "old").write_text("#!/bin/sh\nexit 1\n")
    (folder / "old").chmod(0o755)
    for name in ("./old", "/nowhere/python"):
        refused = make("run", python=name)
        assert refused.returncode != 0
        assert f"Python 3.11 or newer is needed; tried: {name}\n" in refused.stderr
        assert "make PYTHON=/path/to/python3" in refused.stderr
    (folder / "bare").touch()
    refused = make("run")
    assert "./python has no module venv or ensurepip" in refused.stderr
    assert "apt install python3-venv" in refused.stderr
    assert not (folder / ".venv").exists()

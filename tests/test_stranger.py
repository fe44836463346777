"""The default notebooks and their committed numbers need the installation and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xai_lib import classifiers, images
from xai_lib.counterfactuals import load_generator
from xai_lib.runs import batch
from xai_lib.runs.project import Project

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = ("XAI_WEIGHTS_HOME", "XAI_DATA_HOME")
NAMES = ["00_start_here", "01_elime", "02_advise", "03_evo_lrp", "04_xai_framework", "05_counterfactuals"]


def parameters() -> dict[str, dict[str, Any]]:
    """What a run of each notebook gets by default."""
    return {each.name: each.parameters for each in batch.survey(Project(ROOT), "default", [], [])}


def listed(value: Any) -> Iterator[str]:
    yield from [value] if isinstance(value, str) else value


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """An environment without our folders and without what was downloaded before."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return dict(os.environ)


def xai(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "xai_lib.runs.command", "--root", str(ROOT), *arguments],
        env=environment | {"PYTHONPATH": path}, text=True, capture_output=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_network_and_image_of_a_default_run_is_installed(name: str, stranger: dict[str, str]) -> None:
    given = parameters()[name]
    networks = [n for key, value in given.items() if key.rpartition("_")[2] in ("network", "networks") or key == "classifier_name"
                for n in listed(value)]  # fmt: skip
    assert networks and set(classifiers.available(networks).values()) == {""}
    sets = [s for key, value in given.items() if key.rpartition("_")[2] in ("set", "sets") for s in listed(value)] or ["photos"]
    for each in sets:
        known = images.load(each)
        own = [n for key in ("photograph", "photographs", "held_out") for n in listed(given.get(key, []))]
        chosen = known.select(own) if own and each == given.get("photograph_set", "photos") else known
        assert all(path.is_file() for path in chosen.sources)
        assert chosen[chosen.names[0]].pixels.ndim == 3
    if "generator_name" in given:
        load_generator(given["generator_name"])
    assert given["download"] is False and not given.get("full_training")


@pytest.mark.parametrize("name", NAMES)
def test_no_committed_number_depends_on_a_file_that_a_stranger_lacks(name: str) -> None:
    """Nor does freshness: what a stranger has run is complete where the variables are set, and the other way round."""
    record = json.loads((ROOT / "papermill_runs" / "reference" / "default" / name / "run.json").read_text())
    paths = [entry["path"] for entry in record["results"]["inputs"]]
    assert paths and all(path.startswith(("$SITE_PACKAGES/", "data/")) for path in paths), paths
    assert all(entry["sha256"] for entry in record["results"]["inputs"])
    assert record["parameters"] | {"output_dir": ""} == parameters()[name] | {"output_dir": ""}
    assert not [entry for entry in record["results"]["not_shown"] if entry["item"].startswith("network ")]


def test_the_report_of_a_stranger_is_green(stranger: dict[str, str], tmp_path: Path) -> None:
    """On the results of `xai run`, which `.ci/run` makes without the variables before anything else."""
    said = xai(stranger, "status")
    assert said.returncode == 0, said.stderr
    if [line for line in said.stdout.splitlines() if ": " not in line or "  complete: " not in line]:
        pytest.skip(f"not all notebooks have been run as they are now: {said.stdout}")
    assert xai(stranger | dict.fromkeys(VARIABLES, str(tmp_path)), "status").stdout == said.stdout
    checked = xai(stranger, "report", "--check")
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("  holds: ") == len(NAMES) and "moved" not in checked.stdout

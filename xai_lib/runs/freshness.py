"""Whether a result is what a run would give now: decided by content, never by time stamps."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xai_lib.runs import inputs
from xai_lib.runs.project import Project

RECORD = "run.json"


@dataclass(frozen=True)
class State:
    """How a notebook stands: `complete`, `never run`, `stale`, `damaged`, `failed` or `running`, and why."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


@functools.cache
def package_hash() -> str:
    """sha256 of every *.py file of the package, with its place in it; of when it is first asked for."""
    folder = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def key(notebook: str, package: str, parameters: dict[str, Any]) -> str:
    """One sha256 over all that is known of a run before it starts."""
    return hashlib.sha256(json.dumps([notebook, package, parameters], sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> dict[str, Any] | None:
    """The `run.json` of a result; None if it is missing, half or not ours."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if {"files", "parameters", "hashes", "results"} <= set(record) else None
    except (OSError, ValueError, TypeError):
        return None


def damage(folder: Path) -> str:
    """What is wrong with the files of a result; empty if nothing is."""
    record = read_record(folder)
    if record is None:
        return f"{RECORD} is missing or unreadable"
    for name, digest in record["files"].items():
        found = inputs.sha256(folder / name)
        if found != digest:
            return f"{name} is {'missing' if found is None else 'not what the run wrote'}"
    return ""


def stale(record: dict[str, Any], notebook: str, parameters: dict[str, Any], root: Path) -> str:
    """Which of notebook, package, parameters and inputs changed since the run; empty if none did."""
    reasons = [
        name
        for name, value in (("notebook", notebook), ("package", package_hash()))
        if record["hashes"].get(name) != value
    ]
    then = record["parameters"]
    differing = sorted(
        name
        for name in {*then, *parameters}
        if json.dumps(then.get(name, ...), default=str) != json.dumps(parameters.get(name, ...), default=str)
    )
    if differing:
        reasons.append(f"parameters ({', '.join(differing)})")
    moved = inputs.changed(record["results"]["inputs"], root)
    if moved:
        reasons.append(f"inputs ({', '.join(moved)})")
    return " and ".join(reasons) + " changed" if reasons else ""


def state(project: Project, profile: str, name: str, notebook: str, parameters: dict[str, Any]) -> State:
    """How the result of a notebook stands; `notebook` is its hash, `parameters` what a run would get now."""
    folder = project.result(profile, name)
    found = _result_state(folder, notebook, parameters, project.root)
    failure = read_failure(project, profile, name)
    if failure is None:
        return found
    if found.kind == "complete":
        return State("complete", f"a later attempt failed ({failure})")
    kept = "" if found.kind in ("never run", "damaged") else "; the previous complete result is kept"
    return State("failed", f"{failure}{kept}")


def _result_state(folder: Path, notebook: str, parameters: dict[str, Any], root: Path) -> State:
    if not folder.exists():
        return State("never run")
    broken = damage(folder)
    if broken:
        return State("damaged", broken)
    record = read_record(folder)
    reasons = stale(record, notebook, parameters, root) if record else ""
    return (
        State("stale", reasons) if reasons else State("complete", f"{record['finished'] if record else ''}")
    )


def read_failure(project: Project, profile: str, name: str) -> str | None:
    """The message of the last attempt if it failed."""
    path = project.failed(profile, name) / "failure.txt"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None

"""A batch: what is stale is worked out, written down as a plan, and run by Snakemake, one job a notebook."""

import json
import shutil
import signal
import sys
from dataclasses import dataclass
from typing import Any, TextIO

import psutil

from xai_lib.errors import XaiError
from xai_lib.runs import engine, folders, freshness, hardware, notebook, progress, shards
from xai_lib.runs.freshness import State
from xai_lib.runs.lock import Lock, hold, is_held
from xai_lib.runs.parameters import parse_options, read, resolve
from xai_lib.runs.project import Project, profile_parameters, select, write_whole

MEMORY = 5_000_000_000
"""Bytes that are left to each notebook (our choice)."""
CLUSTER_JOBS, CLUSTER_THREADS = 100, 4
"""Jobs at a time and threads of each on a cluster, where neither the command nor the executor's profile says it."""


CAUSES = {
    "running": "was killed (often: out of memory)",
    "stopped": "was ended from outside (by the cluster, or at its time limit)",
}
"""Why a job may have ended without saying how, by what it said last."""


class BatchError(XaiError):
    """The batch itself failed, not a notebook of it."""

    exit_code = 1


@dataclass(frozen=True)
class Standing:
    """A notebook, the parameters a run would get now, its hash, and how its result stands."""

    name: str
    parameters: dict[str, Any]
    hash: str
    state: State


@dataclass(frozen=True)
class Manner:
    """How notebooks are run: what does not change their results.

    `jobs` None: as many at a time as the machine bears; `timeout`: seconds for each cell; `shards`: in how many jobs
    the notebooks' long measurements are split; `executor`: Snakemake's name of what runs the jobs.
    """

    jobs: int | None = None
    timeout: int | None = None
    force: bool = False
    shards: int = 1
    executor: str = engine.LOCAL


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
    manner: Manner,
    stream: TextIO,
) -> Outcome:
    """Run what is not complete, or all where `manner` forces it.

    Raises what `survey` raises before anything is touched, and HeldError while another batch runs.
    """
    survey(project, profile, wanted, options)
    engine.check(manner.executor)
    _prepare_folders(project, profile)
    with hold(project, profile) as lock:
        folders.heal(project.runs / profile)
        standings = survey(project, profile, wanted, options, held=False)
        todo = [each for each in standings if manner.force or each.state.kind != "complete"]
        for each in standings:
            if each not in todo:
                stream.write(f"{each.name}: complete, skipped ({each.state.detail})\n")
        stream.flush()
        if not todo:
            return Outcome(0, [])
        plan = _plan(project, profile, todo, manner)
        for name, entry in plan["notebooks"].items():
            _forget(project, profile, name, entry, manner.force)
        return _run(project, profile, lock, plan, stream)


def bearable() -> int:
    """Notebooks that this machine bears at a time: two cores and `MEMORY` each, at least one (our choice)."""
    return max(1, min(hardware.cores() // 2, psutil.virtual_memory().available // MEMORY))


def _forget(project: Project, profile: str, name: str, entry: dict[str, Any], force: bool) -> None:
    """Remove what earlier batches left to be read, except what shards have measured and is still right."""
    state, units = project.state(profile), project.units(profile, name)
    if force:
        folders.remove(units)
    shards_now = [name + shard.suffix for shard in shards.all_of(entry["shards"])]
    for path in (*state.glob(f"{name}.*"), *state.glob(f"{name}.shard-*")):
        label = path.name.removesuffix(path.suffix)
        kept = units.is_dir() and label in shards_now and shards.is_measured(path, entry["key"], project.root)
        if path.suffix in (".done", ".progress") and not kept:
            path.unlink(missing_ok=True)
    for path in project.failed(profile, name).parent.glob(f"{name}.shard-*"):
        folders.remove(path)


def _prepare_folders(project: Project, profile: str) -> None:
    """The profile's folders, before anything is run. Raises BatchError where they cannot be made."""
    for place in (project.state(profile).parent, project.state(profile), project.runs / profile):
        if place.exists() and not place.is_dir():
            raise BatchError(f"{place} is a file, a folder for the results was expected: move it away")
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BatchError(f"the folder for the results cannot be made: {error}") from error


def _run(project: Project, profile: str, lock: Lock, plan: dict[str, Any], stream: TextIO) -> Outcome:
    state = project.state(profile)
    labels = [
        name + suffix
        for name, entry in plan["notebooks"].items()
        for suffix in (*(shard.suffix for shard in shards.all_of(entry["shards"])), "")
        if not (state / f"{name}{suffix}.done").exists()
    ]
    with engine.sockets() as folder:
        plan["sockets"] = str(folder)
        write_whole(state / "plan.json", json.dumps(plan, indent=1))
        lines = progress.Progress(labels, state, stream)
        try:
            code = engine.drive(project, state, lock, plan, lines)
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
    ended = {label: progress.read(state, label).get("state", "") for label in labels}
    failures = [
        message
        for label, how in ended.items()
        if how != "complete" and (message := _failure(project, profile, label, how, ended))
    ]
    return Outcome(1 if failures else 0, failures)


def _plan(project: Project, profile: str, todo: list[Standing], manner: Manner) -> dict[str, Any]:
    counts = {
        each.name: manner.shards if shards.can_split(notebook.load(project.notebook(each.name))) else 1
        for each in todo
    }
    entries = {
        each.name: {
            "parameters": each.parameters,
            "key": freshness.key(each.hash, freshness.package_hash(), each.parameters),
            "shards": counts[each.name],
        }
        for each in todo
    }
    here = manner.executor == engine.LOCAL
    jobs = manner.jobs or (bearable() if here else CLUSTER_JOBS)
    jobs = min(jobs, sum(counts.values()))
    return {
        "plan": str(project.state(profile) / "plan.json"),
        "root": str(project.root),
        "profile": profile,
        "python": sys.executable,
        "executor": manner.executor,
        "jobs": jobs,
        "threads": max(1, hardware.cores() // jobs) if here else CLUSTER_THREADS,
        "timeout": manner.timeout,
        "notebooks": entries,
    }


def _failure(project: Project, profile: str, label: str, how: str, ended: dict[str, str]) -> str:
    """What is told of a job that is not complete, and kept for `xai status`; nothing where its shards tell it."""
    failed = project.failed(profile, label)
    log = failed / "log.txt"
    broken = [each for each in ended if each.startswith(f"{label}.shard-") and ended[each] != "complete"]
    if not how and broken:
        first = freshness.read_failure(project, profile, broken[0])
        rest = f" (and {len(broken) - 1} more of its shards)" if len(broken) > 1 else ""
        folders.remove(failed)
        shutil.copytree(project.failed(profile, broken[0]), failed)
        write_whole(failed / "failure.txt", f"{first}{rest}; the same command runs what is missing")
        return ""
    if how != "failed":  # the job was killed before it could say anything
        log = project.state(profile) / "snakemake.log"
        cause = CAUSES.get(how, "did not start")
        write_whole(failed / "failure.txt", f"{label}: its job {cause}")
    return f"{freshness.read_failure(project, profile, label)}\n  log: {project.relative(log)}"

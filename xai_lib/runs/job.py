"""What one job of the batch is told: which notebook to run, with which parameters, and where."""

import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xai_lib.runs import folders, freshness, notebook, shards
from xai_lib.runs.project import Project, write_whole

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Job:
    """One run of one notebook, from the plan that the batch wrote."""

    project: Project
    profile: str
    name: str
    parameters: dict[str, Any]
    threads: int
    timeout: int | None
    folder: Path
    """A short private folder for the kernel's sockets."""
    key: str
    """What is known of the run before it starts (see `freshness.key`)."""
    shard: shards.Shard | None = None
    """None: the whole notebook."""
    began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.source = notebook.load(self.project.notebook(self.name))
        self.package = freshness.package_hash()
        self.result = self.project.result(self.profile, self.name)
        self.working = folders.sibling(self.result)
        self.label = self.name + (self.shard.suffix if self.shard else "")
        self.log = self.project.state(self.profile) / f"{self.label}.log"
        self.failed = self.project.failed(self.profile, self.label)

    def say(self, state: str, **more: Any) -> None:
        """Leave word for the batch."""
        said = {"state": state, "pid": os.getpid(), "began": self.began, **more}
        write_whole(self.project.state(self.profile) / f"{self.label}.progress", json.dumps(said))

    def environment(self) -> dict[str, str]:
        """The kernel's: threads are set before it starts, as numeric libraries read them when they load."""
        own = {
            "XAI_RUN_ROOT": str(self.project.root),
            "XAI_RUN_PACKAGE": self.package,
            "XAI_RUN_UNITS": str(self.project.units(self.profile, self.name)),
            "IPYTHONDIR": str(self.folder / "ipython"),
        }
        if self.shard:
            own[shards.VARIABLE] = f"{self.shard.number}/{self.shard.count}"
        return {**os.environ, **dict.fromkeys(THREADS, str(self.threads)), **own}


def read_job(plan_path: Path, name: str, threads: int, shard: shards.Shard | None = None) -> Job:
    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    if Path(plan["sockets"]).is_dir():
        folder = Path(plan["sockets"]) / str(os.getpid())
    else:  # on another node of a cluster
        folder = Path(tempfile.mkdtemp(prefix="xai-", dir=short_folder()))
    (folder / "ipython").mkdir(parents=True)
    return Job(
        Project(Path(plan["root"])),
        plan["profile"],
        name,
        plan["notebooks"][name]["parameters"],
        threads,
        plan["timeout"],
        folder,
        plan["notebooks"][name]["key"],
        shard,
    )


def short_folder() -> str | None:
    """A temporary folder with a short path: sockets allow a hundred bytes, a user's TMPDIR may have more."""
    return "/tmp" if os.access("/tmp", os.W_OK) else None

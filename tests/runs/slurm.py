"""A SLURM cluster of one node on loopback, by Debian's packages slurm-wlm and munge, for as long as a test needs it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

CONFIGURATION = Path("/etc/slurm/slurm.conf")  # Snakemake's plug-in drops SLURM_CONF on its way to the node
TEMPLATE = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
"""


def reason_against() -> str:
    """Why no cluster can be started here; empty where it can."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "starting SLURM needs root"
    return f"{CONFIGURATION} is there: this machine has a cluster" if CONFIGURATION.exists() else ""


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """The cluster, running and idle; ended with everything that it started."""
    if reason := reason_against():
        pytest.skip(reason)
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    cores = len(os.sched_getaffinity(0))
    text = TEMPLATE.format(host=host, cores=cores, folder=folder, ports=_free_ports())
    (folder / "slurm.conf").write_text(text)
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.symlink_to(folder / "slurm.conf")
    before = set(psutil.pids())
    try:
        if not _munge_answers():
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge")
            subprocess.run(["su", "munge", "-s", "/bin/sh", "-c", "munged --force"], check=True)
            _wait_for(_munge_answers, "munged does not answer")
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon], check=True)
        _wait_for(_idle, folder / "slurmctld.log")
        yield
    finally:
        CONFIGURATION.unlink()
        for process in psutil.process_iter():
            names = ("slurmctld", "slurmd", "slurmstepd", "slurmscriptd", "munged", ": slurmscriptd")
            if process.pid not in before and process.name() in names:
                process.kill()


def _free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _munge_answers() -> bool:
    """Whether a credential can be made: a daemon that was killed may still stand in the list of processes."""
    return subprocess.run(["munge", "-n"], capture_output=True).returncode == 0


def _idle() -> bool:
    return "idle" in subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout


def _wait_for(condition: Callable[[], bool], reason: str | Path) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, reason.read_text() if isinstance(reason, Path) else reason
        time.sleep(0.2)


def queue() -> list[str]:
    """Identifiers of jobs that wait or run."""
    return subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True).stdout.split()


def small_profile(runs: Path, threads: int = 1) -> None:
    """The project's own profile, cut to few cores and little memory, and told that nobody keeps accounts."""
    shipped = Path(__file__).resolve().parents[2] / "papermill_runs" / "executors" / "slurm"
    settings = yaml.safe_load((shipped / "config.yaml").read_text())
    settings["default-resources"]["mem_mb"] = 1500
    settings["set-threads"] = dict.fromkeys(settings["set-threads"], threads)
    settings |= {"slurm-no-account": True, "slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 8}
    target = runs / "executors" / "slurm"
    target.mkdir(parents=True)
    (target / "config.yaml").write_text(yaml.safe_dump(settings))

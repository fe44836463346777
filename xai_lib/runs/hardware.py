"""The machine that a run has."""

import os
import platform
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """System, architecture, processor, its widest vector instructions and cores, for `run.json`.

    A virtual machine may give processors with and without AVX-512 one name, and torch's last digits differ between them.
    """
    return {
        "system": platform.system(), "machine": platform.machine(), "cpu": _cpu(), "vectors": _vectors(), "cores": cores(),
    }  # fmt: skip


def _cpu() -> str:
    return _of_cpuinfo("model name") or platform.processor() or platform.machine()


def _vectors() -> str:
    flags = _of_cpuinfo("flags").split()
    return next((name for name in ("avx512f", "avx2") if name in flags), "")


def _of_cpuinfo(entry: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(entry))
    except (OSError, StopIteration):
        return ""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

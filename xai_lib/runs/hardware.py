"""The machine that a run has."""

import os
import platform
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """System, architecture, processor and cores, for `run.json`."""
    return {"system": platform.system(), "machine": platform.machine(), "cpu": _cpu(), "cores": cores()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

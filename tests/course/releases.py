"""What students get: a release version, made by nbgrader with the project's own configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "notebooks" / "assignments"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/*.ipynb"))


def made(name: str, root: Path) -> Path:
    """The release of an assignment, in a project of its own at `root`."""
    shutil.copytree(FOLDER, root / "notebooks" / "assignments")
    (root / "course").mkdir()
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", name, "--create", "--log-level=WARN"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # nbgrader calls `alembic` by name
    there, environment = root / "notebooks" / "assignments", {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "course" / "release" / name / f"{name}.ipynb"

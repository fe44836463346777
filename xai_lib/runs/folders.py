"""A result appears whole or not at all: work beside it, swap at the end, heal and sweep what a crash left.

The sibling of a result is `.<notebook>.run-<pid>-<time>`, the previous result on its way out
`.<notebook>.old-<pid>-<time>`; both lie on the result's file system. Whoever calls this module holds the
batch's lock.
"""

import os
import re
import shutil
import time
from pathlib import Path

from xai_lib.runs import inputs

_SIBLING = re.compile(r"\.(?P<name>.+)\.(?P<kind>run|old)-\d+-\d+")


def sibling(result: Path, kind: str = "run") -> Path:
    """A name beside the result, of this process and moment."""
    return result.with_name(f".{result.name}.{kind}-{os.getpid()}-{time.time_ns() // 1_000_000}")


def files(folder: Path, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """sha256 of every file under a folder, by its place in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = ((path.relative_to(folder).as_posix(), path) for path in paths)
    return {name: inputs.sha256(path) or "" for name, path in names if name not in leave_out}


def swap(working: Path, result: Path) -> None:
    """Put a finished folder in the result's place; the old result stays until the new one is there."""
    for path in working.rglob("*"):
        _flush(path)
    _flush(working)
    old = sibling(result, "old")
    if result.exists():
        result.rename(old)
    working.rename(result)
    _flush(result.parent)
    remove(old)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder or file, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def heal(profile: Path) -> None:
    """Put back a result that a crash left aside, then remove what unfinished runs left."""
    left = [(path, _SIBLING.fullmatch(path.name)) for path in sorted(profile.glob(".*"), reverse=True)]
    for path, match in left:
        if match and match["kind"] == "old" and not (profile / match["name"]).exists():
            path.rename(profile / match["name"])
    for path, match in left:
        if match:
            remove(path)

"""Files that a result depends on, under names that mean the same on another machine."""

import hashlib
import os
import sysconfig
from pathlib import Path
from typing import TypedDict


class Input(TypedDict):
    """A file that was read, or looked for: `sha256` is None where it was absent."""

    path: str
    sha256: str | None


def _anchors(root: Path) -> list[tuple[str, Path]]:
    """Names of places, the deepest first: a virtual environment may lie in the project."""
    places = [
        (f"${name}", Path(os.environ[name]))
        for name in ("XAI_DATA_HOME", "XAI_WEIGHTS_HOME")
        if os.environ.get(name)
    ]
    places += [("$SITE_PACKAGES", Path(sysconfig.get_path("purelib"))), (".", root), ("~", Path.home())]
    resolved = [(name, place.resolve()) for name, place in places]
    return sorted(resolved, key=lambda place: len(place[1].parts), reverse=True)


def portable(path: Path, root: Path) -> str:
    """The path from one of our variables, the installed packages, the project or the home folder on."""
    path = Path(os.path.abspath(path))
    for candidate in (path, path.resolve()):
        for name, place in _anchors(root):
            if candidate.is_relative_to(place):
                rest = candidate.relative_to(place).as_posix()
                return rest if name == "." else f"{name}/{rest}"
    return path.as_posix()


def located(text: str, root: Path) -> Path | None:
    """The file that `portable` named, on this machine; None where its variable is not set."""
    first, _, rest = text.partition("/")
    if first == "~":
        return Path.home() / rest
    if first == "$SITE_PACKAGES":
        return Path(sysconfig.get_path("purelib")) / rest
    if first.startswith("$"):
        return Path(os.environ[first[1:]]) / rest if os.environ.get(first[1:]) else None
    return root / text


def sha256(path: Path | None) -> str | None:
    """sha256 of a file's content; None if there is no such file."""
    if path is None or not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def changed(inputs: list[Input], root: Path) -> list[str]:
    """Those of a run's inputs that are not what they were: other content, gone, or there now."""
    return [entry["path"] for entry in inputs if sha256(located(entry["path"], root)) != entry["sha256"]]

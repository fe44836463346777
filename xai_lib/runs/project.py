"""Where things lie: the project's root, its notebooks and profiles, and the folders of a run."""

import difflib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from xai_lib.errors import XaiError


class ProjectError(XaiError):
    """A project, notebook or profile that cannot be found or read."""


@dataclass(frozen=True)
class Project:
    """A folder with `notebooks/` and `papermill_runs/`; every path of a run is derived here."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "papermill_runs"

    def notebook(self, name: str) -> Path:
        return self.root / "notebooks" / f"{name}.ipynb"

    def result(self, profile: str, name: str) -> Path:
        """The complete result of a notebook; it is whole or absent."""
        return self.runs / profile / name

    def failed(self, profile: str, name: str) -> Path:
        """What a failed run left: its notebook and its log."""
        return self.runs / profile / ".failed" / name

    def units(self, profile: str, name: str) -> Path:
        """Units of work already measured by a run that did not end (see `Results.unit`)."""
        return self.runs / profile / ".units" / name

    def state(self, profile: str) -> Path:
        """Lock, plan, stamps, progress and logs of a batch: nothing a reader needs."""
        return self.runs / ".state" / profile

    def relative(self, path: Path) -> str:
        """The path as a reader at the project's root would type it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def cards(self) -> list[Path]:
        """The cards of methods, where the project's package has any."""
        return sorted(self.root.glob("*/cards/methods/*.md"))

    def names(self) -> list[str]:
        return sorted(path.stem for path in (self.root / "notebooks").glob("*.ipynb"))

    def profiles(self) -> list[str]:
        return sorted(path.stem for path in (self.runs / "profiles").glob("*.yaml"))


def find(root: Path | None = None) -> Project:
    """The project at `root`, or else at or above the current directory, or where this package lies."""
    if root is not None:
        if _is_project(root):
            return Project(root.resolve())
        raise ProjectError(f"{root} is no project: a folder with notebooks/ and papermill_runs/ was expected")
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if _is_project(folder):
            return Project(folder)
    raise ProjectError(
        f"no project at or above {here}: a folder with notebooks/ and papermill_runs/ was expected. "
        "Change to it, or name it with --root"
    )


def _is_project(folder: Path) -> bool:
    return (folder / "notebooks").is_dir() and (folder / "papermill_runs").is_dir()


def select(project: Project, wanted: list[str]) -> list[str]:
    """Names of the notebooks meant by `01_elime`, `01`, `elime` or a path, each once; none means all."""
    names = project.names()
    if not names:
        raise ProjectError(f"no notebook (*.ipynb) in {project.root / 'notebooks'}")
    return list(dict.fromkeys(_match(text, names) for text in wanted)) if wanted else names


def _match(text: str, names: list[str]) -> str:
    stem = Path(text).stem if text.endswith(".ipynb") else text
    found = [name for name in names if stem == name or stem in name.split("_", 1)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ProjectError(f"'{text}' could be any of {', '.join(found)}: name one of them in full")
    parts = {part: name for name in names for part in (name, *name.split("_", 1))}
    near = dict.fromkeys(parts[part] for part in difflib.get_close_matches(stem, parts, n=3, cutoff=0.5))
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ProjectError(f"no notebook '{text}'{hint}. There are: {', '.join(names)}")


def profile_parameters(project: Project, profile: str) -> dict[str, dict[str, Any]]:
    """Notebook -> parameter -> value, as written in `papermill_runs/profiles/<profile>.yaml`."""
    path = project.runs / "profiles" / f"{profile}.yaml"
    if not path.is_file():
        known = project.profiles()
        near = difflib.get_close_matches(profile, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise ProjectError(f"no profile '{profile}'{hint} There are: {', '.join(known) or 'none'}")
    content = _read_yaml(path)
    for name, values in content.items():
        if name not in project.names():
            raise ProjectError(
                f"{project.relative(path)} names the notebook '{name}', which is not there. "
                f"There are: {', '.join(project.names())}"
            )
        if not isinstance(values, dict | None):
            raise ProjectError(
                f"{project.relative(path)}: '{name}' must hold 'parameter: value' lines, found {values!r}"
            )
    return {name: values or {} for name, values in content.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ProjectError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ProjectError(f"{path} must map a notebook to its parameters, found {content!r}")
    return content


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")  # a cluster has pids twice
    part.write_text(text, encoding="utf-8")
    part.replace(path)

"""A notebook as a file: its title, the heading above a cell, and the hash of what it says."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from xai_lib.errors import XaiError


class NotebookError(XaiError):
    """A notebook that cannot be read."""


def load(path: Path) -> dict[str, Any]:
    """The notebook as the dictionary that its JSON is, with each source as one text. nbformat 4 only."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["nbformat"] != 4:
            raise NotebookError(
                f"{path} is nbformat {content['nbformat']}, 4 was expected: save it with JupyterLab"
            )
        for cell in content["cells"]:
            cell["source"] = "".join(cell["source"])
            cell.setdefault("metadata", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotebookError(f"{path} is no notebook: {type(error).__name__}: {error}") from error
    return content


def content_hash(notebook: dict[str, Any]) -> str:
    """sha256 of each cell's type, source and tags: outputs, counts and other metadata do not count."""
    said = [
        [cell["cell_type"], cell["source"], cell["metadata"].get("tags", [])] for cell in notebook["cells"]
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def title(notebook: dict[str, Any], name: str) -> str:
    """The first heading, else the name."""
    return heading_above(notebook["cells"], len(notebook["cells"]), first=True) or name


def reference(notebook: dict[str, Any]) -> str:
    """The first line of text under the title: by convention the paper."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            lines = [line.strip() for line in cell["source"].splitlines()]
            return next((_plain(line) for line in lines if line and not line.startswith("#")), "")
    return ""


def heading_above(cells: list[Any], index: int, first: bool = False) -> str:
    """The last (or first) Markdown heading among the cells before `index`; empty if there is none."""
    text = "\n".join(cell["source"] for cell in cells[:index] if cell["cell_type"] == "markdown")
    found = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, flags=re.MULTILINE)
    return _plain(found[0 if first else -1]) if found else ""


def _plain(text: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[*`]{1,3}(\S(?:.*?\S)?)[*`]{1,3}", r"\1", text)

"""Model cards (Mitchell et al. 2019): what a file of weights is, how good, and how to make it again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch


def write(file: Path, title: str, sections: Mapping[str, str], weights: Sequence[Path]) -> Path:
    """A Markdown file: the sections in order, then size and sha256 of the weights and the versions that made them."""
    lines = [f"# {title}", ""]
    for heading, text in sections.items():
        lines += [f"## {heading}", "", text.strip(), ""]
    lines += ["## Files", "", "| file | bytes | sha256 |", "|---|---|---|"]
    for path in weights:
        content = path.read_bytes()
        lines.append(f"| {path.name} | {len(content)} | `{hashlib.sha256(content).hexdigest()}` |")
    version = torch.__version__.split("+")[0]
    lines += ["", f"Made with torch {version}. Licence: MIT, as the project; the pictures are drawn by it.", ""]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file

"""Print the table of methods in Markdown; with a file's name, renew the table between that file's markers."""

from __future__ import annotations

import sys
from pathlib import Path

from xai_lib import explainers
from xai_lib.errors import XaiError
from xai_lib.explanation import registered

BEGIN, END = "<!-- methods:begin -->", "<!-- methods:end -->"


class MarkersError(XaiError):
    """A file without the two lines between which the table belongs."""


def table() -> str:
    """One row a registered method: its name with a link to its card, title, needs, cost and source."""
    explainers.names()  # imports them all
    rows = ["| name | method | needs of the network | calls an image | source |", "|---|---|---|---|---|"]
    for name, method in registered().items():
        linked = f"[`{name}`](xai_lib/cards/methods/{name}.md)" if (explainers.CARDS / f"{name}.md").is_file() else f"`{name}`"
        rows.append(f"| {linked} | {method.title} | {method.needs} | {method.cost} | {method.source} |")
    return "\n".join(rows)


def renew(text: str) -> str:
    """`text` with the table between its markers; raises `MarkersError` where they are not."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MarkersError(f"expected the lines {BEGIN} and {END}, found {'only the first' if begin else 'neither'}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(files: list[str]) -> None:
    for file in map(Path, files):
        file.write_text(renew(file.read_text(encoding="utf-8")), encoding="utf-8")
    if not files:
        print(table())


if __name__ == "__main__":
    main(sys.argv[1:])

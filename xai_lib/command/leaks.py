"""`xai leaks`: the leak detector in a terminal and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xai_lib.command.leaks_words import cells, rules, verdict
from xai_lib.runs.command import app

if TYPE_CHECKING:
    from xai_lib.leaks import Leaks

SHOWN = 10  # damaged files that are named in the terminal
EXIT_CODES = "Exit codes: 0 no leak found; 4 a leak found; 2 usage (no such folder, no pictures, nothing to compare)."
HELP = f"""Look for leaks in labelled pictures: what lets a network name the class without understanding the picture.

FOLDER holds CLASS/*.jpg or SPLIT/CLASS/*.jpg (any format, any names), or is called brain-mri: the scans of paper 4, by their
list, for which no file is needed. Looked for are copies across splits and classes: exact ones, and near ones, which a perceptual
hash proposes and the images confirm: other size, shape, compression, grey, contrast, mild blur, mirrored, rotated by 90 degrees.
Not looked for: crops, added borders, negatives, other angles; flat images are never near copies, drawings and text only upright.
And whether picture size, flat borders, or what the file says of camera and program tell the class: by a decision tree that sees
nothing else, against always naming the commonest class. Damaged files are named and left out.

\b
Examples:
  xai leaks my/scans
  xai leaks my/scans --out leaks     also leaks/index.html, with the copies side by side, and tables as CSV
  xai leaks my/scans --near -1       exact copies alone
  xai leaks my/scans --upright       no mirrored or rotated copies, where left and right are the classes
  xai leaks brain-mri

{EXIT_CODES}"""


@app.command("leaks", help=HELP, short_help="Look for copies and shortcuts in labelled pictures.")
def look(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder of labelled pictures, or brain-mri.", show_default=False)
    ],
    near: Annotated[
        int, typer.Option(min=-1, max=32, metavar="BITS", help="Bits of 64 in which near copies may differ; -1 for none.")
    ] = 4,
    upright: Annotated[bool, typer.Option("--upright", help="Leave out mirrored and rotated copies.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", show_default=False, help="Write tables, pictures and a page here.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that read files.")] = 1,
    pairs: Annotated[int, typer.Option(min=0, help="Pairs of copies on the page.")] = 24,
) -> None:
    import sys

    from xai_lib import leaks
    from xai_lib.images import ImageError

    if out is not None and out.exists() and not out.is_dir():
        raise ImageError(f"--out {out}: expected a folder, found a file")
    found = leaks.find(folder, near, turns=not upright, jobs=jobs, progress=sys.stderr.isatty())
    for line in _lines(folder, found):
        typer.echo(line)
    for path, reason in list(found.failures.items())[:SHOWN]:
        typer.echo(f"left out: {reason if path in reason else f'{path}: {reason}'}", err=True)
    if len(found.failures) > SHOWN:
        typer.echo(f"left out: {len(found.failures) - SHOWN} more", err=True)
    if out is not None:
        from xai_lib.command.leaks_page import write

        typer.echo(f"page: {write(found, folder, out, pairs)}")
    raise typer.Exit(4 if found.found else 0)


def _lines(folder: str, found: Leaks) -> list[str]:
    pictures, table = found.pictures, found.table()
    kinds, parts = (sorted(set(pictures[column]) - {""}) for column in ("class", "split"))
    head = f"{folder}: {len(pictures)} pictures, {len(kinds)} classes ({_some(kinds)})"
    lines = [head + (f", splits {_some(parts)}" if parts else ", no splits"), ""]
    rows = cells(table)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    told = [f"telling: {rule}" for rule in rules(table)] + [f"note: {note}" for note in found.notes]
    told.append(f"note: {found.limits}")
    return [*lines, "", *told, "", verdict(found)]


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

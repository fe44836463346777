"""A run's tables held against the committed reference: what moved further than each table's tolerance allows.

A table's tolerance is declared where the notebook hands it over (`Results.table`) and lies in `run.json` beside its
name and caption; the reference's counts. Times are left out.
"""

import csv
import fnmatch
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xai_lib.errors import XaiError
from xai_lib.runs import freshness
from xai_lib.runs.project import Project

TOLERANCE = 1e-4
"""Largest difference of a number, over the larger of 1 and the reference's value, where a table declares none."""
TIMES = "*seconds*"
"""Columns that are never compared."""
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")

Limit = float | None | tuple[float, float | None]
"""None: not compared. A pair, for what a search found, which a last digit may send elsewhere: the first where processor, threads,
threads, torch and declared facts (`Results.record`) are the reference's, the second on other machines."""
Tolerance = Limit | dict[str, Limit]
"""One for all columns, or by column (`*` stands for anything, the first that fits counts)."""


class DamagedReferenceError(XaiError):
    """The committed reference is not what was published."""

    exit_code = 1


@dataclass
class Comparison:
    """How one notebook's result stands to its reference. Nothing `moved`: it holds."""

    moved: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    """What cannot be compared here: a network whose weights are not on this machine."""
    held: int = 0
    """Values that agree."""
    left_out: int = 0
    """Values whose column is not to be compared, such as times."""


def compare(project: Project, profile: str, name: str) -> Comparison | None:
    """A notebook's result against its reference; None where none is committed.

    Raises DamagedReferenceError where the reference itself cannot be read.
    """
    reference, result = project.runs / "reference" / profile / name, project.result(profile, name)
    if not reference.is_dir():
        return None
    theirs, ours, found = freshness.read_record(reference), freshness.read_record(result), Comparison()
    if theirs is None or freshness.damage(reference):
        raise DamagedReferenceError(f"the reference is damaged: {project.relative(reference)}: {freshness.damage(reference)}")
    if ours is None or freshness.damage(result):
        why = "there is no result" if not result.exists() else f"the result is damaged: {freshness.damage(result)}"
        found.moved.append(f"{why}; xai run {name} --profile {profile} makes one")
        return found
    then, now = theirs["parameters"], ours["parameters"]
    differing = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
    if differing:
        found.moved.append(f"it was run with other parameters than the reference: {', '.join(differing)}")
        return found
    partly = bool(_absent(theirs, ours, found))
    alike = _machine(theirs) == _machine(ours)
    for table in theirs["results"]["tables"]:
        if table["file"] in theirs["files"]:
            limits = _limits(table.get("tolerance", TOLERANCE), alike)
            _compare_files(reference, result, table, limits, partly, found)
    return found


def _machine(record: dict[str, Any]) -> tuple[Any, ...]:
    """What decides on last digits: processor, vectors, threads, torch, and facts such as the arithmetic of a search."""
    hardware, torch = record["hardware"], record["versions"].get("torch")
    return hardware["cpu"], hardware.get("vectors"), hardware["threads"], torch, record["results"].get("record")


def _limits(declared: Tolerance | list[Any], alike: bool) -> dict[str, float | None]:
    by_column = declared if isinstance(declared, dict) else {"*": declared}
    return {
        column: limit if not isinstance(limit, list | tuple) else limit[0 if alike else 1]
        for column, limit in by_column.items()
    }


def _absent(theirs: dict[str, Any], ours: dict[str, Any], found: Comparison) -> list[str]:
    """Files that the reference was made with and that are not here; those that are others have moved."""
    now = {entry["path"]: entry["sha256"] for entry in ours["results"]["inputs"]}
    then = {entry["path"]: entry["sha256"] for entry in theirs["results"]["inputs"]}
    absent = [path for path, sha in then.items() if sha and path in now and not now[path]]
    if absent:
        found.not_compared.append(f"what the reference made with {', '.join(absent)}: not on this machine")
    found.moved += [f"the input {p} is another" for p, sha in then.items() if sha and now.get(p) not in (None, sha)]
    return absent


def _compare_files(
    reference: Path, result: Path, table: dict[str, Any], limits: dict[str, float | None], partly: bool, found: Comparison
) -> None:
    if not (result / table["file"]).is_file():
        found.moved.append(f"{table['name']}: the table is missing")
        return
    (head, *then), (new_head, *now) = _read(reference / table["file"]), _read(result / table["file"])
    if head != new_head:
        found.moved.append(f"{table['name']}: columns {', '.join(new_head)}, in the reference {', '.join(head)}")
        return
    names = _names(then)
    rows, new_rows = _by_name(then, names), _by_name(now, names)
    for row in [row for row in rows if row not in new_rows] if not partly else []:
        found.moved.append(f"{table['name']}: the row '{row}' is missing")
    for row in [row for row in new_rows if row not in rows]:
        found.moved.append(f"{table['name']}: the row '{row}' is not in the reference")
    allowed = [_limit(limits, column) for column in head]
    for row in (row for row in rows if row in new_rows):
        for column, limit, old, new in zip(head, allowed, rows[row], new_rows[row], strict=True):
            if limit is None:
                found.left_out += 1
            elif _agree(old, new, limit):
                found.held += 1
            elif not (partly and not new):
                found.moved.append(f"{table['name']}: {row}: {column} {new or 'empty'}, {old or 'empty'} in the reference")


def _read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream)) or [[]]


def _names(rows: list[list[str]]) -> int:
    """How many columns from the left on name a row: those without numbers."""
    columns = list(zip(*rows, strict=True))
    return next((i for i, column in enumerate(columns) if any(_is_number(c) or not c for c in column)), len(columns))


def _by_name(rows: list[list[str]], names: int) -> dict[str, list[str]]:
    """Rows by what they are called, counted where they have no name or it comes again."""
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        name = ", ".join(row[:names])
        seen[name] += 1
        found[name if name and seen[name] == 1 else f"{name or 'row'} {seen[name]}"] = row
    return found


def _limit(limits: dict[str, float | None], column: str) -> float | None:
    if fnmatch.fnmatchcase(column, TIMES):
        return None
    return next((limit for pattern, limit in limits.items() if fnmatch.fnmatchcase(column, pattern)), TOLERANCE)


def _agree(old: str, new: str, limit: float) -> bool:
    """Whether two cells are the same but for their numbers, and those differ by no more than the limit."""
    if old == new:
        return True
    pairs = list(zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=False))
    if _NUMBER.sub("0", old) != _NUMBER.sub("0", new) or not pairs:
        return False
    return all(abs(float(a) - float(b)) <= limit * max(1.0, abs(float(a))) for a, b in pairs)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def lines(name: str, found: Comparison) -> Iterator[str]:
    """What is printed of one notebook."""
    verdict = f"{len(found.moved)} moved" if found.moved else "holds"
    yield f"{name}  {verdict}: {found.held} values agree with the reference, {found.left_out} not compared (times)"
    for text in found.moved:
        yield f"    {text}"
    for text in found.not_compared:
        yield f"    not compared: {text}"

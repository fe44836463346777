"""Copying a complete result to where it is committed, for readers who have not run anything."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

from xai_lib.errors import XaiError
from xai_lib.runs import folders, freshness

VERDICTS = {"true": "yes", "false": "**no**", "": "cannot be said"}
LIMIT = 3_000_000
"""Bytes that a committed result may have."""


class PublishError(XaiError):
    """A result that must not be committed: incomplete, damaged or too large."""

    exit_code = 1


def publish(
    result_folder: str | Path, target_folder: str | Path, *, tables_only: bool = False, limit: int = LIMIT
) -> Path:
    """Copy a complete result over `target_folder`, whole or not at all; returns the target.

    The HTML is left out if the whole would pass `limit` bytes, then the notebook too, so that tables and figures stay.
    With `tables_only` only the tables, `claims.csv` and `run.json` go. What is left out is named in the copy's
    `run.json`. Raises PublishError for a result that is damaged or still too large.
    """
    source, target = Path(result_folder), Path(target_folder)
    broken = freshness.damage(source) if source.is_dir() else "there is no such folder"
    record = freshness.read_record(source)
    if broken or record is None:
        raise PublishError(f"{source} cannot be published: {broken}. Run the notebook first")
    sizes = {name: (source / name).stat().st_size for name in record["files"]}
    chosen = {name for name in sizes if not tables_only or name.startswith("tables/") or name == "claims.csv"}
    for kind in (".html", ".ipynb"):
        if sum(sizes[name] for name in chosen) > limit:
            chosen -= {name for name in chosen if name.endswith(kind)}
    total = sum(sizes[name] for name in chosen)
    if total > limit:
        largest = sorted(chosen, key=lambda name: -sizes[name])[:3]
        raise PublishError(
            f"{source} has {total / 1e6:.1f} MB, at most {limit / 1e6:.1f} MB are committed. Largest: "
            + ", ".join(f"{name} ({sizes[name] / 1e6:.1f} MB)" for name in largest)
        )
    record["left_out"] = sorted(set(sizes) - chosen)
    record["files"] = {name: digest for name, digest in record["files"].items() if name in chosen}
    _copy(source, target, sorted(chosen), json.dumps(record, indent=1) + "\n")
    return target


def renew_claims(readme: str, target_folder: str | Path) -> str:
    """A README whose table of claims shows those of a published result.

    The table stands between `<!-- claims PROFILE/NOTEBOOK -->` and `<!-- end of claims -->`, the count of verdicts between
    `<!-- verdicts PROFILE/NOTEBOOK -->` and `<!-- end of verdicts -->`; a README without these comes back as it is.
    """
    folder = Path(target_folder)
    if not (folder / "claims.csv").is_file():
        return readme
    with (folder / "claims.csv").open(encoding="utf-8", newline="") as stream:
        claims = list(csv.DictReader(stream))
    rows = [f"| {c['paper']} | {c['ours']} | {VERDICTS[c['holds']]} |".replace("\n", " ") for c in claims]
    table = "\n".join(["| paper says | we measured | holds |", "|---|---|---|", *rows])
    counts = Counter(VERDICTS[c["holds"]] for c in claims)
    tally = ", ".join(f"{counts[verdict]} {verdict.strip('*')}" for verdict in VERDICTS.values() if counts[verdict])
    which = f"{folder.parent.name}/{folder.name}"
    readme = _between(readme, f"<!-- claims {which} -->", f"\n{table}\n", "<!-- end of claims -->")
    return _between(readme, f"<!-- verdicts {which} -->", tally, "<!-- end of verdicts -->")


def _between(text: str, begin: str, new: str, end: str) -> str:
    """`text` with `new` between the first `begin` and the `end` that follows; as it is where either is missing."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    return f"{before}{begin}{new}{end}{after}" if found and closed else text


def _copy(source: Path, target: Path, names: list[str], record: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    working = folders.sibling(target)
    try:
        for name in names:
            (working / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, working / name)
        (working / freshness.RECORD).write_text(record, encoding="utf-8")
        folders.swap(working, target)
    finally:
        folders.remove(working)

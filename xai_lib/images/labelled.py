"""A user's own pictures in folders that are named after their classes, with or without splits above them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from xai_lib.images import Images
from xai_lib.images.decoding import ImageError, printable
from xai_lib.images.sources import Entry, nearest, pictures_below

SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")  #: names that cannot be classes


@dataclass(frozen=True)
class Labelled:
    """Labelled pictures, not yet read.

    `classes`: names by label. `table`: a row a picture with `name` (path below the folder, without suffix unless two differ
    in it alone), `split` ("" where there are none), `class`, `label` and `path`.
    """

    folder: Path
    classes: tuple[str, ...]
    table: pd.DataFrame = field(repr=False)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.table["split"].unique())

    def images(self, split: str | None = None) -> Images:
        """All pictures, or those of one split, with their labels. Raises `ImageError` for a split that is not there."""
        if split is not None and split not in self.splits:
            raise ImageError(f"{printable(self.folder)} has no split {split!r}; {_there('split', self.splits)}")
        rows = self.table if split is None else self.table[self.table["split"] == split]
        columns = (rows[column] for column in ("name", "path", "label"))
        return Images(Entry(name, path, (label,)) for name, path, label in zip(*columns, strict=True))


def load(folder: Path, classes: Sequence[str] | None = None, splits: Sequence[str] | None = None, least: int = 2) -> Labelled:
    """What `images.load_labelled` says."""
    found = survey(folder)
    here, names = printable(folder), list(classes) if classes is not None else sorted(set(found["class"]))
    if names == [""]:
        parts = " and ".join(sorted(set(found["split"])))
        raise ImageError(f"{here}: expected a folder for each class inside of {parts}, found none")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ImageError(f"{here}: expected two classes or more, all different, found {', '.join(names)}")
    for split in splits or ():
        if split not in set(found["split"]):
            there = _there("split", [s for s in found["split"].unique() if s])
            raise ImageError(f"{printable(folder / split)}: expected a folder of that split, found none; {there}")
    if found["split"].iloc[0]:
        _no_empty(folder, found["split"].unique().tolist())
    for part, rows in found.groupby("split", sort=False):
        _check(folder / str(part), Counter(rows["class"]), names, least)
    found["label"] = found["class"].map({name: i for i, name in enumerate(names)})
    return Labelled(folder, tuple(names), found)


def _no_empty(folder: Path, names: Sequence[str]) -> None:
    for below in sorted(folder.iterdir()):
        if below.is_dir() and below.name[0] != "." and printable(below.name) not in names:
            raise ImageError(f"{printable(below)}: no pictures in this folder or below")


def _check(folder: Path, counts: Mapping[str, int], names: list[str], least: int) -> None:
    """The classes of one split against those it must have."""
    here = printable(folder)
    if more := sorted(set(counts) - set(names)):
        raise ImageError(f"{here}: {more[0]!r} is none of the classes {', '.join(names)}; {nearest(more[0], names)}")
    for name in names:
        if name not in counts:
            raise ImageError(f"{here}: no folder with pictures of class {name!r}; it has {', '.join(sorted(counts))}")
        if counts[name] < least:
            some = "1 picture" if counts[name] == 1 else f"{counts[name]} pictures"
            raise ImageError(f"{printable(folder / name)}: expected {least} pictures of this class or more, found {some}")
    _no_empty(folder, names)


def survey(folder: Path) -> pd.DataFrame:
    """All pictures of labelled folders, sorted: `name`, `split`, `class` and `path`; nothing is said of what is missing.

    Folders that hold pictures of their own are classes, or splits if all are called as splits are (then `class` is "");
    folders of folders are splits. Raises `ImageError` for what is neither.
    """
    if not folder.is_dir():
        raise ImageError(f"no folder {printable(folder)!r} (paths start from {Path.cwd()})")
    all_below, here = pictures_below(folder), printable(folder)  # none at all is an error of its own
    depths = {len(path.relative_to(folder).parts) for path in all_below}
    if 1 in depths:
        stray = next(path for path in all_below if path.parent == folder)
        found = "a folder that cannot be opened" if stray.is_dir() else "a picture beside them"
        raise ImageError(f"{printable(stray)}: expected pictures in folders named after their classes, found {found}")
    tops = list(dict.fromkeys(path.relative_to(folder).parts[0] for path in all_below))
    flat = [top for top in tops if any(path.parent == folder / top for path in all_below)]
    if flat and len(flat) < len(tops):
        nested = next(top for top in tops if top not in flat)
        raise ImageError(f"{here}: {flat[0]!r} holds pictures, {nested!r} folders of pictures: are these classes or splits?")
    bare = bool(flat) and all(top.lower() in SPLITS for top in tops)
    rows = []
    for path in all_below:
        top, below = path.relative_to(folder).parts[:2]
        split, kind = (top, "") if bare else ("", top) if flat else (top, below)
        rows.append((path.relative_to(folder), printable(split), printable(kind), path))
    table = pd.DataFrame(rows, columns=["name", "split", "class", "path"])
    short = table["name"].map(lambda path: path.with_suffix(""))
    table["name"] = (table["name"] if short.duplicated().any() else short).map(lambda path: printable(path.as_posix()))
    return table


def _there(kind: str, names: Sequence[str]) -> str:
    return f"it has {', '.join(names)}" if any(names) else f"it has no {kind}s"

"""Does a set of labelled pictures give its answers away? Copies across splits and classes, and shortcuts past the picture.

```python
found = leaks.find("my/scans")                # folder/CLASS/*.jpg or folder/SPLIT/CLASS/*.jpg; or "brain-mri"
found.found                                   # True if anything was
found.table()                                 # a row a question
found.pairs(8)                                # the copies
```

Copies: images of the same decoded pixels, and near ones, which a perceptual hash (64 bits, `imagehash.phash`) proposes and the
images themselves confirm (`images.duplicates`): other sizes, shapes, compression, grey, contrast, mild blur, mirrored, rotated
by 90°. Not looked for: crops, added borders, negatives, other angles; of drawings and text also mirrored or rotated ones.
Shortcuts: a decision tree (scikit-learn) that sees no image, only its size, its borders, or what the file says of camera and
program, and still names the class better than always naming the commonest (surely: the lower end of Wilson's 99.9 % interval
spares 5 % of the mistakes). Thresholds are our choice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xai_lib.images import Images, labelled, scans, splits
from xai_lib.images.decoding import ImageError
from xai_lib.images.duplicates import NOT_SEARCHED, TURNS, Candidates
from xai_lib.images.measuring import measure
from xai_lib.images.sources import brain_mri
from xai_lib.leaks import shortcuts


@dataclass(frozen=True)
class Leaks:
    """What was found.

    `pictures`: a row a readable image: `name`, `split` and `class` ("" where there is none), `path`, and what was measured. A row
    is an image, whatever its name.
    `twins`: a row an image that has a copy elsewhere: `across` ("split" or "class"), `name`, `split`, `class`, `kind` ("exact"
    or "near"), `bits` (between the hashes), `turn` (how the copy lies to the image, one of `duplicates.TURNS`), of the nearest
    copy `twin`, `twin_split`, `twin_class`, and the rows of both in `pictures`, `row` and `twin_row`. `shortcuts`: a row a
    tree and a set: `shortcut` (of `shortcuts.FAMILIES`), `where`, `right`, `of`, `accuracy` with Wilson's 95 % interval `low` to
    `high`, `commonest` (accuracy of the commonest class), `found`, and `rule`, the most telling single question.
    `failures`: file to reason, of those left out. `notes`: what could not be asked.
    """

    pictures: pd.DataFrame = field(repr=False)
    twins: pd.DataFrame = field(repr=False)
    shortcuts: pd.DataFrame = field(repr=False)
    failures: dict[str, str]
    notes: tuple[str, ...]
    near: int

    @property
    def found(self) -> bool:
        """Whether any picture has a copy across splits or classes, or any shortcut works."""
        return bool(len(self.twins)) or bool(self.shortcuts["found"].any())

    @property
    def limits(self) -> str:
        """Which copies are not looked for, whatever the images."""
        return NOT_SEARCHED if self.near >= 0 else "near copies are not looked for"

    def table(self) -> pd.DataFrame:
        """A row a question: `leak`, `where`, `count`, `of`, `share`, `low`, `high`, `commonest`, `found`, `rule`.

        Of copies `count` is pictures that have one; the near ones are those that have no exact one. Of shortcuts it is
        pictures that the tree names right, to be held against `commonest`.
        """
        rows = list(self._copies())
        frame = self.shortcuts.rename(columns={"shortcut": "leak", "right": "count", "accuracy": "share"})
        return pd.concat([pd.DataFrame(rows, columns=list(frame)), frame], ignore_index=True) if rows else frame

    def _copies(self) -> Iterator[dict[str, Any]]:
        parts = [s for s in _ordered(self.pictures["split"]) if s]
        questions = [(s, "split", self.pictures["split"] == s) for s in parts[1:]]
        if self.pictures["class"].nunique() > 1:
            questions.append(("any", "class", pd.Series(True, self.pictures.index)))
        for part, across, asked in questions:
            twins = self.twins[(self.twins["across"] == across) & asked[self.twins["row"]].to_numpy(bool)]
            others = parts[0] if len(parts) == 2 else "another split"
            where = f"{part} also in {others}" if across == "split" else "also in another class"
            for kind in ("exact", "near") if self.near >= 0 else ("exact",):
                count, of = int((twins["kind"] == kind).sum()), int(asked.sum())
                row = {"leak": f"{kind} copies", "where": where, "count": count, "of": of}
                yield row | {"share": count / of, "found": count > 0}

    def pairs(self, n: int = 8) -> pd.DataFrame:
        """Up to `n` rows of `twins`, each pair of pictures once; kinds and classes take turns, across splits first."""
        rows = self.twins
        twice = pd.Series([frozenset(pair) for pair in zip(rows["row"], rows["twin_row"], strict=True)], rows.index, dtype=object)
        first = _ordered(self.pictures["split"])[0]
        rows = rows.assign(twice=twice, later=rows["split"] == first).sort_values("later", kind="stable")
        rows = rows.drop_duplicates("twice")
        rows = rows.assign(order=rows.groupby(["across", "kind", "class"]).cumcount(), classes=rows["across"] == "class")
        return rows.sort_values(["order", "classes", "kind"]).head(n)[list(self.twins.columns)].reset_index(drop=True)


def find(
    source: str | os.PathLike[str] | Images | pd.DataFrame,
    near: int = splits.NEAR,
    *,
    turns: bool = True,
    seed: int = 0,
    jobs: int = 1,
    progress: bool = True,
) -> Leaks:
    """Look for leaks in labelled pictures.

    `source`: a folder (`folder/CLASS/*`, `folder/SPLIT/CLASS/*`, or `train/*` and `test/*` without classes); "brain-mri", by
    the list of data/registry and the originals' sizes, without any file; labelled `Images` of files; or a table with `name`,
    `split`, `class` and `path`. `near`: bits of 64 in which the hashes of near copies may differ, below 0 for exact copies
    alone. `turns`: whether mirrored and rotated (by 90°) copies are near copies, too. `seed`: of folds and trees. `jobs`:
    processes that read files.

    The trees are cross-validated in the training split (called train..., else the largest), copies kept together, and with
    splits also tested on the others, with and without pictures that have a copy. Damaged files are left out and listed.

    Raises `ImageError`: no folder, no (readable) pictures, neither splits nor two classes to compare.
    """
    table = _listed(source)
    if table["split"].nunique() < 2 and table["class"].nunique() < 2:
        only = next((name for name in [*table["class"], *table["split"]] if name), "none")
        raise ImageError(f"{_called(source)}: expected two classes or two splits to compare, found one: {only}")
    read = "pixels" not in table
    pictures, failures = _measured(table, jobs, progress) if read else (table, {})
    if pictures.empty:
        first = next(iter(failures.values()))
        raise ImageError(f"{_called(source)}: none of {len(table)} pictures can be read; the first: {first}")
    looks = pictures.pop("look").tolist() if read else None
    candidates = Candidates(pictures["phash"].tolist(), looks, near, turns)
    twins, parts = _twins(pictures, candidates), _ordered(pictures["split"])
    notes: list[str] = []
    if near >= 0 and looks is None:
        notes = ["near copies: by their hashes alone, not confirmed on the images, as no file was read; upright ones alone"]
    if len(parts) == 1:
        notes.append("no splits: only the classes were compared; copies inside of one class are no leak by themselves")
    if pictures["class"].nunique() > 1:
        copied = np.isin(np.arange(len(pictures)), twins.loc[twins["across"] == "split", "row"])
        names, pixels, phashes = (pictures[column].tolist() for column in ("name", "pixels", "phash"))
        groups = splits.twins(names, pixels, phashes, near, looks)
        told, more = shortcuts.search(pictures, parts, copied, np.array(groups, dtype=object), seed)
    else:
        told, more = pd.DataFrame(columns=shortcuts.COLUMNS), ["no classes to compare: only copies across splits were looked for"]
    return Leaks(pictures, twins, told, failures, (*notes, *more), near)


def _called(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def _listed(source: Any) -> pd.DataFrame:
    """`name`, `split`, `class`, `path` of each picture, and for the known set also what was measured."""
    if isinstance(source, str) and source == scans.SCANS:
        table = scans.table()
        table["class"] = [scans.FOLDERS[label] for label in table["label"].tolist()]
        table["path"] = [str(entry.path) for entry in brain_mri(False, None)]
        return table
    if isinstance(source, Images):
        if len(source.sources) < len(source):
            raise ImageError("leaks are looked for in files of your own, found pictures that are drawn or part of a package")
        kinds = ["" if label is None else str(label) for label in source.labels]
        return pd.DataFrame({"name": source.names, "split": "", "class": kinds, "path": source.sources})
    if not isinstance(source, pd.DataFrame):
        return labelled.survey(Path(source))
    if missing := [column for column in ("name", "split", "class", "path") if column not in source]:
        raise ImageError(f"expected a table with name, split, class and path, found none of {', '.join(missing)}")
    return source.reset_index(drop=True)


def _measured(table: pd.DataFrame, jobs: int, progress: bool) -> tuple[pd.DataFrame, dict[str, str]]:
    from tqdm import tqdm

    def reading(results: Iterable[Any]) -> list[Any]:
        return list(tqdm(results, desc="reading", total=len(table), disable=not progress, leave=False))

    given: list[Any] = table["path"].tolist()
    paths = [Path(path) for path in given]
    if jobs == 1:
        rows = reading(map(_try, paths))
    else:  # fresh processes: a fork of one that has threads may hang
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            rows = reading(pool.map(_try, paths, chunksize=16))
    failures = {str(path): row for path, row in zip(paths, rows, strict=True) if isinstance(row, str)}
    good = [not isinstance(row, str) for row in rows]
    facts = pd.DataFrame([row for row in rows if not isinstance(row, str)])
    return pd.concat([table[good].reset_index(drop=True), facts], axis=1), failures


def _try(path: Path) -> dict[str, Any] | str:
    try:
        return measure(path)
    except ImageError as error:
        return str(error)


def _ordered(parts: pd.Series[str]) -> list[str]:
    """The splits, that for training first: the one called train..., else the largest."""
    sizes = parts.value_counts()
    return sorted(sizes.index, key=lambda part: (not part.lower().startswith("train"), -sizes[part], part))


def _twins(pictures: pd.DataFrame, candidates: Candidates) -> pd.DataFrame:
    """For each image the nearest copy in another split, and in another class."""
    exact = pd.factorize(pictures["pixels"])[0]
    rows = []
    for across in ("split", "class"):
        part = pd.factorize(pictures[across])[0]
        if part.max() == 0:
            continue
        for i in range(len(pictures)):
            equal = np.flatnonzero((exact == exact[i]) & (part != part[i]))
            copy = ("exact", 0, 0, int(equal[0])) if len(equal) else _near(candidates, i, part)
            if copy is not None:
                kind, bits, turn, j = copy
                rows.append((across, *_who(pictures, i), kind, bits, TURNS[turn], *_who(pictures, j), i, j))
    columns = ["across", "name", "split", "class", "kind", "bits", "turn", "twin", "twin_split", "twin_class", "row", "twin_row"]
    return pd.DataFrame(rows, columns=columns)


def _near(candidates: Candidates, i: int, part: np.ndarray) -> tuple[str, int, int, int] | None:
    """The nearest confirmed candidate of row `i` in another part."""
    for bits, turn, j in candidates.of(i):
        if part[j] != part[i] and candidates.confirmed(i, j, turn):
            return "near", bits, turn, j
    return None


def _who(pictures: pd.DataFrame, row: int) -> Iterator[Any]:
    return (pictures[column].iat[row] for column in ("name", "split", "class"))

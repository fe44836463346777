"""Does a set of labelled pictures give its answers away? Copies across splits and classes, and shortcuts past the picture.

```python
found = leaks.find("my/scans")                # folder/CLASS/*.jpg or folder/SPLIT/CLASS/*.jpg; or "brain-mri"
found.found                                   # True if anything was
found.table()                                 # a row a question
found.pairs(8)                                # the copies
```

Copies: pictures of the same decoded pixels, and near ones by a perceptual hash (64 bits, `imagehash.phash`). Shortcuts: a
decision tree (scikit-learn) that sees no picture, only its size, its borders, or what the file says of camera and program,
and still names the class better than always saying the commonest (surely: the lower end of Wilson's 99.9 % interval spares 5 %
of the mistakes). Thresholds are our choice.
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
from xai_lib.images.measuring import measure
from xai_lib.images.sources import brain_mri
from xai_lib.leaks import shortcuts


@dataclass(frozen=True)
class Leaks:
    """What was found.

    `pictures`: a row a readable picture: `name`, `split` and `class` ("" where there is none), `path`, and what was measured.
    `twins`: a row a picture that has a copy elsewhere: `across` ("split" or "class"), `name`, `split`, `class`, `kind` ("exact"
    or "near"), `bits` (between the hashes), and of the nearest copy `twin`, `twin_split`, `twin_class`. `shortcuts`: a row a
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
            twins = self.twins[(self.twins["across"] == across) & self.twins["name"].isin(self.pictures.loc[asked, "name"])]
            others = parts[0] if len(parts) == 2 else "another split"
            where = f"{part} also in {others}" if across == "split" else "also in another class"
            for kind in ("exact", "near") if self.near >= 0 else ("exact",):
                count, of = int((twins["kind"] == kind).sum()), int(asked.sum())
                row = {"leak": f"{kind} copies", "where": where, "count": count, "of": of}
                yield row | {"share": count / of, "found": count > 0}

    def pairs(self, n: int = 8) -> pd.DataFrame:
        """Up to `n` rows of `twins`, each pair of pictures once; kinds and classes take turns, across splits first."""
        rows = self.twins
        twice = pd.Series([frozenset(pair) for pair in zip(rows["name"], rows["twin"], strict=True)], rows.index, dtype=object)
        first = _ordered(self.pictures["split"])[0]
        rows = rows.assign(twice=twice, later=rows["split"] == first).sort_values("later", kind="stable")
        rows = rows.drop_duplicates("twice")
        rows = rows.assign(turn=rows.groupby(["across", "kind", "class"]).cumcount(), classes=rows["across"] == "class")
        return rows.sort_values(["turn", "classes", "kind"]).head(n)[list(self.twins.columns)].reset_index(drop=True)


def find(
    source: str | os.PathLike[str] | Images | pd.DataFrame,
    near: int = splits.NEAR,
    *,
    seed: int = 0,
    jobs: int = 1,
    progress: bool = True,
) -> Leaks:
    """Look for leaks in labelled pictures.

    `source`: a folder (`folder/CLASS/*`, `folder/SPLIT/CLASS/*`, or `train/*` and `test/*` without classes); "brain-mri", by
    the list of data/registry and the originals' sizes, without any file; labelled `Images` of files; or a table with `name`,
    `split`, `class` and `path`. `near`: bits of 64 in which the hashes of near copies may differ, below 0 for exact copies
    alone. `seed`: of folds and trees. `jobs`: processes that read files.

    The trees are cross-validated in the training split (called train..., else the largest), copies kept together, and with
    splits also tested on the others, with and without pictures that have a copy. Damaged files are left out and listed.

    Raises `ImageError`: no folder, no (readable) pictures, neither splits nor two classes to compare.
    """
    table = _listed(source)
    if table["split"].nunique() < 2 and table["class"].nunique() < 2:
        only = next((name for name in [*table["class"], *table["split"]] if name), "none")
        raise ImageError(f"{_called(source)}: expected two classes or two splits to compare, found one: {only}")
    pictures, failures = (table, {}) if "pixels" in table else _measured(table, jobs, progress)
    if pictures.empty:
        first = next(iter(failures.values()))
        raise ImageError(f"{_called(source)}: none of {len(table)} pictures can be read; the first: {first}")
    twins, parts = _twins(pictures, near), _ordered(pictures["split"])
    notes: list[str] = []
    if len(parts) == 1:
        notes.append("no splits: only the classes were compared; copies inside of one class are no leak by themselves")
    if pictures["class"].nunique() > 1:
        copied = pictures["name"].isin(twins.loc[twins["across"] == "split", "name"]).to_numpy()
        names, pixels, phashes = (pictures[column].tolist() for column in ("name", "pixels", "phash"))
        groups = splits.twins(names, pixels, phashes, near)
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


def _twins(pictures: pd.DataFrame, near: int) -> pd.DataFrame:
    """For each picture the nearest copy in another split, and in another class."""
    bits, exact = splits.as_bits(pictures["phash"].tolist()), pd.factorize(pictures["pixels"])[0]
    rows = []
    for across in ("split", "class"):
        part = pd.factorize(pictures[across])[0]
        if part.max() == 0:
            continue
        for i in range(len(pictures)):
            apart = np.bitwise_count(bits ^ bits[i]).astype(np.int16)
            apart[exact == exact[i]] = -1  # before near ones
            apart[part == part[i]] = 65
            j = int(apart.argmin())
            if apart[j] <= max(near, -1):
                kind, same = ("exact", 0) if apart[j] < 0 else ("near", int(apart[j]))
                rows.append((across, *_who(pictures, i), kind, same, *_who(pictures, j)))
    columns = ["across", "name", "split", "class", "kind", "bits", "twin", "twin_split", "twin_class"]
    return pd.DataFrame(rows, columns=columns)


def _who(pictures: pd.DataFrame, row: int) -> Iterator[Any]:
    return (pictures[column].iat[row] for column in ("name", "split", "class"))

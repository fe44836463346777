"""The brain tumour scans of paper 4: 3264 files of four classes, listed in data/registry with the checksum of each.

Bhuvaji et al., "Brain Tumor Classification (MRI)"; no licence is stated: for research alone, not clinical. The list also has
the originals' width and height, a checksum of the decoded pixels and a perceptual hash, which tell what copies what.

```python
parts = scans.standard()                              # as the files lie; 251 of 394 test scans were seen in training
parts = scans.cleaned()                               # the same test scans, unseen
parts = scans.grouped()                               # all files drawn anew, copies kept together
pictures = images.load("brain-mri").select(parts["train"].name)
for fold in scans.folds(5): ...                       # fold["train"], fold["test"]
```
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd

from xai_lib.images import splits
from xai_lib.images.decoding import ImageError

SCANS = "brain-mri"
FOLDERS = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")  #: the data set's classes, by label
REGISTRY = Path(__file__).resolve().parents[2] / "data" / "registry" / f"{SCANS}.csv"
URL = "https://raw.githubusercontent.com/SartajBhuvaji/Brain-Tumor-Classification-DataSet/master/"
CREDIT = "Brain Tumor Classification (MRI), Bhuvaji et al. 2020; research use, not clinical"

Parts = dict[str, pd.DataFrame]  #: the rows of `table` by part, "train", "validation" and "test", in the table's order


def table() -> pd.DataFrame:
    """A row a scan, in the list's order, which is that of the paths.

    Columns: `name` (path without suffix), `label` (0..3, the place in `FOLDERS` and in `phantoms.CLASSES`), `split`
    ("Training" or "Testing"), `width`, `height` (pixels, of the original), `pixels` (checksum of the decoded original: equal
    for exact twins), `phash` (64-bit perceptual hash, hexadecimal), `path`, `bytes`, `sha256` (of the original),
    `copy_sha256` (of the copy whose longest side is 224 pixels).
    """
    return _read().copy()


@cache
def _read() -> pd.DataFrame:
    if not REGISTRY.is_file():
        raise ImageError(f"the list {REGISTRY} is missing; install from a clone, with pip install -e .")
    found = pd.read_csv(REGISTRY, dtype={"phash": str})
    parts = found["path"].str.split("/")
    found["name"] = found["path"].str.rpartition(".")[0]
    found["split"], found["label"] = parts.str[0], parts.str[1].map({name: i for i, name in enumerate(FOLDERS)})
    return found


def groups(near: int = splits.NEAR) -> pd.Series[str]:
    """The group of twins of each row of `table`, by `splits.twins`; with `near` below 0 of exact twins alone."""
    names, pixels, phashes = (table()[column].tolist() for column in ("name", "pixels", "phash"))
    return _series(splits.twins(names, pixels, phashes, near), "group")


def _series(values: list[str], name: str) -> pd.Series[str]:
    found: pd.Series[str] = pd.Series(values, name=name, dtype=str)
    return found


def has_twin() -> pd.Series[bool]:
    """Whether a row of `table` is a test scan that has a pixel-identical one in Training: 251 of 394."""
    found = table()
    train = found["split"] == "Training"
    return (~train & found["pixels"].isin(found.loc[train, "pixels"])).rename("has_twin")


def standard(validation: float = 0.15, seed: int = 0) -> Parts:
    """The data set's own split: Testing is the test, a share of Training the validation, drawn by groups of twins.

    So validation and training share no copy and no near duplicate, while the test keeps all that the data set gives it.
    """
    found, chosen = table(), {"train": 1 - validation, "validation": validation}
    part = _series(splits.by_group(groups().tolist(), chosen, seed), "part").where(found["split"] == "Training", "test")
    return {name: found[part == name] for name in (*chosen, "test")}


def cleaned(validation: float = 0.15, seed: int = 0) -> Parts:
    """`standard` without the 244 scans of Training that have a pixel-identical one in Testing, which keeps its 394."""
    parts = standard(validation, seed)
    return {name: rows[(name == "test") | ~rows["pixels"].isin(parts["test"]["pixels"])] for name, rows in parts.items()}


def grouped(shares: Mapping[str, float] | None = None, seed: int = 0) -> Parts:
    """All scans drawn anew, twins and near duplicates together; by default 70 % train, 15 % validation, 15 % test (our choice).

    `shares`: part to share, of sum 1. They hold on average, as in `splits.by_group`, which raises `ImageError` for others.
    """
    shares = shares or {"train": 0.7, "validation": 0.15, "test": 0.15}
    found, part = table(), _series(splits.by_group(groups().tolist(), shares, seed), "part")
    return {name: found[part == name] for name in shares}


def folds(k: int = 5, seed: int = 0) -> list[Parts]:
    """Cross-validation over all scans: each is in "test" once, and no group of twins is cut by a fold."""
    if k < 2:
        raise ImageError(f"folds: expected 2 or more, found {k}")
    pieces = grouped({str(i): 1 / k for i in range(k)}, seed)
    found = table()
    return [{"train": found.drop(index=test.index), "test": test} for test in pieces.values()]

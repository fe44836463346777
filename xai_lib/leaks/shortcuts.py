"""Classes told without the picture: a decision tree on what was measured around it, and the question that tells most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from xai_lib.images.measuring import BORDERS, FILE, SIDES, SIZE

FAMILIES = {"size": SIZE, "borders": BORDERS, "file": FILE}  #: what each tree sees
SAVED = 0.05  #: share of the commonest class's mistakes that a shortcut spares at least, at the lower end of the interval below
SURE = 0.999  #: that interval is wider than the one shown: several trees are asked, and some would be lucky at 95 %
FOLDS = 5
COMMON = 20  #: sizes and values of a trace that are asked for, the commonest ones
COLUMNS = ["shortcut", "where", "right", "of", "accuracy", "low", "high", "commonest", "found", "rule"]


def search(
    pictures: pd.DataFrame, parts: list[str], copied: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[pd.DataFrame, list[str]]:
    """A row a family and a set, and notes on what could not be asked.

    `parts`: the splits, training first. `copied` `(N,)` bool: has a copy in another split. `groups` `(N,)`: of copies, which
    folds keep together.
    """
    kinds, split = pictures["class"].to_numpy(), pictures["split"].to_numpy()
    rows, notes = [], []
    train = split == parts[0]
    k = min(FOLDS, *pd.Series(groups[train]).groupby(kinds[train]).nunique())
    if k < 2:
        notes.append("a class has a single picture, or copies of one, to train on: trees were not cross-validated")
    for family, wanted in FAMILIES.items():
        if not set(wanted) - {"aspect", "area"} <= set(pictures):
            notes.append(f"{family}: not looked at, as no file was read")
            continue
        frame, trials = _features(pictures, family), []
        if k > 1:
            right = _folds(frame[train], kinds[train], groups[train], k, seed)
            trials.append((f"{parts[0]}, {k} folds".lstrip(", "), right, kinds[train]))
        for part in parts[1:]:
            trials += _tests(frame, kinds, train, split == part, copied, part, seed)
        found = [(family, where, *score(right, truth)) for where, right, truth in trials]
        rule = telling(frame[train], kinds[train]) if any(row[-1] for row in found) else ""
        rows += [(*row, rule if row[-1] else "") for row in found]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"found": bool}), notes


def _features(pictures: pd.DataFrame, family: str) -> pd.DataFrame:
    """Numbers for a tree, a column each; of a trace whether it is one of the commonest values."""
    if family == "size":
        width, height = pictures["width"].astype(float), pictures["height"].astype(float)
        return pd.DataFrame({"width": width, "height": height, "aspect": width / height, "area": width * height})
    if family == "borders":
        return pictures[list(BORDERS)].astype(float)
    values = [(column, value) for column in FILE for value in pictures[column].value_counts().index[:COMMON]]
    return pd.DataFrame({f"{column} {value}": (pictures[column] == value).astype(float) for column, value in values})


def _tree(seed: int, **how: Any) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(random_state=seed, **how)


def _folds(frame: pd.DataFrame, kinds: np.ndarray, groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Whether each picture is named right by a tree that saw without copies of it."""
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    folds = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    named: np.ndarray = cross_val_predict(_tree(seed), frame.to_numpy(), kinds, groups=groups, cv=folds)
    return named == kinds


def _tests(
    frame: pd.DataFrame, kinds: np.ndarray, train: np.ndarray, test: np.ndarray, copied: np.ndarray, part: str, seed: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    right = _tree(seed).fit(frame[train].to_numpy(), kinds[train]).predict(frame[test].to_numpy()) == kinds[test]
    yield part, right, kinds[test]
    alone = ~copied[test]
    if 0 < alone.sum() < len(alone):
        yield f"{part}, without copies", right[alone], kinds[test][alone]


def score(right: np.ndarray, truth: np.ndarray) -> tuple[int, int, float, float, float, float, bool]:
    """Right, of how many, accuracy, Wilson's 95 % interval, accuracy of the commonest class, and whether that is a leak."""
    from scipy.stats import binomtest

    n, k = len(right), int(right.sum())
    interval = binomtest(k, n).proportion_ci(method="wilson")
    commonest = float(np.unique(truth, return_counts=True)[1].max()) / n
    surely = binomtest(k, n).proportion_ci(SURE, method="wilson").low
    found = commonest < 1 and surely > commonest + SAVED * (1 - commonest)
    return k, n, k / n, float(interval.low), float(interval.high), commonest, bool(found)


def telling(frame: pd.DataFrame, kinds: np.ndarray) -> str:
    """The yes-or-no question that sets one class best apart from the others, by the difference of the two shares."""
    best, said = 0.0, ""
    for text, yes, kind in _questions(frame, kinds):
        inside, outside = float(yes[kinds == kind].mean()), float(yes[kinds != kind].mean())
        if abs(inside - outside) > best + 1e-9:
            best, said = abs(inside - outside), f"{text}: {100 * inside:.0f} % of {kind}, {100 * outside:.0f} % of the others"
    return said


def _questions(frame: pd.DataFrame, kinds: np.ndarray) -> Iterator[tuple[str, np.ndarray, str]]:
    """Text, answer `(N,)` bool, and the class to be set apart: common sizes, then the best threshold for each class."""
    if "aspect" in frame:
        sizes = frame["width"].map("{:.0f}".format) + "×" + frame["height"].map("{:.0f}".format)
        for size in sizes.value_counts().index[:COMMON]:
            yield from ((size, (sizes == size).to_numpy(), kind) for kind in np.unique(kinds))
    for kind in np.unique(kinds):
        stump = _tree(0, max_depth=1, class_weight="balanced").fit(frame.to_numpy(), kinds == kind).tree_
        if stump.node_count > 1:
            column, limit = frame.columns[stump.feature[0]], float(stump.threshold[0])
            values = frame[column].to_numpy()
            what = f"{column} border" if column in SIDES else column.replace("_", " ")
            yield (column if " " in column else f"{what} above {limit:.4g}"), values > limit, kind  # a trace: yes or no

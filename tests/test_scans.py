"""The brain scans' list and its splits: counts as measured on the originals, without any file."""

from __future__ import annotations

import os

import pandas as pd
import pytest

from xai_lib import images
from xai_lib.images import ImageError, View, scans, splits
from xai_lib.phantoms import CLASSES

TWINS = scans.groups(-1)  # exact ones
NEAR = scans.groups()


def crossed(parts: scans.Parts, groups: pd.Series) -> int:
    """Groups that lie in more than one part."""
    return int((pd.concat([groups[rows.index].drop_duplicates() for rows in parts.values()]).value_counts() > 1).sum())


def test_the_list() -> None:
    table = scans.table()
    assert len(table) == 3264 and table["name"].is_unique and list(table["path"]) == sorted(table["path"])
    counts = table.groupby(["split", "label"]).size()
    assert counts["Training"].tolist() == [826, 822, 395, 827] and counts["Testing"].tolist() == [100, 115, 105, 74]
    assert [name.partition("_")[0] for name in scans.FOLDERS] == [name.partition("_")[0] for name in CLASSES]
    table["label"] = 0
    assert scans.table()["label"].nunique() == 4, "everyone has a table of their own"


def test_the_leak_is_as_measured() -> None:
    table = scans.table().assign(twins=TWINS)
    assert table["pixels"].nunique() == TWINS.nunique() == 2870
    sizes = table.groupby("twins").size()
    assert (sizes > 1).sum() == 300 and sizes[sizes > 1].sum() == 694
    assert sizes[sizes > 1].value_counts().to_dict() == {2: 253, 3: 21, 4: 18, 5: 3, 6: 2, 8: 2, 10: 1}
    assert (table.groupby("twins")["split"].nunique() == 2).sum() == 213
    assert (table.groupby("twins")["label"].nunique() == 1).all(), "none mixes classes"
    assert table.loc[table["split"] == "Testing", "pixels"].nunique() == 314
    twin = scans.has_twin()
    assert twin.sum() == 251 and table[twin].groupby("label").size().tolist() == [18, 106, 105, 22]
    assert set(table.loc[twin, "split"]) == {"Testing"}
    big = (table["width"] == 512) & (table["height"] == 512)
    assert big[(table["split"] == "Training") & (table["label"] == 0)].all()


@pytest.mark.parametrize(("near", "groups"), [(0, 2829), (2, 2701), (4, 2367), (6, 1821)])
def test_near_duplicates_join_into_as_many_groups(near: int, groups: int) -> None:
    assert scans.groups(near).nunique() == groups


def test_the_standard_split() -> None:
    parts = scans.standard()
    table = scans.table()
    pd.testing.assert_frame_equal(parts["test"], table[table["split"] == "Testing"])
    assert sorted([*parts["train"].index, *parts["validation"].index]) == list(table.index[table["split"] == "Training"])
    assert crossed({k: parts[k] for k in ("train", "validation")}, NEAR) == 0
    assert crossed(parts, TWINS) == 213, "the leak is left in"
    assert 0.12 < len(parts["validation"]) / 2870 < 0.18
    drawn = pd.Series(splits.by_group(list(NEAR), {"train": 0.85, "validation": 0.15}, 0))
    assert list(parts["train"]["name"]) == list(table["name"][(drawn == "train") & (table["split"] == "Training")])
    assert not parts["train"].equals(scans.standard(seed=1)["train"])
    assert len(scans.standard(0.3)["validation"]) > 1.7 * len(parts["validation"])
    with pytest.raises(ImageError, match="expected positive shares"):
        scans.standard(1.0)


def test_the_cleaned_split() -> None:
    whole, parts = scans.standard(), scans.cleaned()
    pd.testing.assert_frame_equal(parts["test"], whole["test"])
    assert len(whole["train"]) + len(whole["validation"]) - len(parts["train"]) - len(parts["validation"]) == 244
    assert crossed(parts, TWINS) == 0


def test_the_grouped_split_and_folds() -> None:
    parts = scans.grouped(seed=3)
    assert list(parts) == ["train", "validation", "test"] and sum(map(len, parts.values())) == 3264
    assert crossed(parts, NEAR) == 0 and 0.65 < len(parts["train"]) / 3264 < 0.75
    folds = scans.folds(5)
    assert sorted(i for fold in folds for i in fold["test"].index) == list(range(3264))
    for fold in folds:
        assert crossed(fold, NEAR) == 0 and sum(map(len, fold.values())) == 3264
        assert set(fold["test"]["label"]) == {0, 1, 2, 3} and 0.15 < len(fold["test"]) / 3264 < 0.25
    with pytest.raises(ImageError, match="folds: expected 2 or more, found 1"):
        scans.folds(1)


def test_names_lead_to_pictures() -> None:
    pictures, rows = images.load("brain-mri"), scans.cleaned()["validation"]
    chosen = pictures.select(rows["name"])
    assert chosen.labels == tuple(rows["label"]) and pictures.names == tuple(scans.table()["name"])
    if not (os.environ.get("XAI_DATA_HOME") and chosen.sources[0].is_file()):
        with pytest.raises(images.MissingPhotograph, match="brain-mri.*download=True"):
            chosen[0]
        pytest.skip("no brain scans in XAI_DATA_HOME")
    view = View(64, 64, "bicubic", squash=True)
    name, image, label = next(chosen[:1].viewed(view))
    assert (name, label) == (rows["name"].iloc[0], rows["label"].iloc[0]) and tuple(image.shape) == (3, 64, 64)

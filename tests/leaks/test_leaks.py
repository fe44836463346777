"""The leak detector on folders in which each leak was planted by hand, and on clean ones."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.leaks.folders import Save, as_png, picture, plant
from xai_lib import images, leaks, plots
from xai_lib.images import ImageError, scans
from xai_lib.leaks import Leaks, shortcuts


def look(folder: Path, **how: object) -> Leaks:
    return leaks.find(folder, progress=False, **how)  # type: ignore[arg-type]


def found(leak: Leaks) -> set[str]:
    table = leak.table()
    return set(table.loc[table["found"].astype(bool), "leak"])


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("clean"))


def test_nothing_is_found_where_nothing_is(clean: Path) -> None:
    leak = look(clean)
    assert not leak.found and leak.twins.empty and not leak.failures and not leak.notes
    table = leak.table()
    assert list(table["leak"].unique()) == ["exact copies", "near copies", "size", "borders", "file"]
    assert table["rule"].fillna("").eq("").all()
    assert leak.pairs().empty
    assert len(leak.pictures) == 80 and set(leak.pictures["width"]) == {64} and set(leak.pictures["height"]) == {48}


def test_sizes_that_vary_alike_in_all_classes_are_no_shortcut() -> None:
    """Twenty sets of 120 pictures, the first of which would be called leaky at 95 %."""
    alarms, names = 0, np.arange(120).astype(str)
    for seed in range(20):
        width, height = np.random.default_rng(seed).integers(30, 90, (2, 120))
        drawn = pd.DataFrame({"name": names, "width": width, "height": height, "class": ["cat", "dog"] * 60,
                              "split": ["train"] * 60 + ["test"] * 60})  # fmt: skip
        alarms += shortcuts.search(drawn, ["train", "test"], np.zeros(120, bool), names, 0)[0]["found"].any()
    assert alarms == 0


def test_copies_across_splits_and_classes(clean: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clean, tmp_path / "set")
    shutil.copy(folder / "train/cat/cat00.png", folder / "test/cat/again.png")
    Image.open(folder / "train/cat/cat01.png").save(folder / "test/cat/other.bmp")  # same pixels, other bytes
    Image.open(folder / "train/dog/dog02.png").save(folder / "test/dog/packed.jpg", quality=80)
    shutil.copy(folder / "train/dog/dog03.png", folder / "train/cat/mislabelled.png")
    shutil.copy(folder / "train/dog/dog04.png", folder / "train/dog/inside.png")  # neither across splits nor classes
    leak = look(folder)
    table = leak.table().set_index(["leak", "where"])
    assert (table.loc[("exact copies", "test also in train"), ["count", "of"]] == [2, 43]).all()
    assert (table.loc[("near copies", "test also in train"), ["count", "of"]] == [1, 43]).all()
    assert (table.loc[("exact copies", "also in another class"), ["count", "of"]] == [2, 85]).all()
    assert table.loc[("near copies", "also in another class"), "count"] == 0
    assert found(leak) == {"exact copies", "near copies"}
    twins = leak.twins.set_index("name")
    assert twins.loc["test/cat/again", "twin"] == "train/cat/cat00" and twins.loc["test/cat/again", "bits"] == 0
    assert twins.loc["test/dog/packed", "kind"] == "near" and twins.loc["test/dog/packed", "bits"] <= 4
    assert twins.loc["train/cat/mislabelled", "twin_class"] == "dog"
    assert set(leak.twins["name"]).isdisjoint({"train/dog/dog04", "train/dog/inside"})
    pairs = leak.pairs(10)
    assert len({frozenset(pair) for pair in zip(pairs["name"], pairs["twin"], strict=True)}) == len(pairs) == 4
    assert set(pairs.loc[pairs["across"] == "split", "split"]) == {"test"}, "the test picture is named first"
    assert len(leak.pairs(2)) == 2
    exact = look(folder, near=-1)
    assert found(exact) == {"exact copies"} and "near copies" not in set(exact.table()["leak"])


def test_a_copy_in_two_other_places_is_named_once_and_the_exact_one_wins(tmp_path: Path) -> None:
    plant(tmp_path, 4, splits=("train", "val", "test"))
    Image.open(tmp_path / "train/cat/cat00.png").save(tmp_path / "train/cat/anear.jpg", quality=90)
    shutil.copy(tmp_path / "train/cat/cat00.png", tmp_path / "val/cat/copy.png")
    twins = look(tmp_path).twins.set_index("name")
    assert twins.loc["val/cat/copy", "twin"] == "train/cat/cat00" and twins.loc["val/cat/copy", "kind"] == "exact"
    assert twins.loc["train/cat/anear", "kind"] == "near"
    assert "val also in another split" in set(look(tmp_path).table()["where"])


def test_size_that_tells_the_class(tmp_path: Path) -> None:
    plant(tmp_path, how=lambda s, c, n: (picture(n, (64, 64) if c == "cat" and n % 10 else (60 + n % 7, 50 + n % 5)), as_png))
    leak = look(tmp_path)
    assert found(leak) == {"size"}
    rows = leak.shortcuts[leak.shortcuts["shortcut"] == "size"]
    assert list(rows["where"]) == ["train, 5 folds", "test"] and rows["found"].all() and (rows["low"] > rows["commonest"]).all()
    assert set(rows["rule"]) == {"64×64: 90 % of cat, 0 % of the others"}


def test_a_size_that_tells_in_training_alone_is_found_there(tmp_path: Path) -> None:
    plant(tmp_path, how=lambda s, c, n: (picture(n, (64, 64) if c == "cat" and s == "train" else (60, 50)), as_png))
    rows = look(tmp_path).shortcuts.set_index(["shortcut", "where"])["found"]
    assert rows["size", "train, 5 folds"] and not rows["size", "test"]


def framed(image: Image.Image, width: int, level: int) -> Image.Image:
    pixels = np.array(image)
    if width:
        pixels[:width] = pixels[-width:] = level
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("width", "level", "rule"), [(6, 0, "above"), (1, 255, "above")])
def test_borders_that_tell_the_class(tmp_path: Path, width: int, level: int, rule: str) -> None:
    """A letterbox, and a burnt-in line, saved as JPEG."""
    plant(tmp_path, 15, how=lambda s, c, n: (framed(picture(n), width if c == "dog" else 0, level), as_jpeg))
    leak = look(tmp_path)
    assert found(leak) == {"borders"}
    [said] = set(leak.shortcuts.loc[leak.shortcuts["found"], "rule"])
    assert rule in said and "100 %" in said and " 0 %" in said


def as_jpeg(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".jpg"), quality=95, subsampling=0)


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [(305, "ScanSoft 1.0", "software ScanSoft 1.0"), (272, "X100", "camera X100"), (274, 3, "orientation 3"),
     (0, "", "format PNG")],
)  # fmt: skip
def test_words_of_the_file_that_tell_the_class(tmp_path: Path, tag: int, value: object, said: str) -> None:
    def save(image: Image.Image, path: Path) -> None:
        exif = Image.Exif()
        if tag and path.parent.name == "dog":
            exif[tag] = value
        image.save(path.with_suffix(".png" if not tag and path.parent.name == "dog" else ".jpg"), exif=exif, quality=95)

    plant(tmp_path, 12, how=lambda s, c, n: (picture(n), save))
    leak = look(tmp_path)
    assert found(leak) == {"file"}
    [rule] = set(leak.shortcuts.loc[leak.shortcuts["found"], "rule"])
    assert said in rule or (tag == 0 and rule.startswith("format JPEG: 100 % of cat, 0 %")), rule


def repeated(g: int) -> tuple[Image.Image, Save]:
    return picture(g, (30 + 7 * g % 41, 30 + 11 * g % 43)), as_png


def test_folds_keep_copies_together(tmp_path: Path) -> None:
    """Every picture five times at a size of its own: a tree that saw a copy would be always right."""
    plant(tmp_path, 50, splits=("",), how=lambda s, c, n: repeated((n - 1) // 5))
    leak = look(tmp_path)
    [row] = leak.shortcuts[leak.shortcuts["shortcut"] == "size"].itertuples()
    assert row.where == "5 folds" and row.of == 100
    alone = shortcuts.search(leak.pictures, [""], np.zeros(100, bool), np.arange(100).astype(str), 0)[0]
    assert alone["accuracy"][0] > 0.9 > row.accuracy


def test_no_splits_or_no_classes_are_said(tmp_path: Path) -> None:
    plant(tmp_path / "a", 6, splits=("",))
    leak = look(tmp_path / "a")
    assert not leak.found and leak.notes == (
        "no splits: only the classes were compared; copies inside of one class are no leak by themselves",
    )
    assert set(leak.table()["where"]) == {"also in another class", "5 folds"}
    plant(tmp_path / "b", 6, classes=("",))
    shutil.copy(tmp_path / "b/train/00.png", tmp_path / "b/test/copy.png")
    bare = look(tmp_path / "b")
    assert found(bare) == {"exact copies"} and len(bare.shortcuts) == 0
    assert bare.notes == ("no classes to compare: only copies across splits were looked for",)


def test_one_picture_a_class_is_not_cross_validated(tmp_path: Path) -> None:
    plant(tmp_path, 1)
    leak = look(tmp_path)
    assert leak.notes == ("a class has a single picture, or copies of one, to train on: trees were not cross-validated",)
    assert set(leak.shortcuts["where"]) == {"test"} and not leak.found


def test_damaged_files_are_left_out_and_named(clean: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clean, tmp_path / "set")
    (folder / "train/cat/cat00.png").write_bytes((folder / "train/cat/cat00.png").read_bytes()[:300])
    (folder / "test/dog/empty.jpg").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        leak = look(folder, jobs=2)
    assert sorted(leak.failures) == [str(folder / "test/dog/empty.jpg"), str(folder / "train/cat/cat00.png")]
    assert "found an empty file" in leak.failures[str(folder / "test/dog/empty.jpg")]
    assert not leak.found and len(leak.pictures) == 79
    whole = look(clean).pictures.set_index("name")
    pd.testing.assert_frame_equal(leak.pictures.set_index("name").drop(columns="path"),
                                  whole.drop(index="train/cat/cat00").drop(columns="path"))  # fmt: skip


def test_what_cannot_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no folder '.*absent'"):
        look(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty: no pictures in this folder or below, and 0 other files"):
        look(tmp_path / "empty")
    plant(tmp_path / "one", 2, splits=("",), classes=("cat",))
    with pytest.raises(ImageError, match="one: expected two classes or two splits to compare, found one: cat"):
        look(tmp_path / "one")
    for kind in ("cat", "dog"):
        (tmp_path / "bad" / kind).mkdir(parents=True)
        (tmp_path / "bad" / kind / "a.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="bad: none of 2 pictures can be read; the first: .*cat/a.png: expected a picture"):
        look(tmp_path / "bad")
    with pytest.raises(ImageError, match="expected a table with name, split, class and path, found none of split, path"):
        leaks.find(pd.DataFrame({"name": ["a"], "class": ["b"]}))
    with pytest.raises(ImageError, match="found pictures that are drawn or part of a package"):
        leaks.find(images.load("mri-phantoms", per_class=1))


def test_labelled_images_and_a_table_are_looked_at_too(tmp_path: Path) -> None:
    plant(tmp_path, 4, splits=("",))
    shutil.copy(tmp_path / "cat/cat00.png", tmp_path / "dog/cat00.png")
    pictures = images.load_labelled(tmp_path).images()
    leak = leaks.find(pictures, progress=False)
    assert found(leak) == {"exact copies"} and set(leak.pictures["class"]) == {"0", "1"}
    table = images.load_labelled(tmp_path).table
    assert found(look(table.iloc[::-1])) == {"exact copies"}  # type: ignore[arg-type]


# the scans of paper 4


@pytest.fixture(scope="module")
def scanned() -> Leaks:
    return leaks.find("brain-mri")


def test_the_brain_scans_leak_as_measured(scanned: Leaks) -> None:
    table = scanned.table().set_index(["leak", "where"])
    assert (table.loc[("exact copies", "Testing also in Training"), ["count", "of"]] == [251, 394]).all()
    assert table.loc[("exact copies", "also in another class"), "count"] == 0
    across = scanned.twins[scanned.twins["across"] == "split"]
    assert (across["kind"] == "exact").groupby(across["split"]).sum().to_dict() == {"Testing": 251, "Training": 244}
    exact = across[(across["kind"] == "exact") & (across["split"] == "Testing")]
    assert set(exact["name"]) == set(scans.table()["name"][scans.has_twin()]) and (exact["class"] == exact["twin_class"]).all()
    assert "borders: not looked at, as no file was read" in scanned.notes
    assert any("by their hashes alone, not confirmed on the images" in note for note in scanned.notes)


def test_the_size_of_a_brain_scan_tells_its_class(scanned: Leaks) -> None:
    rows = scanned.shortcuts.set_index("where")
    assert 0.60 < rows.loc["Testing", "accuracy"] < 0.68 and rows.loc["Testing", "found"]
    assert rows.loc["Testing, without copies", "accuracy"] < 0.25 and not rows.loc["Testing, without copies", "found"]
    assert 0.40 < rows.loc["Training, 5 folds", "accuracy"] < 0.47
    assert rows.loc["Testing", "rule"] == "512×512: 1 % of no_tumor, 93 % of the others"


def test_wilson_by_hand() -> None:
    """252 of 394 by the formula, z = 1.959964."""
    right, truth = np.arange(394) < 252, np.array(["a"] * 115 + ["b"] * 100 + ["c"] * 179)
    k, n, share, low, high, commonest, leak = shortcuts.score(right, truth)
    z, p = 1.959964, 252 / 394
    middle, half = (p + z * z / 788) / (1 + z * z / 394), z / (1 + z * z / 394) * np.sqrt(p * (1 - p) / 394 + (z / 788) ** 2)
    assert (k, n, share, commonest, leak) == (252, 394, p, 179 / 394, True)
    assert low == pytest.approx(middle - half, abs=1e-6) and high == pytest.approx(middle + half, abs=1e-6)
    assert not shortcuts.score(np.arange(394) < 200, truth)[-1], "its interval begins below the commonest class"
    assert not shortcuts.score(np.ones(5, bool), np.array(["a"] * 5))[-1], "one class cannot be told from none"


@pytest.mark.skipif(not os.environ.get("XAI_DATA_HOME"), reason="XAI_DATA_HOME is not set: no brain scans")
def test_real_copies_have_the_same_pixels(scanned: Leaks) -> None:
    pictures = images.load("brain-mri")
    rows = scanned.pairs(4)
    if not pictures.select([rows["name"][0]]).sources[0].is_file():
        pytest.skip("no brain scans in XAI_DATA_HOME")
    assert set(rows["kind"]) == {"exact"} and rows["class"].nunique() == 4
    for row in rows.itertuples():
        assert np.array_equal(pictures[row.name].pixels, pictures[row.twin].pixels)


def test_figures(tmp_path: Path) -> None:
    pair = (np.asarray(picture(1)), np.asarray(picture(2, (30, 60))))
    figure = plots.copies([pair] * 3, [("a", "b")] * 3, ["exact", "near", "near"])
    assert len([axes for axes in figure.axes if axes.images]) == 6
    assert [t.get_text() for axes in figure.axes for t in axes.texts] == ["exact", "near", "near"]
    [axes] = plots.shortcuts(["x", "y"], [0.5, 0.7], [0.4, 0.6], [0.6, 0.8], [0.3, 0.3]).axes
    assert [bar.get_width() for bar in axes.patches] == [0.3, 0.3]
    assert list(axes.lines[0].get_xdata()) == [0.5, 0.7]

"""A user's labelled folders: both layouts, and every way in which they are not what was meant."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.leaks.folders import plant
from xai_lib import images
from xai_lib.images import ImageError, View, load_labelled


def test_classes_alone(tmp_path: Path) -> None:
    plant(tmp_path, 2, splits=("",))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").mkdir()
    found = load_labelled(tmp_path)
    assert found.classes == ("cat", "dog") and found.splits == ("",)
    assert list(found.table["name"]) == ["cat/cat00", "cat/cat01", "dog/dog00", "dog/dog01"]
    pictures = found.images()
    assert pictures.labels == (0, 0, 1, 1) and tuple(pictures.batch(View(8, 8)).shape) == (4, 3, 8, 8)
    assert load_labelled(tmp_path, ("dog", "cat")).images().labels == (1, 1, 0, 0)


def test_splits_and_folders_below_classes(tmp_path: Path) -> None:
    plant(tmp_path, 2)
    (tmp_path / "train/cat/patient 7").mkdir()
    shutil.copy(tmp_path / "train/cat/cat00.png", tmp_path / "train/cat/patient 7/x.png")
    found = load_labelled(tmp_path, splits=("train", "test"))
    assert set(found.splits) == {"train", "test"}
    assert found.images("train").names == (
        "train/cat/cat00", "train/cat/cat01", "train/cat/patient 7/x", "train/dog/dog00", "train/dog/dog01",
    )  # fmt: skip
    assert found.images("train").labels == (0, 0, 0, 1, 1) and len(found.images()) == 9
    with pytest.raises(ImageError, match=f"{tmp_path} has no split 'val'; it has test, train"):
        found.images("val")


def test_names_that_differ_in_the_suffix_alone(tmp_path: Path) -> None:
    plant(tmp_path, 2, splits=("",))
    shutil.copy(tmp_path / "cat/cat00.png", tmp_path / "cat/cat00.jpg")
    assert load_labelled(tmp_path).images().names[:2] == ("cat/cat00.jpg", "cat/cat00.png")


def test_a_damaged_scan_is_left_out_by_name(tmp_path: Path) -> None:
    plant(tmp_path, 3, splits=("",))
    (tmp_path / "cat/cat01.png").write_bytes(b"broken")
    pictures = load_labelled(tmp_path).images()
    with pytest.warns(UserWarning, match="left out 'cat/cat01': .*cat01.png: expected a picture"):
        assert len(pictures.batch(View(8, 8))) == 5
    assert list(pictures.failures) == ["cat/cat01"]


def change(folder: Path, what: str) -> None:
    if what == "one picture":
        (folder / "train/dog/dog01.png").unlink()
    elif what == "empty class":
        (folder / "train/bird").mkdir()
    elif what == "class missing in a split":
        shutil.rmtree(folder / "test/dog")
    elif what == "other classes in a split":
        (folder / "test/dog").rename(folder / "test/dogs")
    elif what == "empty split":
        (folder / "val").mkdir()
    elif what == "stray picture":
        shutil.copy(folder / "train/dog/dog01.png", folder / "a.png")
    elif what == "mixed layout":
        shutil.copy(folder / "train/dog/dog01.png", folder / "test/a.png")
    elif what == "no classes":
        for file in folder.glob("*/*/*.png"):
            file.rename(file.parents[1] / f"{file.parent.name}{file.name}")


@pytest.mark.parametrize(
    ("what", "classes", "splits", "message"),
    [
        ("one picture", None, None, "{0}/train/dog: expected 2 pictures of this class or more, found 1 picture"),
        ("empty class", None, None, "{0}/train/bird: no pictures in this folder or below"),
        ("class missing in a split", None, None, "{0}/test: no folder with pictures of class 'dog'; it has cat"),
        ("other classes in a split", None, None, "{0}/test: no folder with pictures of class 'dog'; it has cat, dogs"),
        ("empty split", None, None, "{0}/val: no pictures in this folder or below"),
        ("stray picture", None, None,
         "{0}/a.png: expected pictures in folders named after their classes, found a picture beside them"),
        ("mixed layout", None, None, "{0}: 'test' holds pictures, 'train' folders of pictures: are these classes or splits?"),
        ("no classes", None, None, "{0}: expected a folder for each class inside of test and train, found none"),
        ("", ("cat", "fish"), None, "'dog' is none of the classes cat, fish; known: cat, fish"),
        ("", ("cat", "dog", "fish"), None, "no folder with pictures of class 'fish'; it has cat, dog"),
        ("", ("cat", "cat"), None, "{0}: expected two classes or more, all different, found cat, cat"),
        ("", None, ("train", "val"), "{0}/val: expected a folder of that split, found none; it has test, train"),
    ],
)  # fmt: skip
def test_folders_that_are_not_what_was_meant(
    tmp_path: Path, what: str, classes: tuple[str, ...] | None, splits: tuple[str, ...] | None, message: str
) -> None:
    plant(tmp_path, 2)
    change(tmp_path, what)
    with pytest.raises(ImageError, match=re.escape(message.format(tmp_path))):
        load_labelled(tmp_path, classes, splits)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no folder '.*absent'"):
        load_labelled(tmp_path / "absent")
    with pytest.raises(ImageError, match="no pictures in this folder or below"):
        load_labelled(tmp_path)
    plant(tmp_path, 2, splits=("",))
    with pytest.raises(ImageError, match="it has no splits"):
        load_labelled(tmp_path, splits=("train",))
    assert len(load_labelled(tmp_path, least=2).table) == 4
    with pytest.raises(ImageError, match="cat: expected 3 pictures of this class or more, found 2 pictures"):
        images.load_labelled(tmp_path, least=3)

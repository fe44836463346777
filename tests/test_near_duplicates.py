"""Near duplicates: pairs that a hash proposes are confirmed on the images, on real files in several formats."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from xai_lib import images, leaks
from xai_lib.images import splits
from xai_lib.images.duplicates import BACK, TURNS, Candidates, Look, look, same, turned
from xai_lib.images.measuring import measure

Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def scaled(across: float, down: float) -> Change:
    return lambda image: image.resize((round(image.width * across), round(image.height * down)), Image.Resampling.BICUBIC)


COPIES: dict[str, Change] = {
    "jpeg 30": jpeg(30), "jpeg 50": jpeg(50), "jpeg 95": jpeg(95), "half": scaled(0.5, 0.5), "seven tenths": scaled(0.7, 0.7),
    "twice": scaled(2, 2), "wide": scaled(1.5, 1), "tall": scaled(1, 1.5), "grey": lambda i: i.convert("L").convert("RGB"),
    "blurred": lambda i: i.filter(ImageFilter.GaussianBlur(1)), "contrast": lambda i: ImageOps.autocontrast(i, cutoff=1),
    "half, jpeg 30": lambda i: jpeg(30)(scaled(0.5, 0.5)(i)),
}  # fmt: skip


def photographs() -> list[Image.Image]:
    loaded = images.load("photos")
    return [scaled(0.5, 0.5)(Image.fromarray(loaded[i].pixels)) for i in range(len(loaded))]


def drawings() -> list[Image.Image]:
    """Discs, boxes and words of several places and colours."""
    rng, drawn = np.random.default_rng(0), []
    for i in range(12):
        image = Image.new("RGB", (96, 96), "white")
        pen, (x, y, w, h) = ImageDraw.Draw(image), rng.integers(12, 40, 4).tolist()
        colour = tuple(rng.integers(0, 200, 3).tolist())
        (pen.rectangle if i % 2 else pen.ellipse)((x, y, x + w, y + h), fill=colour)
        drawn.append(image)
    return drawn


def looks(pictures: list[Image.Image]) -> list[Look]:
    return [look(np.asarray(picture.convert("RGB"))) for picture in pictures]


def candidates(pictures: list[Image.Image], **how: object) -> Candidates:
    return Candidates([str(imagehash.phash(p)) for p in pictures], looks(pictures), **how)  # type: ignore[arg-type]


def confirmed(pictures: list[Image.Image]) -> tuple[int, list[tuple[int, int]]]:
    """How many pairs the hashes propose, and those that the images confirm."""
    found = candidates(pictures)
    proposed = [(i, j, turn) for i in range(len(pictures)) for _, turn, j in found.of(i, i + 1)]
    return len(proposed), [(i, j) for i, j, turn in proposed if found.confirmed(i, j, turn)]


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_photographs_are_found(name: str) -> None:
    for picture in photographs():
        assert confirmed([picture, COPIES[name](picture)])[1] == [(0, 1)]


@pytest.mark.parametrize("name", [n for n in COPIES if n not in ("contrast", "half, jpeg 30")])
def test_copies_of_drawings_are_confirmed_where_the_hash_proposes_them(name: str) -> None:
    pairs = [confirmed([picture, COPIES[name](picture)]) for picture in drawings()]
    assert all(len(found) == bool(proposed) for proposed, found in pairs)
    assert sum(bool(found) for _, found in pairs) >= 10


def digits(side: int) -> list[Image.Image]:
    from sklearn.datasets import load_digits

    levels = (load_digits().images * 255 / 16).round().astype(np.uint8)
    return [Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC).convert("RGB") for each in levels]


def dots(n: int, side: int, seed: int) -> list[Image.Image]:
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(n):
        image, (x, y), r = Image.new("RGB", (side, side)), rng.integers(6, side - 6, 2).tolist(), int(rng.integers(2, 7))
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill="white")
        drawn.append(image)
    return drawn


def shades() -> list[Image.Image]:
    colours = [(10 + i, 20 + 3 * i, 150 + 8 * i) for i in range(12)] + [(255 - i,) * 3 for i in range(12)]
    return [Image.new("RGB", (64, 64), colour) for colour in colours]


def gradients() -> list[Image.Image]:
    ramps = []
    for i in range(24):
        one, two = np.random.default_rng(i).integers(0, 256, (2, 3))
        across = np.linspace(0, 1, 64)[:, None, None] if i % 2 else np.linspace(0, 1, 64)[None, :, None]
        ramps.append(Image.fromarray(np.broadcast_to(one + (two - one) * across, (64, 64, 3)).round().astype(np.uint8)))
    return ramps


def logos() -> list[Image.Image]:
    """One sign in five colours: alike in shape, and in grey up to contrast."""
    drawn = []
    for colour in ("red", "green", "blue", "black", "orange"):
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).polygon([(48, 16), (16, 80), (80, 80)], fill=colour)
        drawn.append(image)
    return drawn


def words() -> list[Image.Image]:
    drawn = []
    for word in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "one", "two", "three", "four", "tree", "red", "blue"):
        image = Image.new("RGB", (128, 64), "white")
        ImageDraw.Draw(image).text((20, 20), word, fill="black", font_size=24)
        drawn.append(image)
    return drawn


SIMPLE = {
    "digits": lambda: digits(8), "large digits": lambda: digits(64), "dots": lambda: dots(60, 64, 0),
    "many dots": lambda: dots(200, 128, 2), "shades": shades, "gradients": gradients, "logos": logos, "words": words,
}  # fmt: skip


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_images_are_not_confused(name: str) -> None:
    pictures = SIMPLE[name]()
    proposed, found = confirmed(pictures)
    assert found == [], f"{len(found)} of {proposed} proposed pairs"
    if name in ("digits", "large digits", "dots"):
        assert proposed > 5, "the hash alone would have taken them for copies"


def test_the_eight_orientations_are_found_and_named() -> None:
    assert len({turned(np.arange(9).reshape(3, 3), turn).tobytes() for turn in range(8)}) == 8
    names = {4: ImageOps.mirror, 2: ImageOps.flip, 6: lambda i: i.rotate(180), 3: lambda i: i.rotate(90, expand=True),
             5: lambda i: i.rotate(-90, expand=True), 1: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
             7: lambda i: i.transpose(Image.Transpose.TRANSVERSE)}  # fmt: skip
    assert TURNS[4] == "mirrored" and TURNS[3] == "rotated 90° counterclockwise" and TURNS[5] == "rotated 90° clockwise"
    for picture in photographs()[:4]:
        for turn, change in names.items():
            other = jpeg(75)(change(picture))
            found = candidates([picture, other])
            assert [(t, j) for _, t, j in found.of(0)] == [(turn, 1)] and found.confirmed(0, 1, turn), TURNS[turn]
            assert [(t, j) for _, t, j in found.of(1)] == [(BACK[turn], 0)] and found.confirmed(1, 0, int(BACK[turn]))
            assert candidates([picture, other], turns=False).of(0) == []
    for turn in range(8):  # each undone by its BACK
        values = np.arange(12 * 12).reshape(12, 12)
        assert np.array_equal(turned(turned(values, turn), int(BACK[turn])), values)


def test_what_is_not_looked_for_is_not_found() -> None:
    picture = photographs()[0]
    cropped = picture.crop((picture.width // 5, picture.height // 5, picture.width, picture.height))
    framed = ImageOps.expand(picture, 30, "white")
    for other in (cropped, framed, ImageOps.invert(picture), picture.rotate(30)):
        assert confirmed([picture, other])[1] == []


def test_the_first_hash_is_that_of_imagehash() -> None:
    for picture in photographs():
        assert f"{int(look(np.asarray(picture)).hashes[0]):016x}" == str(imagehash.phash(picture))
    mirrored = look(np.asarray(ImageOps.mirror(picture)))
    assert (int(mirrored.hashes[0]) ^ int(look(np.asarray(picture)).hashes[4])).bit_count() <= 2


def test_comparison_is_the_same_from_both_sides() -> None:
    pictures = [*photographs()[:4], *drawings()[:4], *logos()[:2], *shades()[:2]]
    kept = looks([*pictures, *(COPIES["jpeg 50"](p) for p in pictures)])
    assert all(same(a, b) == same(b, a) for a, b in combinations(kept, 2))


def planted(folder: Path) -> None:
    """Flat images, digits and dots in both splits, of which some are exact copies; a photograph and a mirrored, smaller one."""
    photo, (tone, *_) = photographs()[0], shades()
    named = {
        "train/a/photo.png": photo, "test/a/photo.jpg": scaled(0.6, 0.6)(ImageOps.mirror(photo)),
        "train/a/flat.png": tone, "test/a/same.png": tone, "train/b/white.png": shades()[12], "test/b/whiter.png": shades()[13],
    }  # fmt: skip
    for i, digit in enumerate(digits(8)[:40]):
        named[f"{'train' if i % 2 else 'test'}/{'ab'[i % 4 // 2]}/digit{i}.png"] = digit
    for name, picture in named.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)


def test_files_are_compared_on_their_pixels(tmp_path: Path) -> None:
    planted(tmp_path)
    found = leaks.find(tmp_path, progress=False)
    across = found.twins[found.twins["across"] == "split"]
    assert sorted(zip(across["name"], across["twin"], across["kind"], across["turn"], strict=True)) == [
        ("test/a/photo", "train/a/photo", "near", "mirrored"), ("test/a/same", "train/a/flat", "exact", ""),
        ("train/a/flat", "test/a/same", "exact", ""), ("train/a/photo", "test/a/photo", "near", "mirrored"),
    ]  # fmt: skip
    assert found.twins[found.twins["across"] == "class"].empty and "crops" in found.limits
    upright = leaks.find(tmp_path, turns=False, progress=False)
    assert set(upright.twins["kind"]) == {"exact"}


def test_groups_for_splits_are_confirmed_too(tmp_path: Path) -> None:
    planted(tmp_path)
    files = sorted(tmp_path.rglob("*.*g"))
    facts = [measure(file) for file in files]
    names = [file.stem for file in files]
    columns = {key: [fact[key] for fact in facts] for key in ("pixels", "phash", "look")}
    groups = splits.twins(names, columns["pixels"], columns["phash"], looks=columns["look"])
    sizes = pd.Series(groups).value_counts()
    assert sizes.max() == 2 and (sizes == 2).sum() == 2
    assert groups[names.index("flat")] == groups[names.index("same")] != groups[names.index("white")]


def test_rows_not_names_identify_images(tmp_path: Path) -> None:
    """The same name in train and test with other pixels, and a copy under another name: by row, by hand."""
    photos = photographs()
    paths = []
    for i, picture in enumerate([photos[0], photos[1], photos[2], photos[0], photos[3], photos[4]]):
        paths.append(tmp_path / f"{i}.png")
        picture.save(paths[-1])
    table = pd.DataFrame({
        "name": ["a", "b", "c", "b", "a", "c"], "split": ["train"] * 3 + ["test"] * 3, "class": ["x", "y", "x", "x", "y", "y"],
        "path": paths,
    })  # fmt: skip
    found = leaks.find(table, progress=False)
    counts = found.table().set_index(["leak", "where"])["count"]
    assert counts["exact copies", "test also in train"] == 1 and counts["near copies", "test also in train"] == 0
    assert found.twins[["row", "twin_row"]].to_numpy().tolist() == [[0, 3], [3, 0]]
    assert found.pairs()[["name", "split", "twin", "twin_split"]].to_numpy().tolist() == [["b", "test", "a", "train"]]
    clean = table.drop(index=3)  # its names "a" and "c" are in both splits, of other images
    assert leaks.find(clean, progress=False).twins.empty


def test_images_of_equal_names_are_all_there(tmp_path: Path) -> None:
    from xai_lib.images import ImageError, Images
    from xai_lib.images.sources import Entry

    for i, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"none")
    found = Images([Entry(name, tmp_path / f"{i}.png", (i,)) for i, name in enumerate("aabb")])
    assert found.names == ("a", "a", "b", "b") and found.labels == (0, 1, 2, 3) and len(found) == 4
    with pytest.warns(UserWarning, match="left out 'b'"):
        batch = found.batch(8)
    assert batch.shape == (3, 3, 8, 8) and found.loaded_names == ("a", "a", "b") and list(found.failures) == ["b"]
    assert found[1].label == 1 and found[2:3].names == ("b",) and len(found.sources) == 4
    with pytest.raises(ImageError, match="2 images are called 'a'; ask for one by its number: 0, 1"):
        found["a"]

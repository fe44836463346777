"""What is measured of one file, against hand-made pictures."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from tests.leaks.folders import picture
from xai_lib.images import ImageError
from xai_lib.images.measuring import FLAT, borders, checksum, measure, traces


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(0, 5)] * 4), st.integers(0, 255), st.integers(0, FLAT // 2))
def test_borders_are_as_wide_as_they_were_drawn(sides: tuple[int, int, int, int], level: int, ripple: int) -> None:
    left, right, top, bottom = sides
    grey = np.where(np.indices((20, 30)).sum(0) % 2, 255, 0).astype(np.uint8)  # a chessboard: no line of it is flat
    inside = np.zeros((20, 30), bool)
    inside[top : 20 - bottom, left : 30 - right] = True
    wave = np.random.default_rng(level).integers(-ripple, ripple + 1, (20, 30))
    grey[~inside] = np.clip(level + wave, 0, 255)[~inside]
    found = borders(grey)
    assert (found["left"], found["right"], found["top"], found["bottom"]) == sides
    assert found["border_area"] == pytest.approx(1 - inside.mean())
    for side in ("left", "right", "top", "bottom"):
        assert abs(found[f"{side}_level"] - level) <= ripple if found[side] else found[f"{side}_level"] == -1


def test_an_empty_picture_is_all_border() -> None:
    found = borders(np.full((4, 6), 7, np.uint8))
    assert (found["left"], found["top"], found["border_area"], found["left_level"]) == (6, 4, 1, 7)
    assert borders(np.zeros((1, 1), np.uint8))["border_area"] == 1


def test_one_file(tmp_path: Path) -> None:
    picture(3, (40, 30)).save(tmp_path / "a.png")
    found = measure(tmp_path / "a.png")
    raw = b"40x30:" + np.asarray(picture(3, (40, 30))).tobytes()
    assert (found["width"], found["height"], found["pixels"]) == (40, 30, hashlib.sha256(raw).hexdigest()[:16])
    assert len(found["phash"]) == 16 and int(found["phash"], 16) >= 0
    assert checksum(np.asarray(picture(3, (40, 30)))) != checksum(np.asarray(picture(3, (40, 30))).reshape(40, 30, 3))
    with pytest.raises(ImageError, match="b.png: expected a picture file, found nothing of that name"):
        measure(tmp_path / "b.png")


def test_the_perceptual_hash_is_that_of_its_definition(tmp_path: Path) -> None:
    """Grey, 32 pixels square, cosine transform, the 8×8 lowest against their median (Zauner 2010, as imagehash has it)."""
    from scipy.fft import dct

    picture(5, (50, 70)).save(tmp_path / "a.png")
    small = np.asarray(picture(5, (50, 70)).convert("L").resize((32, 32), Image.Resampling.LANCZOS)).astype(float)
    low = dct(dct(small, axis=0), axis=1)[:8, :8]
    bits = "".join("1" if v > np.median(low) else "0" for v in low.flatten())
    assert measure(tmp_path / "a.png")["phash"] == f"{int(bits, 2):016x}"


def test_traces(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271], exif[272], exif[274], exif[305] = "Maker\0", "  Model  9", 6, "Editor"
    picture(1).save(tmp_path / "a.jpg", exif=exif)
    assert traces(tmp_path / "a.jpg") == {
        "format": "JPEG", "mode": "RGB", "orientation": "6", "camera": "Maker Model 9", "software": "Editor",
    }  # fmt: skip
    assert measure(tmp_path / "a.jpg")["width"] == 48, "upright"
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "Painter")
    picture(1).convert("L").save(tmp_path / "b.png", pnginfo=text)
    assert traces(tmp_path / "b.png") == {
        "format": "PNG", "mode": "L", "orientation": "none", "camera": "none", "software": "Painter",
    }  # fmt: skip
    picture(1).save(tmp_path / "c.jpg", comment="CREATOR: gd-jpeg")
    assert traces(tmp_path / "c.jpg")["software"] == "CREATOR: gd-jpeg"

"""The sequence of photographs, how networks see them, and the known sets."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xai_lib import images
from xai_lib.errors import XaiError
from xai_lib.images import ImageError, MissingPhotograph, Photo, View
from xai_lib.images.sources import REGISTRY

H, W = 24, 40
SAMPLES = os.environ.get("XAI_DATA_HOME", "")
needs_samples = pytest.mark.skipif(not SAMPLES, reason="XAI_DATA_HOME is not set: no ImageNet samples")


def ramp() -> np.ndarray:
    """(H, W, 3) uint8 with three smooth, asymmetric channels: no turn or swap maps it to itself."""
    y, x = np.mgrid[:H, :W]
    return np.stack([x * 255 // (W - 1), y * 255 // (H - 1), (x + 2 * y) * 2], -1).astype(np.uint8)


def off(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


# the sequence


def test_one_bad_file_does_not_lose_the_others(tmp_path: Path) -> None:
    for k in range(6):
        Image.new("RGB", (30, 30), (k, 0, 0)).save(tmp_path / f"{k}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    folder = images.load(tmp_path)
    with pytest.warns(UserWarning, match="left out '[24]': .*[24].png: ") as caught:
        batch = folder.batch(View(8, 8))
    assert len(caught) == 2
    assert [round(float(row[0, 0, 0]) * 255) for row in batch] == [0, 1, 3, 5]
    assert folder.loaded_names == ("0", "1", "3", "5") and list(folder.failures) == ["2", "4"]
    with pytest.warns(UserWarning, match="left out"):
        assert [(name, tuple(image.shape), label) for name, image, label in folder] == [
            (name, (3, 30, 30), None) for name in "0135"
        ]
    with pytest.raises(ImageError, match="2.png: expected a picture"):
        folder["2"]
    with (
        pytest.raises(ImageError, match="none of 2 photographs can be read; the first: .*2.png"),
        pytest.warns(),
    ):
        folder.select(["2", "4"]).batch(8)
    Image.new("RGB", (30, 30), (2, 0, 0)).save(tmp_path / "2.png")
    with pytest.warns(UserWarning, match="'4'"):
        assert len(folder.batch(8)) == 5 and list(folder.failures) == ["4"]
    with pytest.warns(UserWarning, match="'4'"):
        assert folder[2:2].batch(8).shape == (0, 3, 8, 8) and folder[1:5].batch(8).shape == (3, 3, 8, 8)


def test_indexing_and_selection() -> None:
    photos = images.load("photos")
    assert isinstance(photos[0], Photo) and photos[0].name == "coffee" == photos["coffee"].name
    assert photos[-1].name == photos.names[-1] and photos[1:3].names == photos.names[1:3]
    assert photos.select(["flower", "coffee"]).names == ("flower", "coffee")
    assert photos.select("flower").names == ("flower",) and photos.select(["flower", "coffee"]).labels == (
        None,
        967,
    )
    assert "coffee" in photos and "tea" not in photos and len(photos) == len(photos.names) == 10
    with pytest.raises(IndexError):
        photos[10]
    with pytest.raises(ImageError, match="no photograph is called 'cofee'; the nearest: coffee"):
        photos["cofee"]
    with pytest.raises(ImageError, match="no photograph is called 'zzz'; known: coffee, stereo_motorcycle"):
        photos.select(["zzz"])
    assert issubclass(ImageError, XaiError)


def test_jupyter_shows_thumbnails_and_faults(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a<b.png")
    (tmp_path / "bad.png").touch()
    shown = images.load(tmp_path)._repr_html_()
    assert shown.count("data:image/jpeg;base64,") == 1 and "a&lt;b" in shown and "an empty file" in shown
    assert Image.open(io.BytesIO(images.load(tmp_path)["a<b"]._repr_png_())).size == (W, H)
    assert repr(images.load("photos")).startswith("Images(10: coffee, stereo_motorcycle")


def test_names_stay_unique_and_sorted(tmp_path: Path) -> None:
    for name in ("b/x.png", "a/x.png", "a/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(tmp_path / name)
    assert images.load(tmp_path / "a").names == ("x", "y")
    assert images.load(tmp_path).names == ("a/x", "a/y", "b/x")
    shutil.copy(tmp_path / "a/x.png", tmp_path / "a/x.bmp")
    assert images.load(tmp_path).names == ("a/x.bmp", "a/x.png", "a/y.png", "b/x.png")
    listed = images.load([tmp_path / "b/x.png", str(tmp_path / "a/y.png"), tmp_path / "a/y.png"])
    assert listed.names == ("x", "y") and listed.sources == [tmp_path / "b/x.png", tmp_path / "a/y.png"]
    assert len(images.load([])) == 0


def test_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        ImageError, match="no pictures in this folder or below, and 1 other files; expected names that"
    ):
        images.load(tmp_path)


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ImageError, match=r"folder is called 'photo' \(paths start from .*\); the nearest: photos"
    ):
        images.load("photo")
    with pytest.raises(ImageError, match="folder is called 'zzz' .*; known: photos, imagenet-samples"):
        images.load("zzz")
    with pytest.raises(ImageError, match=r"no file or folder 'gone.png' \(paths start from"):
        images.load(["gone.png"])
    Path("photos").mkdir()
    Image.fromarray(ramp()).save("photos/mine.png")
    assert images.load("./photos").names == images.load(Path("photos")).names == ("mine",)
    assert len(images.load("photos")) == 10 and images.names() == [
        "photos", "imagenet-samples", "brain-mri", "mri-phantoms", "critters",
    ]  # fmt: skip


def test_labels_of_an_ilsvrc_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("n02123394/ILSVRC2012_val_00000001.JPEG", "n99999999/b.JPEG", "n01440764/c.JPEG", "d.JPEG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(ramp()).save(tmp_path / name)
    found = images.load(tmp_path)
    assert dict(zip(found.names, found.labels, strict=True)) == {
        "ILSVRC2012_val_00000001": 283, "b": None, "c": 0, "d": None,
    }  # fmt: skip
    monkeypatch.chdir(tmp_path / "n02123394")
    assert images.load(Path("."))[0].labels == (283,)


# how a network sees a picture


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), st.integers(0, 20),
    st.sampled_from(["bilinear", "bicubic"]),
)  # fmt: skip
def test_view_is_torchvisions_resize_and_crop(
    height: int, width: int, size: int, more: int, how: str
) -> None:
    from torchvision.transforms import v2

    if max(height, width) > 16 * min(height, width):
        height = width = min(height, width)
    pixels = np.random.default_rng(height * 301 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resize = v2.Resize(size + more, v2.InterpolationMode[how.upper()])
    expected = np.array(v2.CenterCrop(size)(resize(Image.fromarray(pixels))))
    found = View(size, size + more, how).apply(pixels)  # type: ignore[arg-type]
    assert found.dtype == torch.float32 and found.shape == (3, size, size) and found.is_contiguous()
    assert torch.equal(found, torch.from_numpy(expected).permute(2, 0, 1) / 255)


def slow_resize(line: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear resizing of (n, C): a triangle as wide as the step between two new pixels."""
    step = len(line) / size
    width = max(step, 1)
    rows = []
    for k in range(size):
        centre = (k + 0.5) * step
        weights = np.array([max(0.0, 1 - abs(j + 0.5 - centre) / width) for j in range(len(line))])
        rows.append(weights @ line / weights.sum())
    return np.array(rows)


def test_view_against_a_slow_twin() -> None:
    pixels = ramp()
    height, width = 16, 16 * W // H
    rows = np.stack([slow_resize(row, width) for row in pixels.astype(float)])
    both = np.stack([slow_resize(column, height) for column in rows.transpose(1, 0, 2)], 1)
    left = round((width - 12) / 2)
    found = View(12, 16).apply(pixels).permute(1, 2, 0).numpy() * 255
    assert np.abs(found - both[2:14, left : left + 12]).max() <= 1
    assert np.array_equal(
        np.rint(found).astype(np.float32) / np.float32(255), View(12, 16).apply(pixels).permute(1, 2, 0)
    )


def test_extreme_shapes(tmp_path: Path) -> None:
    for shape in ((1, 1), (1, 5000), (5001, 2), (20000, 1)):
        ends = np.zeros((*shape, 3), np.uint8)
        ends[shape[0] // 3 : shape[0] - shape[0] // 3, shape[1] // 3 : shape[1] - shape[1] // 3] = (
            9,
            99,
            199,
        )
        Image.fromarray(ends).save(tmp_path / "a.png")
        photo = images.load(tmp_path / "a.png")
        expected = torch.tensor([9, 99, 199]).view(1, 3, 1, 1).expand(1, 3, 224, 224) / 255
        assert torch.equal(photo.batch(), expected) and off(photo[0].pixels, ends) == 0
    strip = np.arange(1000, dtype=np.uint8)[:, None, None].repeat(20, 1).repeat(3, 2)
    whole = Image.fromarray(strip).resize((20, 1000)).crop((0, 490, 20, 510))
    assert torch.equal(View(20, 20).apply(strip), torch.from_numpy(np.array(whole)).permute(2, 0, 1) / 255)


def test_view_and_pixels_are_checked() -> None:
    with pytest.raises(ImageError, match="a view needs 1 <= size <= resize, found size=224, resize=200"):
        View(224, 200)
    with pytest.raises(ImageError, match="interpolation must be 'bilinear' or 'bicubic', found 'nearest'"):
        View(interpolation="nearest")  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"expected pixels \(H, W, 3\) uint8, found \(4, 4\) float64"):
        View().apply(np.ones((4, 4)))
    photos = images.load("photos").select(["coffee"])
    assert torch.equal(photos.batch(112), photos.batch(View(112, 128)))


# the known sets


def test_photos_are_those_of_the_packages() -> None:
    import skimage.data
    from sklearn.datasets import load_sample_images

    photos, bunch = images.load("photos"), load_sample_images()
    assert photos.sources == []
    for name in ("coffee", "chelsea", "astronaut"):
        assert off(photos[name].pixels, getattr(skimage.data, name)()) == 0
    for name in ("camera", "clock"):
        assert off(photos[name].pixels, getattr(skimage.data, name)()[..., None].repeat(3, 2)) == 0
    assert off(photos["stereo_motorcycle"].pixels, skimage.data.stereo_motorcycle()[0]) == 0
    assert (
        off(photos["china"].pixels, bunch.images[0]) == 0
        and off(photos["flower"].pixels, bunch.images[1]) == 0
    )
    for name in (
        "china",
        "flower",
    ):  # the author named in the credit is the one in scikit-learn's own description
        credit = photos[name].credit
        assert "CC BY 2.0" in credit and f"https://www.{credit.split(';')[0]}/" in bunch.DESCR
    assert all(photos[name].credit for name in photos.names)


def test_photos_are_classified_as_labelled() -> None:
    from xai_lib import classifiers

    network, photos = classifiers.load("efficientnet_lite0"), images.load("photos")
    top = {
        n: [p.index for p in row]
        for n, row in zip(photos.names, network.top(photos.batch(network.view), 3), strict=True)
    }
    for name in ("coffee", "stereo_motorcycle", "chelsea", "china", "camera", "rocket"):
        assert top[name][0] in photos[name].labels
    assert (
        652 in top["grace_hopper"]
        and top["grace_hopper"][0] != 652
        and top["clock"][0] != photos["clock"].label
    )
    assert (
        photos["chelsea"].labels == (281, 282, 285)
        and photos["astronaut"].label is photos["flower"].label is None
    )


def test_nothing_heavy_is_imported_for_the_list() -> None:
    code = (
        "import sys; from xai_lib import images; images.load('photos').names; "
        "heavy = ('torch', 'sklearn', 'skimage', 'matplotlib', 'timm', 'requests'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


@needs_samples
def test_all_samples_read_with_their_checksums() -> None:
    samples = images.load("imagenet-samples")
    assert len(samples) == 200 and samples.batch(32).shape == (200, 3, 32, 32) and not samples.failures
    cat = samples["Persian_cat"]
    assert cat.label == 283 and cat.pixels.shape == (500, 426, 3) and "non-commercial research" in cat.credit
    assert samples["goldfinch"].label == 11 and cat.source == Path(
        SAMPLES, "imagenet-samples/n02123394_Persian_cat.JPEG"
    )
    assert samples.select(["goldfinch"]).sources == [
        Path(SAMPLES, "imagenet-samples/n01531178_goldfinch.JPEG")
    ]


@needs_samples
def test_changed_sample_is_refused_and_others_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "imagenet-samples"
    folder.mkdir()
    for name in ("n02123394_Persian_cat.JPEG", "n01531178_goldfinch.JPEG"):
        shutil.copyfile(Path(SAMPLES, "imagenet-samples", name), folder / name)
    cat = folder / "n02123394_Persian_cat.JPEG"
    cat.write_bytes(cat.read_bytes() + b"\0")
    monkeypatch.setenv("XAI_DATA_HOME", str(tmp_path))
    samples = images.load("imagenet-samples", cache=tmp_path / "cache")
    found = hashlib.sha256(cat.read_bytes()).hexdigest()
    with pytest.raises(ImageError) as caught:
        samples["Persian_cat"]
    assert str(caught.value) == (
        f"{cat}: wrong checksum: expected sha256 6392424586ff1c9b31dfa3a8d07f183f"
        f"183073dfb9160edcbe15d6b664534d00, found {found}; get the file again"
    )
    with pytest.warns(UserWarning, match="left out 'Persian_cat'.*wrong checksum"):
        assert samples.select(["Persian_cat", "goldfinch"]).batch(16).shape == (1, 3, 16, 16)


def test_absent_samples_say_where_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XAI_DATA_HOME", raising=False)
    samples = images.load("imagenet-samples", cache=tmp_path)
    path, url = tmp_path / "imagenet-samples" / "n01531178_goldfinch.JPEG", "/master/n01531178_goldfinch.JPEG"
    with pytest.raises(MissingPhotograph) as caught:
        samples["goldfinch"]
    assert str(caught.value).startswith(
        f"{path.name} is neither in $XAI_DATA_HOME (not set) nor in {path.parent}; "
    )
    assert "load('imagenet-samples', download=True), or put https://" in str(caught.value)
    assert f"{url} by hand at {path} or in $XAI_DATA_HOME/imagenet-samples" in str(caught.value)
    with pytest.raises(MissingPhotograph):  # not the fault of one file: never skipped
        samples.batch(16)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        MissingPhotograph, match=f"could not be fetched from https://.*{url}: .*; try again, or put"
    ):
        images.load("imagenet-samples", download=True, cache=tmp_path)["goldfinch"]
    assert not path.exists()


def test_fetched_samples_are_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server on this machine in the place of the registry's address."""
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from xai_lib.images import sources

    monkeypatch.delenv("XAI_DATA_HOME", raising=False)
    served = tmp_path / "served"
    served.mkdir()
    Image.fromarray(ramp()).save(served / "n01531178_goldfinch.JPEG", "PNG")
    (served / "n02123394_Persian_cat.JPEG").write_bytes(b"something else")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256((served / "n01531178_goldfinch.JPEG").read_bytes()).hexdigest()
    base = f"http://127.0.0.1:{server.server_port}"
    registry = tmp_path / "registry.csv"
    registry.write_text(
        "file,url,bytes,sha256,class_index,wnid,class_name\n"
        f"n01531178_goldfinch.JPEG,{base}/n01531178_goldfinch.JPEG,1,{digest},11,n01531178,goldfinch\n"
        f"n02123394_Persian_cat.JPEG,{base}/n02123394_Persian_cat.JPEG,1,{digest},283,n02123394,Persian cat\n"
    )
    monkeypatch.setattr(sources, "REGISTRY", registry)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    samples = images.load("imagenet-samples", download=True, cache=tmp_path)
    try:
        assert off(samples["goldfinch"].pixels, ramp()) == 0
        with pytest.raises(MissingPhotograph, match="Persian_cat.JPEG could not be fetched from .*: .*hash"):
            samples["Persian_cat"]
    finally:
        server.shutdown()
        server.server_close()
    assert [p.name for p in (tmp_path / "imagenet-samples").iterdir()] == ["n01531178_goldfinch.JPEG"]
    assert (
        off(images.load("imagenet-samples", cache=tmp_path)["goldfinch"].pixels, ramp()) == 0
    )  # server gone


def test_registry_is_complete() -> None:
    import csv

    rows = list(csv.DictReader(REGISTRY.read_text().splitlines()))
    assert len(rows) == len({row["file"] for row in rows}) == len({row["sha256"] for row in rows}) == 200
    assert all(row["url"].endswith(row["file"]) and len(row["sha256"]) == 64 for row in rows)
    assert all(row["file"].startswith(row["wnid"]) for row in rows)

"""Every odd file gives either the right pixels or an error that names it."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageFile

from xai_lib import images
from xai_lib.images import ImageError

H, W = 24, 40


def ramp() -> np.ndarray:
    """(H, W, 3) uint8 with three smooth, asymmetric channels: no turn or swap maps it to itself."""
    y, x = np.mgrid[:H, :W]
    return np.stack([x * 255 // (W - 1), y * 255 // (H - 1), (x + 2 * y) * 2], -1).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    photo = images.load(path)[0]
    assert photo.pixels.dtype == np.uint8 and photo.pixels.ndim == 3 and photo.source == path
    return photo.pixels


def refused(path: Path) -> str:
    """The message without the file's name, which it must begin with."""
    with pytest.raises(ImageError) as caught:
        images.load(path)[0]
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def off(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(path: Path, levels: np.ndarray, colour_type: int, transparent: bytes = b"") -> Path:
    """A 16-bit PNG, written by hand because Pillow writes only the grey one. `levels` (H, W[, C]) uint16."""
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour_type, 0, 0, 0)
    extra = chunk(b"tRNS", transparent) if transparent else b""
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def levels16() -> np.ndarray:
    """(H, W, 3) uint16 over the whole range, with low bytes that matter to rounding."""
    return (ramp().astype(np.uint16) * 257) ^ np.uint16(0x55)


# files that are right, in many dresses


@pytest.mark.parametrize(
    "name", ["a.png", "a.bmp", "a.ppm", "a.tif", "A.PNG", "été à la mer 日本.png", "x.y z.TIFF"]
)
def test_lossless_formats_give_the_exact_pixels_whatever_the_name(tmp_path: Path, name: str) -> None:
    Image.fromarray(ramp()).save(tmp_path / name)
    assert off(read(tmp_path / name), ramp()) == 0
    assert images.load(tmp_path).names == (Path(name).stem,)


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    for progressive in (False, True):
        Image.fromarray(ramp()).save(tmp_path / "a.jpg", quality=95, progressive=progressive)
        assert off(read(tmp_path / "a.jpg"), np.array(Image.open(tmp_path / "a.jpg"))) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, suffix: str) -> None:
    # what a camera stores so that the viewer's operation of that number shows the ramp (EXIF 2.32, 4.6.4 A)
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](ramp())
    exif = Image.Exif()
    exif[274] = orientation
    kinds: dict[str, Any] = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}
    Image.fromarray(np.ascontiguousarray(stored)).save(
        tmp_path / f"a.{suffix}", exif=exif, **kinds.get(suffix, {})
    )
    assert off(read(tmp_path / f"a.{suffix}"), ramp()) <= (12 if suffix == "jpg" else 0)


@pytest.mark.parametrize("kind", ["png", "little", "big", "from white", "deflate", "turned", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, kind: str) -> None:
    grey, path = levels16()[..., 0], tmp_path / ("a.png" if kind == "png" else "a.tif")
    kinds: dict[str, dict[str, Any]] = {
        "big": {"byteorder": ">"},
        "from white": {"photometric": "miniswhite"},
        "deflate": {"compression": "zlib", "predictor": True},
        "turned": {"extratags": [(274, "H", 1, 3, True)]},
    }
    if kind == "png":
        png16(path, grey, 0)
    elif kind == "pgm":
        path = tmp_path / "a.pgm"
        path.write_bytes(b"P5 %d %d 65535\n" % (W, H) + grey.astype(">u2").tobytes())
    else:
        tifffile.imwrite(path, 65535 - grey if kind == "from white" else grey, **kinds.get(kind, {}))
    seen = grey[::-1, ::-1] if kind == "turned" else grey
    expected = np.rint(seen / 257.0).astype(np.uint8)[..., None].repeat(3, 2)
    assert off(read(path), expected) == 0


@pytest.mark.parametrize("kind", ["png", "tif", "deflate"])
def test_16_bit_colour_keeps_the_high_byte(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{'png' if kind == 'png' else 'tif'}"
    if kind == "png":
        png16(path, levels16(), 2)
    else:
        tifffile.imwrite(
            path, levels16(), photometric="rgb", compression="zlib" if kind == "deflate" else None
        )
    assert off(read(path), levels16() >> 8) == 0
    assert np.abs(read(path) - levels16() / 257).max() < 1


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, H * W).reshape(H, W, 1).astype(np.uint8)
    expected = np.rint((ramp() * (alpha / 255.0)) + 255 * (1 - alpha / 255.0))
    Image.fromarray(np.concatenate([ramp(), alpha], 2)).save(tmp_path / "rgba.png")
    Image.fromarray(np.concatenate([ramp()[..., :1], alpha], 2), "LA").save(tmp_path / "la.png")
    assert off(read(tmp_path / "rgba.png"), expected) <= 1
    assert off(read(tmp_path / "la.png"), expected[..., :1].repeat(3, 2)) <= 1
    png16(tmp_path / "rgba16.png", np.concatenate([ramp(), alpha], 2).astype(np.uint16) * 257, 6)
    assert off(read(tmp_path / "rgba16.png"), expected) <= 1
    grey = levels16()[..., 0]
    png16(tmp_path / "key.png", grey, 0, struct.pack(">H", int(grey[3, 5])))
    found = read(tmp_path / "key.png")
    assert (found[grey == grey[3, 5]] == 255).all() and found[0, 1, 0] == round(grey[0, 1] / 257)
    Image.fromarray(ramp()).save(tmp_path / "key8.png", transparency=tuple(int(v) for v in ramp()[3, 5]))
    assert (read(tmp_path / "key8.png")[3, 5] == 255).all() and off(
        read(tmp_path / "key8.png")[:3], ramp()[:3]
    ) == 0


def test_palette_bilevel_and_first_frames(tmp_path: Path) -> None:
    index = (np.arange(H * W) % 3).reshape(H, W).astype(np.uint8)
    colours = np.array([[200, 10, 20], [0, 250, 30], [1, 2, 240]], np.uint8)
    palette = Image.fromarray(index, "P")
    palette.putpalette(colours.tobytes())
    palette.save(tmp_path / "p.png")
    assert off(read(tmp_path / "p.png"), colours[index]) == 0
    palette.save(tmp_path / "t.gif", transparency=1)
    assert off(read(tmp_path / "t.gif"), np.where(index[..., None] == 1, 255, colours[index])) == 0
    Image.fromarray(index > 0).save(tmp_path / "1.png")
    assert off(read(tmp_path / "1.png"), (index > 0)[..., None].repeat(3, 2) * 255) == 0
    second = Image.new("RGB", (W, H), "red")
    for name in ("two.gif", "two.tif", "two.png"):
        first = palette if name == "two.gif" else Image.fromarray(ramp())
        first.save(tmp_path / name, save_all=True, append_images=[second])
        assert off(read(tmp_path / name), colours[index] if name == "two.gif" else ramp()) == 0
    Image.fromarray(ramp()).save(tmp_path / "m.jpg", "MPO", save_all=True, append_images=[second], quality=98)
    assert off(read(tmp_path / "m.jpg"), np.array(Image.open(tmp_path / "m.jpg"))) == 0
    assert off(read(tmp_path / "m.jpg"), ramp()) < 40


def without_adobe_marker(data: bytes) -> bytes:
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    return data[:at] + data[at + 16 :]


def test_cmyk_jpeg_is_not_inverted_and_unknown_polarity_is_refused(tmp_path: Path) -> None:
    colour = Image.new("RGB", (16, 16), (250, 120, 10))
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert off(read(tmp_path / "cmyk.jpg"), np.array(colour)) <= 3
    (tmp_path / "bare.jpg").write_bytes(without_adobe_marker((tmp_path / "cmyk.jpg").read_bytes()))
    assert "found CMYK without the Adobe marker" in refused(tmp_path / "bare.jpg")


def swapped_profile() -> bytes:
    """sRGB's profile with the red and green primaries exchanged: a colour space in which red is green."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack(">I", data[128:132])[0]):
        entry = 132 + 12 * i
        data[entry : entry + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(
            bytes(data[entry : entry + 4]), data[entry : entry + 4]
        )
    return (
        bytes(data)
        .replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
        .replace(b"sRGB built", b"swap built")
    )


def test_colour_profile_is_converted_unless_srgb_or_broken(tmp_path: Path) -> None:
    picture, srgb = (
        Image.fromarray(ramp()),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    )
    picture.save(tmp_path / "srgb.png", icc_profile=srgb)
    picture.save(tmp_path / "broken.png", icc_profile=b"no profile at all")
    picture.save(tmp_path / "swap.png", icc_profile=swapped_profile())
    assert off(read(tmp_path / "srgb.png"), ramp()) == 0
    assert off(read(tmp_path / "broken.png"), ramp()) == 0
    assert off(read(tmp_path / "swap.png"), ramp()[..., [1, 0, 2]]) <= 2


# files that are wrong


def saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_truncated_files_are_refused(
    tmp_path: Path, kind: str, tolerant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    data = saved("JPEG", progressive=True) if kind == "progressive" else saved(kind)
    for part in (0.3, 0.5, 0.9, 0.99):
        (tmp_path / "a.jpg").write_bytes(data[: int(len(data) * part)])
        assert refused(tmp_path / "a.jpg")
    assert tolerant is ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}])
@pytest.mark.parametrize("part", [0.3, 0.45, 0.6, 0.75, 0.95])
def test_jpeg_that_ends_early_at_a_proper_end_marker_is_refused(
    tmp_path: Path, part: float, options: dict[str, Any]
) -> None:
    data = saved("JPEG", **options)
    (tmp_path / "a.jpg").write_bytes(data[: int(len(data) * part)] + b"\xff\xd9")
    message = refused(tmp_path / "a.jpg")
    assert "truncated or damaged: the data end before" in message or "broken data stream" in message


def test_png_with_zeroed_or_changed_data_is_refused(tmp_path: Path) -> None:
    data = saved("PNG")
    (tmp_path / "z.png").write_bytes(data[:5000] + bytes(len(data) - 5000))
    assert "damaged" in refused(tmp_path / "z.png") or "decoded" in refused(tmp_path / "z.png")
    for at in range(100, len(data), 997):
        (tmp_path / "f.png").write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        assert refused(tmp_path / "f.png")


def test_what_is_no_picture_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello world")
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = "expected a picture (JPEG, PNG, WebP, TIFF ... of 8 or 16 bits a channel), found "
    assert refused(tmp_path / "empty.jpg") == expected + "an empty file"
    assert refused(tmp_path / "text.jpg") == expected + "11 bytes that begin with b'hello wo'"
    assert (
        refused(tmp_path / "link.jpg")
        == "expected a picture file, found a link to gone.jpg, which does not exist"
    )
    assert refused(tmp_path / "pipe.jpg") == "expected a picture file, found a device or pipe"
    Image.fromarray(ramp()).save(tmp_path / "later.png")
    listed = images.load(tmp_path / "later.png")
    (tmp_path / "later.png").unlink()
    with pytest.raises(ImageError, match="later.png: expected a picture file, found nothing of that name"):
        listed["later"]


@pytest.mark.parametrize(
    ("values", "options", "found"),
    [
        (np.float32, {}, "floating-point values"),
        (np.int16, {}, "signed or 32-bit values"),
        (np.uint32, {}, "signed or 32-bit values"),
        (np.int8, {}, "signed values"),
        (
            np.uint16,
            {"photometric": "rgb", "planarconfig": "separate"},
            "planes or channels of (16, 16, 16) bits",
        ),
    ],
)
def test_tiff_of_unknown_scale_is_refused(
    tmp_path: Path, values: type, options: dict[str, Any], found: str
) -> None:
    shape = (3, H, W) if options else (H, W)
    tifffile.imwrite(tmp_path / "a.tif", np.ones(shape, values), **options)
    assert refused(tmp_path / "a.tif") == (
        f"expected 8 or 16 bits a channel, found {found}; save it as 8-bit RGB"
    )


def test_other_unreadable_kinds_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "f.tif", ramp().astype(np.float32), photometric="rgb")
    assert "of 8 or 16 bits a channel), found" in refused(tmp_path / "f.tif")
    png16(tmp_path / "key.png", levels16(), 2, struct.pack(">HHH", *(int(v) for v in levels16()[0, 0])))
    assert "found 16-bit colours of which one is transparent" in refused(tmp_path / "key.png")


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    message = refused(tmp_path / "huge.png")
    assert f"({side * side} pixels) exceeds limit of" in message
    assert message.endswith("pixels; scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that everybody may enter, and a process without root's right to read everything."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    images.load("photos").batch(32)  # imports what reading imports, while it may
    try:
        Image.fromarray(ramp()).save(folder / "good.png")
        Image.fromarray(ramp()).save(folder / "shut.png")
        (folder / "shut.png").chmod(0)
        (folder / "closed").mkdir(mode=0)
        if root:
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_unreadable_files_and_folders_are_reported(as_nobody: Path) -> None:
    assert "Permission denied" in refused(as_nobody / "shut.png")
    folder = images.load(as_nobody)
    with pytest.warns(UserWarning, match="left out '(shut|closed)'"):
        assert folder.batch(16).shape == (1, 3, 16, 16)
    assert folder.loaded_names == ("good",) and set(folder.failures) == {"shut", "closed"}
    assert all("Permission denied" in reason for reason in folder.failures.values())


def test_folders_hidden_files_links_and_folders_with_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("x.jpg/in.png", ".hidden/no.png", "._in.png"):
        Image.fromarray(ramp()).save(tmp_path / name)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "notes.txt").touch()
    assert images.load(tmp_path).names == ("in",) == images.load(tmp_path / "x.jpg").names
    os.rename(tmp_path / "x.jpg/in.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    assert images.load(tmp_path).names == ("caf\\xe9",) and off(images.load(tmp_path)[0].pixels, ramp()) == 0

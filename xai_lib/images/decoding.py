"""One picture file to the pixels that a person would see (sRGB, 8 bits, upright, on white), or an error that
says why.

Pillow decodes. What it would get wrong in silence is put right here or refused: 16-bit grey, inverted and
planar TIFF, CMYK without a stated polarity, JPEG and PNG with missing data.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from xai_lib.errors import XaiError

BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339  # TIFF tags
MARKER_END = b"\xff\xd9"  # JPEG, end of image; cannot occur inside the compressed data
MORE_BITS = (
    b"".join(b"\x55" * 64 + bytes([0xFF, 0xD0 + k]) for k in range(8)) + b"\x55" * 64
)  # with restart markers


class ImageError(XaiError):
    """A photograph or a set of them that cannot be had: the file, what was expected, what was found."""


def read_pixels(path: Path, sha256: str = "") -> np.ndarray:
    """The picture in a file as `(H, W, 3)` uint8: sRGB, upright by its EXIF orientation, first frame or page.

    Transparent parts lie on white (our choice). 16-bit grey is scaled by 1/257; of 16-bit colour the high
    byte is taken, as Pillow does (within one level of the scaled value). An embedded colour profile other
    than sRGB is converted; a broken one is left out, as browsers do. Floating-point, signed and 32-bit
    pictures are refused, because their scale is not known. `sha256`: the checksum that the file must have,
    when given.

    Raises `ImageError`, which names the file, wherever the right pixels cannot be had. Wrong bits inside a
    format without checksums (JPEG, WebP, BMP, plain TIFF) are beyond any reader.
    """
    try:
        if not path.is_file():
            raise ImageError(f"expected a picture file, found {_kind(path)}")
        with path.open("rb") as file:
            _verify(file, sha256)
            return _decode(file)
    except ImageError as error:
        raise ImageError(f"{printable(path)}: {error}") from None
    except Exception as error:  # damaged files: Pillow raises a dozen kinds, even SyntaxError
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{printable(path)}: cannot be read or decoded: {reason}") from error


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed, also when its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _kind(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"a link to {os.readlink(path)}, which does not exist"
    if path.is_dir():
        next(path.iterdir(), None)  # one that may not be opened is an error of its own
        return "a folder"
    return "a device or pipe" if path.exists() else "nothing of that name"


def _verify(file: io.BufferedReader, sha256: str) -> None:
    if sha256 and (found := hashlib.file_digest(file, "sha256").hexdigest()) != sha256:
        raise ImageError(f"wrong checksum: expected sha256 {sha256}, found {found}; get the file again")
    file.seek(0)


def _decode(file: io.BufferedReader) -> np.ndarray:
    image = _opened(file)
    _refuse_unknown_scale(image)
    scan = file.tell()  # in a JPEG, where the compressed data begin
    profile = image.info.get("icc_profile")
    _load_all(image)
    if isinstance(image, PngImageFile):
        _png_is_whole(file)
    elif isinstance(image, JpegImageFile):
        _jpeg_is_whole(file, scan, image)
    upright = ImageOps.exif_transpose(image)
    eight_bits = _from_16_bits(image, upright) if image.mode.startswith("I") else upright
    return np.array(_in_srgb(_on_white(eight_bits), profile))


def _opened(file: io.BufferedReader) -> Image.Image:
    """The picture, identified but not decoded; one with more pixels than Pillow's limit is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            found = str(error).partition(", could")[0]
            raise ImageError(f"{found}; scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS") from None
        except UnidentifiedImageError:
            file.seek(0)
            start, size = file.read(8), file.seek(0, os.SEEK_END)
            found = f"{size} bytes that begin with {start!r}" if size else "an empty file"
            raise ImageError(
                f"expected a picture (JPEG, PNG, WebP, TIFF ... of 8 or 16 bits a channel), found {found}"
            ) from None


def _refuse_unknown_scale(image: Image.Image) -> None:
    """Kinds that Pillow reads, but whose values it or we would have to guess."""
    found = ""
    if image.mode == "F":
        found = "floating-point values"
    elif image.mode == "I" and image.format != "PPM":
        found = "signed or 32-bit values"
    elif isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(BITS, (1,))
        if 2 in image.tag_v2.get(SAMPLE_FORMAT, ()):
            found = "signed values"
        elif max(bits) > 8 and (image.tag_v2.get(PLANAR) == 2 or set(bits) != {16}):
            found = f"planes or channels of {bits} bits"
    elif isinstance(image, JpegImageFile) and image.mode == "CMYK" and "adobe" not in image.info:
        found = "CMYK without the Adobe marker that tells whether it is inverted"
    elif isinstance(image, PngImageFile) and ";16" in str(image.tile) and "transparency" in image.info:
        found = "16-bit colours of which one is transparent" if image.mode == "RGB" else ""
    if found:
        raise ImageError(f"expected 8 or 16 bits a channel, found {found}; save it as 8-bit RGB")


def _load_all(image: Image.Image) -> None:
    """Decode, with missing data an error also where some other library has told Pillow to overlook them."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _png_is_whole(file: io.BufferedReader) -> None:
    """Every chunk against its checksum: Pillow alone may leave missing lines black."""
    file.seek(0)
    try:
        Image.open(file).verify()
    except SyntaxError as error:
        raise ImageError(f"damaged: part of the picture is missing or changed ({error})") from None


def _jpeg_is_whole(file: io.BufferedReader, scan: int, image: Image.Image) -> None:
    """Whether the compressed data reach the end of the picture.

    Where they stop early at an end marker, libjpeg paints the rest grey in silence. So bits are put in before
    that marker: they are ignored when the picture was complete, and change it when they were wanted (our own
    test).
    """
    file.seek(0)
    data = file.read()
    end = data.find(MARKER_END, scan)
    longer = data[:end] + MORE_BITS + MARKER_END
    if end < 0 or JpegImageFile(io.BytesIO(longer)).tobytes() != image.tobytes():
        raise ImageError("truncated or damaged: the data end before the picture does")


def _from_16_bits(image: Image.Image, upright: Image.Image) -> Image.Image:
    """Grey of 0..65535 as 0..255. Pillow's own clips at 255, and overlooks that TIFF may count from white."""
    levels = np.asarray(upright).astype(np.int64)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == 0:
        levels = 65535 - levels
    if (see_through := image.info.get("transparency")) is not None:
        levels[levels == see_through] = 65535
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        top = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", top.size, "white"), top).convert("RGB")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB by the embedded profile; without one, or with a broken one, as Pillow converts."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
                image = image.convert("RGB")
            if "sRGB" not in ImageCms.getProfileDescription(source):
                target = ImageCms.createProfile("sRGB")
                image = ImageCms.profileToProfile(image, source, target, outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")

"""What a picture's file tells without a look at what is shown: size, checksums, borders, traces of camera and program."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xai_lib.images.decoding import read_pixels
from xai_lib.images.duplicates import look

FLAT = 10  #: grey levels by which a border may differ from its own median; JPEG leaves some noise on flat ground
SIZE = ("width", "height", "aspect", "area")
SIDES = ("left", "right", "top", "bottom")
BORDERS = (*SIDES, *(f"{side}_level" for side in SIDES), "border_area")
FILE = ("format", "mode", "orientation", "camera", "software")
_ORIENTATION, _MAKE, _MODEL, _SOFTWARE = 274, 271, 272, 305  # EXIF tags


def measure(path: Path) -> dict[str, Any]:
    """All of one file; raises `ImageError`, which names it, where its pixels cannot be had.

    `width`, `height`: pixels, upright. `pixels`: checksum of the decoded picture. `phash`: perceptual hash of the grey
    picture, 64 bits, hexadecimal. `look`: a `duplicates.Look`, on which near duplicates are confirmed. `borders` and `traces`
    add the rest.
    """
    import imagehash

    pixels = read_pixels(path)
    picture = Image.fromarray(pixels)
    height, width = pixels.shape[:2]
    return {
        "width": width, "height": height, "pixels": checksum(pixels), "phash": str(imagehash.phash(picture)),
        "look": look(pixels), **borders(np.asarray(picture.convert("L"))), **traces(path),
    }  # fmt: skip


def checksum(pixels: np.ndarray) -> str:
    """16 hexadecimal digits of the SHA-256 of "WIDTHxHEIGHT:" and the bytes `(H, W, 3)`, as in data/registry."""
    height, width = pixels.shape[:2]
    return hashlib.sha256(f"{width}x{height}:".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


def borders(grey: np.ndarray) -> dict[str, float]:
    """The flat border on each side of a grey picture `(H, W)` uint8.

    `left`, `right`, `top`, `bottom`: rows or columns, counted from the edge, in which no level differs from the median of the
    outermost one by more than `FLAT`. `left_level` ...: that median, 0..255, or -1 without a border. `border_area`: the
    share of the picture inside of borders, 0..1.
    """
    found: dict[str, float] = {}
    for side, lines in zip(SIDES, (grey.T, grey.T[::-1], grey, grey[::-1]), strict=True):
        level = float(np.median(lines[0]))
        flat = (np.abs(lines.astype(np.float32) - level) <= FLAT).all(1)
        found[side] = len(flat) if flat.all() else int(flat.argmin())
        found[f"{side}_level"] = level if found[side] else -1.0
    across, down = (max(0, n - found[a] - found[b]) / n for n, a, b in ((grey.shape[1], *SIDES[:2]), (grey.shape[0], *SIDES[2:])))
    return found | {"border_area": 1 - across * down}


def traces(path: Path) -> dict[str, str]:
    """What the file says of itself, "none" where it says nothing: `format`, `mode` (Pillow's: L grey, RGB ...), and of EXIF
    `orientation`, `camera` (maker and model) and `software`, which may also be a PNG's text or a JPEG's comment."""
    try:
        with Image.open(path) as image:
            exif, info = image.getexif(), image.info
            said = exif.get(_SOFTWARE) or info.get("Software") or info.get("comment")
            camera = " ".join(text for tag in (_MAKE, _MODEL) if (text := _text(exif.get(tag))) != "none")
            return {
                "format": image.format or "none", "mode": image.mode, "orientation": _text(exif.get(_ORIENTATION)),
                "camera": camera or "none", "software": _text(said),
            }  # fmt: skip
    except Exception:  # broken EXIF in a picture that can be read: a trace of its own
        return dict.fromkeys(FILE, "unreadable")


def _text(said: Any) -> str:
    text = said.decode("latin-1") if isinstance(said, bytes) else str(said if said is not None else "")
    return " ".join(text.replace("\0", " ").split())[:60] or "none"

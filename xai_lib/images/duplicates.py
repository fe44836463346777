"""Near duplicates: a perceptual hash proposes a pair of images, and the two images themselves confirm or reject it.

A hash of 64 bits has no room for images without structure: all flat images share one, and so do many digits, dots and logos.
Therefore a small copy of each image (`Look`) is kept, and a proposed pair is compared on it. The thresholds are our choice; they
were set on 1797 digits (0 of 93 proposed pairs confirmed), dots, shades, gradients, logos and lines of text on the one hand, and
on JPEG at quality 30 to 95, scaling by 0.5 to 2, grey, contrast, blur and stretched copies on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from xai_lib.images.decoding import ImageError

NEAR = 4  #: bits of 64 in which two perceptual hashes may differ; at 6 chains of unlike scans begin to form
TURNS = (
    "", "mirrored on the diagonal", "mirrored top to bottom", "rotated 90° counterclockwise", "mirrored", "rotated 90° clockwise",
    "rotated 180°", "mirrored on the other diagonal",
)  # fmt: skip  #: what `turned` does, by its number
BACK = np.array([0, 1, 2, 5, 4, 3, 6, 7])  #: the turn that undoes each
NOT_SEARCHED = "crops, added borders, negatives and copies turned by other angles are not looked for"

GREY, SMALL, COLOUR = 128, 32, 16  # sides of the small copies
PLAIN = 3.0  # grey levels: standard deviation beyond a quadratic surface, below which nothing is to be recognised
DRAWN = 0.7  # proportion of pixels on two levels (of 32) above which an image counts as a drawing or text
ALIKE = 0.985  # correlation of the small grey copies
LEVELS = 16  # by which means over 4×4 of 32×32 pixels may differ
LOCAL = 0.3  # of a drawing: unexplained proportion of the local contrast
GAIN = 2.5  # by which the contrast of a copy may have been changed


class Look(NamedTuple):
    """What is kept of one image to compare it with others: 2 KB, of a drawing 18 KB.

    `grey` `(128, 128)` of drawings, else `(0, 0)`; `small` `(32, 32)`; `colour` `(16, 16, 3)`: uint8, whatever the image's
    shape. `hashes` `(8,)` uint64:
    perceptual hashes of the eight orientations, by the numbers of `TURNS`. `structure`: standard deviation of `small` around
    the best quadratic surface, grey levels. `drawn`: proportion of pixels on the two commonest of 32 levels.
    """

    grey: np.ndarray
    small: np.ndarray
    colour: np.ndarray
    hashes: np.ndarray
    structure: float
    drawn: float


def look(pixels: np.ndarray) -> Look:
    """The look of an image `(H, W, 3)` uint8."""
    image = Image.fromarray(pixels)
    plain = image.convert("L")
    grey, small = (np.asarray(plain.resize((side, side), Image.Resampling.BILINEAR)) for side in (GREY, SMALL))
    colour = np.asarray(image.resize((COLOUR, COLOUR), Image.Resampling.BOX))
    levels = np.sort(np.bincount(grey.ravel() // 8, minlength=2))
    drawn = float(levels[-2:].sum()) / grey.size
    return Look(grey if drawn > DRAWN else grey[:0, :0].copy(), small, colour, _hashes(plain), _structure(small), drawn)


def turned(values: np.ndarray, turn: int) -> np.ndarray:
    """An image `(S, S, ...)` in the orientation of that number in `TURNS`: transposed, then mirrored."""
    values = values.swapaxes(0, 1) if turn & 1 else values
    return values[:: -1 if turn & 2 else 1, :: -1 if turn & 4 else 1]


def _hashes(grey: Image.Image) -> np.ndarray:
    """`imagehash.phash` in eight orientations: a mirrored image has every other coefficient negated, a transposed one swapped."""
    from scipy.fft import dct

    low = dct(dct(np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS), float), axis=0), axis=1)[:8, :8]
    odd = (-1.0) ** np.arange(8)
    ways = []
    for turn in range(8):
        values = low.T if turn & 1 else low
        values = values * (odd[:, None] if turn & 2 else 1) * (odd if turn & 4 else 1)
        ways.append(values.ravel())
    middle = np.sort(ways, axis=1)[:, 31:33].mean(1, keepdims=True)  # the median
    found: np.ndarray = np.packbits(np.array(ways) > middle, axis=1).view(">u8")[:, 0].astype(np.uint64)
    return found


def _structure(small: np.ndarray) -> float:
    """Flat images and even gradients, also round ones, have none."""
    surface, values = _surfaces(), small.astype(float).ravel()
    return float((values - surface @ (surface.T @ values)).std())


@cache
def _surfaces() -> np.ndarray:
    """Orthonormal quadratic surfaces `(32 * 32, 6)`."""
    axis = np.linspace(-1, 1, SMALL)
    x, y = np.meshgrid(axis, axis)
    found: np.ndarray = np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], -1).reshape(-1, 6))[0]
    return found


def same(a: Look, b: Look, turn: int = 0) -> bool:
    """Whether `b` shows the same as `a` in the orientation `turn`, up to size, shape, compression, mild blur, grey and contrast.

    Images without structure are never near duplicates. Of drawings and text (most pixels on two levels) nothing but size,
    compression and mild blur may differ, and only upright copies count: two dots may well lie mirrored to one another. Lines of
    text that differ in one letter of a hundredth of the image may still count as near copies.
    """
    drawn = [each.drawn > DRAWN for each in (a, b)]
    if min(a.structure, b.structure) < PLAIN or (turn and any(drawn)):
        return False
    x, y = turned(a.small, turn).astype(np.float32), b.small.astype(np.float32)
    if np.corrcoef(x.ravel(), y.ravel())[0, 1] < ALIKE:
        return False
    agree, both = _colours(a, b, turn)
    if agree < (0.8 if any(drawn) else 0.5):
        return False
    free = not any(drawn) and both and 1 / GAIN < y.std() / x.std() < GAIN
    fits = (y - y.mean()) / y.std() * x.std() + x.mean() if free else y
    if min(_apart(x, y), _apart(x, fits)) > LEVELS:
        return False
    return not all(drawn) or _details_agree(a.grey, b.grey)


def _colours(a: Look, b: Look, turn: int) -> tuple[float, bool]:
    """Cosine of the two images' colours, 1 where one is grey; and whether both are coloured or both are grey."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    first, second = (values.astype(np.float32) for values in (turned(a.colour, turn), b.colour))
    first, second = ((values - (values @ weights)[..., None])[..., [0, 2]] for values in (first, second))
    sizes = [float(np.abs(values).mean()) for values in (first, second)]
    if min(sizes) <= 4:
        return 1.0, max(sizes) <= 4
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())), True


def _apart(x: np.ndarray, y: np.ndarray) -> float:
    """Largest difference of means over 4×4 pixels: compression and blur leave them nearly as they are."""
    from scipy.ndimage import uniform_filter

    return float(np.abs(uniform_filter(x - y, 4, mode="nearest")).max())


def _details_agree(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the difference is spread as that of a copy is, and not gathered in one place, as another letter's is."""
    from scipy.ndimage import uniform_filter

    def variance(values: np.ndarray) -> np.ndarray:
        mean, square = (uniform_filter(v, GREY // 12, mode="nearest") for v in (values, values * values))
        found: np.ndarray = square - mean * mean
        return found

    x, y = a.astype(np.float32), b.astype(np.float32)
    contrast = np.maximum(variance(x), variance(y))
    there = contrast > 30**2
    left = variance(x - y)[there] / contrast[there]
    return not there.any() or float(left.max()) <= LOCAL + 4 * float(np.median(left))


class Candidates:
    """The pairs of N images that their hashes propose, each confirmed once at most.

    `phashes`: 64 bits as hexadecimal text, of the upright images. `looks`: None where no image is at hand; then a pair is what
    the hashes say, upright alone, except that hashes of less than 16 bits set, which images without structure have, are near
    to nothing. `turns`: whether to search the eight orientations. Raises `ImageError` for what is no hash.
    """

    def __init__(
        self, phashes: Sequence[str], looks: Sequence[Look] | None = None, distance: int = NEAR, turns: bool = True
    ) -> None:
        self.bits, self.looks, self.distance = as_bits(phashes), looks, distance
        hashes = self.bits[:, None]
        if looks is not None and turns and len(looks):
            hashes = np.array([each.hashes for each in looks])
            hashes[:, 0] = self.bits
        self.hashes = hashes
        if looks is None:
            self.telling = telling(self.bits)
        else:
            self.telling = np.array([each.structure >= PLAIN for each in looks], bool)
        self._known: dict[tuple[int, int, int], bool] = {}

    def of(self, i: int, start: int = 0) -> list[tuple[int, int, int]]:
        """Proposed partners of row `i` from row `start` on: `(bits, turn, j)`, the nearest first; `turn` takes `i` to `j`."""
        if not self.telling[i] or self.distance < 0:
            return []
        turns = self.hashes.shape[1]
        there = np.bitwise_count(self.hashes[i][:, None] ^ self.bits[None, start:])
        back = np.bitwise_count(self.hashes[start:, BACK[:turns]].T ^ self.bits[i]) if turns > 1 else there
        apart = np.minimum(there, back)  # the same from both sides
        turn, j = np.nonzero((apart <= self.distance) & self.telling[None, start:])
        found = [(int(apart[t, at]), int(t), start + int(at)) for t, at in zip(turn, j, strict=True)]
        return sorted(pair for pair in found if pair[2] != i)

    def confirmed(self, i: int, j: int, turn: int) -> bool:
        """Whether the images themselves agree; True where there are none to look at."""
        if self.looks is None:
            return True
        key = (i, j, turn) if i < j else (j, i, int(BACK[turn]))
        if key not in self._known:
            self._known[key] = same(self.looks[key[0]], self.looks[key[1]], key[2])
        return self._known[key]


def as_bits(phashes: Sequence[str]) -> np.ndarray:
    """Hexadecimal hashes of 64 bits as `(N,)` uint64; raises `ImageError` for what is none."""
    try:
        return np.array([int(h, 16) for h in phashes], dtype=np.uint64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError(f"expected perceptual hashes of 64 bits as hexadecimal text: {error}") from None


def telling(bits: np.ndarray) -> np.ndarray:
    """Which hashes `(N,)` come from an image with any structure: of such a one half of the bits are set, of a flat one none."""
    found: np.ndarray = np.bitwise_count(bits) >= 16
    return found

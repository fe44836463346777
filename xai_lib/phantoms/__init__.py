"""Drawn brain slices with drawn tumours, whose true place is known: SYNTHETIC, schematic, NOT CLINICAL data.

What a network or a map gets right on them says nothing of patients. They stand in where the truth must be known: the public
scans have no radiologist's marks. Four classes, as in those scans; three planes in turn, the same for every class.

```python
one = phantoms.phantom("glioma", index=3, seed=0)         # its numbers: head, lesion, window, noise
drawing = one.draw(224)                                   # pixels (224, 224, 3) uint8, mask (224, 224) bool
one.with_lesion(radius=0.25).draw(224)                    # the same head, noise and window, a larger lesion
images.load("mri-phantoms", per_class=50)                 # as a sequence of pictures
```
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xai_lib.errors import XaiError, nearest, whole
from xai_lib.phantoms.anatomy import PLANES, Anatomy, canvas, draw_head, random_anatomy
from xai_lib.phantoms.lesions import Lesion, draw_lesion, random_lesion
from xai_lib.phantoms.shapes import Array, pixels_of

__all__ = ["CLASSES", "CREDIT", "Anatomy", "Drawing", "Lesion", "Phantom", "PhantomError", "check", "phantom"]

CLASSES = ("glioma", "meningioma", "no_tumour", "pituitary")
"""In the order of the folders of the public scans (Bhuvaji et al. 2020): a label is a place in this list."""
CREDIT = "synthetic, drawn by xai_lib.phantoms; schematic, not clinical data"
SMALLEST = 32
DRAFT = 72  #: side of the drafts from which the window is found, pixels


class PhantomError(XaiError):
    """A class, size, seed or index that cannot be drawn, or a lesion that leaves the head."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn slice.

    `pixels`: `(H, W, 3)` uint8, three equal channels. `mask`: `(H, W)` bool, the tumour with its dark core, all False without
    one. `oedema`: `(H, W)` bool, the halo around a glioma, no part of `mask`.
    """

    pixels: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    oedema: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Phantom:
    """All that makes one drawn slice; drawing it twice gives the same bytes (with the same versions on one machine).

    `gain`, `gamma`: the window, intensity x to gain·x^gamma. `noise`: standard deviation of each of the two channels of the
    Rician noise, 0..1. `bias`: strength of the coil's uneven field, about the standard deviation of its logarithm. `grain`:
    seed of noise and field.
    """

    anatomy: Anatomy
    lesion: Lesion | None = None
    gain: float = 1.0
    gamma: float = 1.0
    noise: float = 0.02
    bias: float = 0.1
    grain: int = 0

    @property
    def kind(self) -> str:
        """Its class, one of `CLASSES`."""
        return self.lesion.kind if self.lesion else "no_tumour"

    def with_lesion(self, **changes: Any) -> Phantom:
        """The same slice with a lesion that differs in the fields named, such as `centre`, `radius` or `intensity`.

        Pixels that neither lesion touches stay as they are. Raises `PhantomError` without a lesion and for unknown fields.
        """
        known = [f.name for f in dataclasses.fields(Lesion)]
        if self.lesion is None:
            raise PhantomError("this phantom has no lesion to change; begin with one of another class than no_tumour")
        for name in changes:
            if name not in known:
                raise PhantomError(f"a lesion has no field {name!r}; {nearest(name, known)}")
        return dataclasses.replace(self, lesion=dataclasses.replace(self.lesion, **changes))

    def without_lesion(self) -> Phantom:
        """The same slice of a healthy head."""
        return dataclasses.replace(self, lesion=None)

    def draw(self, size: int = 224) -> Drawing:
        """The slice as a square of `size` pixels. Raises `PhantomError` for less than 32, and if no pixel shows the lesion."""
        whole("size", size, SMALLEST, PhantomError)
        signal, mask, oedema = self._signal(size)
        if self.lesion and not mask.any():
            raise PhantomError(
                f"no pixel of {size}x{size} shows the lesion at {self.lesion.centre} of radius {self.lesion.radius}; "
                "move it into the head or enlarge it"
            )
        rng = np.random.default_rng([self.grain, 3])
        coil = np.exp(np.float32(self.bias) * pixels_of(size).field(rng, 1, 2))
        signal = np.float32(self.gain) * signal ** np.float32(self.gamma) * coil
        one, two = np.float32(self.noise) * rng.standard_normal((2, size, size), dtype=np.float32)
        grey = np.clip(np.hypot(signal + one, two) * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
        return Drawing(np.repeat(grey[..., None], 3, axis=2), mask, oedema)

    def _signal(self, size: int) -> tuple[Array, np.ndarray, np.ndarray]:
        """Intensities before window, coil and noise, and the masks of tumour and oedema."""
        where = canvas(self.anatomy, size)
        picture = draw_head(self.anatomy, where)
        nothing = np.zeros((size, size), bool)
        masks = draw_lesion(self.anatomy, self.lesion, where, picture) if self.lesion else (nothing, nothing)
        return np.clip(picture, 0, 1), *masks


def phantom(kind: str, index: int = 0, seed: int = 0) -> Phantom:
    """The numbers of one slice: they depend on class, `index` and `seed` alone.

    `kind`: one of `CLASSES`. `index`, `seed`: whole numbers from 0. Planes take turns with the index: axial, coronal, sagittal.
    Head, window and noise are drawn alike for every class. The window of a slice with a lesion is then set so that mean and
    standard deviation are those of the same slice without it: otherwise a bright lesion shows in the histogram alone, which a
    network could use in place of the lesion. Raises `PhantomError`.
    """
    if kind not in CLASSES:
        raise PhantomError(f"no class of phantoms is called {kind!r}; {nearest(str(kind), CLASSES)}")
    whole("index", index, 0, PhantomError)
    whole("seed", seed, 0, PhantomError)
    head, tumour, scanner = (np.random.default_rng([seed, CLASSES.index(kind), index, part]) for part in range(3))
    anatomy = random_anatomy(head, PLANES[index % len(PLANES)])
    healthy = Phantom(
        anatomy,
        gain=scanner.uniform(0.75, 1.0),
        gamma=scanner.uniform(0.85, 1.2),
        noise=scanner.uniform(0.008, 0.03),
        bias=scanner.uniform(0.04, 0.12),
        grain=int(scanner.integers(2**31)),
    )
    if kind == "no_tumour":
        return healthy
    ill = dataclasses.replace(healthy, lesion=random_lesion(tumour, kind, anatomy))  # type: ignore[arg-type]
    gain, gamma = _window(healthy, ill)
    return dataclasses.replace(ill, gain=gain, gamma=gamma)


def _window(healthy: Phantom, ill: Phantom) -> tuple[float, float]:
    """Gain and gamma that give `ill` the mean and standard deviation of `healthy`, both before coil and noise."""
    from scipy.optimize import brentq

    drafts = [np.sort(p._signal(DRAFT)[0], axis=None).astype(np.float64) for p in (healthy, ill)]
    wanted = healthy.gain * drafts[0] ** healthy.gamma

    def excess(gamma: float) -> float:
        bent = drafts[1] ** gamma
        return float(bent.std() / bent.mean() - wanted.std() / wanted.mean())

    gamma = float(brentq(excess, healthy.gamma / 3, healthy.gamma * 3, xtol=1e-4))
    return float(wanted.mean() / (drafts[1] ** gamma).mean()), gamma


def check(size: int, seed: int) -> None:
    """Raise `PhantomError` for a size (pixels) or a seed that no phantom can have, before any is drawn."""
    whole("size", size, SMALLEST, PhantomError)
    whole("seed", seed, 0, PhantomError)

"""Tumours of three kinds, as a radiology textbook tells them apart on a T1-weighted slice after contrast.

Glioma: inside the brain, irregular, a bright rim around a dark core, oedema around it. Meningioma: on the inner face of the
skull, round, homogeneous, bright. Pituitary adenoma: small, in the middle, at the base. Sizes and shares are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from xai_lib.phantoms.anatomy import Anatomy, in_picture, inside_skull
from xai_lib.phantoms.shapes import Array, Canvas, paint, ramp

Kind = Literal["glioma", "meningioma", "pituitary"]
KINDS: tuple[Kind, ...] = ("glioma", "meningioma", "pituitary")

SELLA = {"axial": (0.0, -0.05), "coronal": (0.0, 0.20), "sagittal": (-0.17, 0.14)}
"""Where a pituitary tumour lies: of the axial slice, what grows out of the sella into the cistern above it."""
MIDDLE = {"axial": (0.0, 0.0), "coronal": (0.0, -0.12), "sagittal": (0.06, -0.16)}
"""From where a meningioma is looked for along a ray; all of `inside_skull` can be seen from there."""


@dataclass(frozen=True)
class Lesion:
    """A tumour in a head; any number may be replaced to change one factor alone.

    `centre`: (u, v) in the head, in half sides of the picture before the head's `scale`. `radius`: mean, in the same unit.
    `irregularity`: how far the outline wanders from a circle, as a share of the radius, 0 round. `intensity`: of what
    enhances, 0..1. `heterogeneity`: deviation of that intensity inside, as a share of it. `necrosis`: radius of the dark core
    as a share of the outline's, 0 none. `oedema`: width of the dark halo as a share of the radius, 0 none. `outline`: the seed
    of shape and texture.
    """

    kind: Kind
    centre: tuple[float, float]
    radius: float
    irregularity: float
    intensity: float
    heterogeneity: float
    necrosis: float
    oedema: float
    outline: int = 0


def random_lesion(rng: np.random.Generator, kind: Kind, anatomy: Anatomy) -> Lesion:
    """A lesion drawn at random where its kind grows in this head."""
    outline = int(rng.integers(2**31))
    if kind == "glioma":
        radius = rng.uniform(0.11, 0.19)
        centre = _deep(rng, anatomy, radius)
        return Lesion(
            kind, centre, radius, rng.uniform(0.14, 0.26), rng.uniform(0.7, 0.9), rng.uniform(0.1, 0.2),
            rng.uniform(0.45, 0.7), rng.uniform(0.5, 0.9), outline,
        )  # fmt: skip
    if kind == "meningioma":
        radius = rng.uniform(0.10, 0.17)
        centre = _on_the_skull(rng, anatomy, radius)
        return Lesion(kind, centre, radius, rng.uniform(0, 0.04), rng.uniform(0.7, 0.9), 0.02, 0, 0, outline)
    radius = rng.uniform(0.075, 0.115)
    u, v = SELLA[anatomy.plane]
    centre = (u + rng.normal(0, 0.008), v + rng.normal(0, 0.01))
    return Lesion(kind, centre, radius, rng.uniform(0, 0.07), rng.uniform(0.7, 0.9), 0.04, 0, 0, outline)


def _deep(rng: np.random.Generator, anatomy: Anatomy, radius: float) -> tuple[float, float]:
    """A place in the brain, its outline clear of skull, midline (where the plane shows both sides) and sella."""
    u, v = rng.uniform(-0.8, 0.8, (2, 2000)).astype(np.float32)
    far = np.hypot(u - SELLA[anatomy.plane][0], v - SELLA[anatomy.plane][1]) > radius + 0.16
    sides = anatomy.plane == "sagittal" or np.abs(u) > 0.6 * radius
    right = (inside_skull(anatomy, u, v) < -(radius + 0.06)) & far & sides
    return _first(u, v, right)


def _on_the_skull(rng: np.random.Generator, anatomy: Anatomy, radius: float) -> tuple[float, float]:
    """A place under the vault of the skull; about a third of the radius is lost in the bone."""
    middle, low = MIDDLE[anatomy.plane], np.pi if anatomy.plane == "axial" else 0.55 * np.pi
    angle = rng.uniform(-low, low)  # from the vertex
    along = np.linspace(0.1, 1, 400, dtype=np.float32)
    u, v = (np.float32(m) + along * np.float32(d) for m, d in zip(middle, (np.sin(angle), -np.cos(angle)), strict=True))
    return _first(u, v, inside_skull(anatomy, u, v) > -0.62 * radius)


def _first(u: Array, v: Array, right: np.ndarray) -> tuple[float, float]:
    place = int(np.argmax(right))
    return float(u[place]), float(v[place])


def draw_lesion(anatomy: Anatomy, lesion: Lesion, canvas: Canvas, picture: Array) -> tuple[np.ndarray, np.ndarray]:
    """Paint the lesion over a head, in place; the masks of the tumour and of the oedema around it, bool `(H, W)`."""
    rng = np.random.default_rng([lesion.outline, 2])
    du, dv = canvas.u - np.float32(lesion.centre[0]), canvas.v - np.float32(lesion.centre[1])
    share = np.hypot(du, dv) / (np.float32(lesion.radius) * _outline(rng, lesion, np.arctan2(dv, du)))
    own = _around(anatomy, lesion, canvas)
    texture, fingers = own.field(rng, 4, 12), own.field(rng, 2, 5)
    inner = inside_skull(anatomy, canvas.u, canvas.v)
    distance = (share - 1) * np.float32(lesion.radius)
    if lesion.kind != "pituitary":  # which grows out of the sella, a hollow of the bone
        distance = np.maximum(distance, inner)
    halo = np.maximum(
        distance - np.float32(lesion.radius * lesion.oedema) * (1 + np.float32(0.45) * fingers), inner + np.float32(0.03)
    )
    if lesion.oedema:
        tissue = ramp(picture, anatomy.fluid + 0.1, 0.1)  # water soaks tissue and leaves ventricles as they are
        paint(picture, 0.85 * tissue * ramp(-halo, 0.0, 0.03), 0.6 * anatomy.grey + 0.4 * anatomy.fluid)
    enhancing = lesion.intensity * (1 + np.float32(lesion.heterogeneity) * texture)
    core = 1 - ramp(share + np.float32(0.07) * fingers * (lesion.necrosis > 0), lesion.necrosis, 0.12)
    if lesion.necrosis:
        enhancing += core * (np.float32(0.22) - enhancing)
    paint(picture, canvas.cover(distance), enhancing)
    if lesion.kind == "meningioma":
        _tail(lesion, canvas, picture, inner, share)
    mask = distance < 0
    return mask, (halo < 0) & ~mask if lesion.oedema else np.zeros_like(mask)


def _around(anatomy: Anatomy, lesion: Lesion, canvas: Canvas) -> Canvas:
    """The pixels in radii from the lesion's centre: its texture moves and grows with it."""
    x, y = in_picture(anatomy, lesion.centre)
    radius = np.float32(lesion.radius)
    return replace(canvas, x=(canvas.x - np.float32(x)) / radius, y=(canvas.y - np.float32(y)) / radius)


def _outline(rng: np.random.Generator, lesion: Lesion, angle: Array) -> Array:
    """Radius over mean radius in each direction: 1 plus harmonics 2 to 9, so that the lesion is of one piece."""
    waves = np.arange(2, 10)
    weights = rng.standard_normal(8) / waves**1.2
    phases = rng.uniform(0, 2 * np.pi, 8)
    weights *= lesion.irregularity * np.sqrt(2) / np.sqrt(np.square(weights).sum())
    outline = np.ones_like(angle)
    for wave, weight, phase in zip(waves, weights, phases, strict=True):
        outline += np.float32(weight) * np.cos(np.float32(wave) * angle + np.float32(phase))
    return np.maximum(outline, np.float32(0.4))


def _tail(lesion: Lesion, canvas: Canvas, picture: Array, inner: Array, share: Array) -> None:
    """The dura beside a meningioma, thickened and bright; no part of the mask."""
    dura = np.abs(inner + np.float32(0.008)) - np.float32(0.010)
    paint(picture, canvas.cover(dura) * (1 - ramp(share, 1.55, 0.5)) * (share > 1), lesion.intensity * 0.9)

"""A head without a lesion, as ellipses, lines and folds: what a T1-weighted slice after contrast looks like, in outline.

The idea of a head made of ellipses is that of Shepp and Logan 1974, IEEE Trans. Nucl. Sci. 21; all numbers are our choice.
Lengths are in half sides of the picture before `scale`, `u` to the right of it and `v` down. Intensities are 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xai_lib.phantoms.shapes import Array, Canvas, capsule, ellipse, paint, pixels_of, ramp

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")

CRANIUM = {
    "axial": ((0.0, 0.0), (0.67, 0.83)),
    "coronal": ((0.0, -0.14), (0.68, 0.68)),
    "sagittal": ((0.06, -0.18), (0.80, 0.66)),
}
"""Centre and semi-axes of the outer skin around the brain."""
GAP = 0.018  #: thickness of the fluid between bone and brain


@dataclass(frozen=True)
class Anatomy:
    """One slice of one head; every number is drawn from a seed by `anatomy`, and may be replaced.

    `scale`: of the head. `stretch`: its width over its height, relative to the mean head. `tilt`: radians. `shift`: of the
    head in the picture, half sides. `warp`: how far the outlines wander, half sides. `scalp`, `bone`: thickness. `ventricles`,
    `sulci`: relative widths. `fat`, `marrow`, `muscle`, `fluid`, `grey`, `white`: intensities. `folds`: the seed of
    folds and texture.
    """

    plane: Plane
    scale: float = 1.0
    stretch: float = 1.0
    tilt: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    warp: float = 0.012
    scalp: float = 0.05
    bone: float = 0.05
    ventricles: float = 1.0
    sulci: float = 1.0
    fat: float = 0.8
    marrow: float = 0.3
    muscle: float = 0.35
    fluid: float = 0.12
    grey: float = 0.42
    white: float = 0.56
    folds: int = 0


def random_anatomy(rng: np.random.Generator, plane: Plane) -> Anatomy:
    """A head drawn at random; nothing of it depends on the class."""
    grey = rng.uniform(0.36, 0.46)
    return Anatomy(
        plane,
        scale=rng.uniform(0.94, 1.07),
        stretch=rng.uniform(0.95, 1.06),
        tilt=rng.normal(0, 0.05),
        shift=(rng.normal(0, 0.015), rng.normal(0, 0.015)),
        warp=rng.uniform(0.006, 0.013),
        scalp=rng.uniform(0.03, 0.09),
        bone=rng.uniform(0.04, 0.06),
        ventricles=rng.uniform(0.75, 1.35),
        sulci=rng.uniform(0.6, 1.4),
        fat=rng.uniform(0.65, 1.0),
        marrow=rng.uniform(0.15, 0.4),
        muscle=rng.uniform(0.26, 0.4),
        fluid=rng.uniform(0.08, 0.18),
        grey=grey,
        white=grey + rng.uniform(0.1, 0.18),
        folds=int(rng.integers(2**31)),
    )


def canvas(anatomy: Anatomy, size: int) -> Canvas:
    """The picture's pixels in the head's coordinates: shifted, turned, scaled and slightly warped."""
    flat = pixels_of(size)
    rng = np.random.default_rng([anatomy.folds, 0])
    du, dv = (np.float32(anatomy.warp) * flat.field(rng, 1, 4) for _ in range(2))
    x, y = flat.u - np.float32(anatomy.shift[0]), flat.v - np.float32(anatomy.shift[1])
    cos, sin = np.float32(np.cos(anatomy.tilt)), np.float32(np.sin(anatomy.tilt))
    stretch, scale = np.float32(np.sqrt(anatomy.stretch)), np.float32(anatomy.scale)
    u = (cos * x + sin * y) / (scale * stretch) + du
    v = (cos * y - sin * x) / (scale / stretch) + dv
    return Canvas(flat.x, flat.y, u, v, flat.edge)


def in_picture(anatomy: Anatomy, point: tuple[float, float]) -> tuple[float, float]:
    """Where a point (u, v) of the head lies in the picture, -1..1 across and down, but for the warp."""
    stretch = float(np.sqrt(anatomy.stretch))
    x, y = point[0] * anatomy.scale * stretch, point[1] * anatomy.scale / stretch
    cos, sin = float(np.cos(anatomy.tilt)), float(np.sin(anatomy.tilt))
    return cos * x - sin * y + anatomy.shift[0], sin * x + cos * y + anatomy.shift[1]


def inside_skull(anatomy: Anatomy, u: Array, v: Array) -> Array:
    """Signed distance from the inner face of the skull, its base included."""
    centre, axes = CRANIUM[anatomy.plane]
    wall = anatomy.scalp + anatomy.bone
    distance = ellipse(u, v, centre, (axes[0] - wall, axes[1] - wall))
    if anatomy.plane == "coronal":  # the base: low under the temporal lobes, high under the sella
        lobes = np.exp(-np.square((np.abs(u) - np.float32(0.36)) / np.float32(0.15)))
        distance = np.maximum(distance, v - np.float32(0.19) - np.float32(0.19) * lobes)
    if anatomy.plane == "sagittal":  # two steps down from the front: the sella, the posterior fossa
        base = 0.05 + 0.11 * ramp(u, -0.32, 0.14) + 0.22 * ramp(u, 0.02, 0.22) - 0.16 * ramp(u, 0.55, 0.3)
        distance = np.maximum(distance, 0.9 * (v - base.astype(np.float32)))
    return np.asarray(distance)


def draw_head(anatomy: Anatomy, canvas: Canvas) -> Array:
    """The slice `(H, W)` without lesion, coil and noise: intensities 0..1."""
    a, u, v = anatomy, canvas.u, canvas.v
    rng = np.random.default_rng([a.folds, 1])
    folds, deep, texture = canvas.field(rng, 12, 22), canvas.field(rng, 3, 9), canvas.field(rng, 20, 60)
    picture = np.full(u.shape, 0.01, np.float32)
    _outside(a, canvas, picture, deep)
    inner = inside_skull(a, u, v)
    paint(picture, canvas.cover(inner - np.float32(0.014)), 0.1)  # the inner table of the bone, around every brain
    paint(picture, canvas.cover(inner), a.fluid)
    depth = -inner - np.float32(GAP)
    _brain(a, canvas, picture, depth, folds)
    brain = canvas.cover(-depth)
    {"axial": _axial, "coronal": _coronal, "sagittal": _sagittal}[a.plane](a, canvas, picture, brain, folds)
    picture *= 1 + np.float32(0.03) * texture + np.float32(0.03) * deep
    return picture


def _outside(a: Anatomy, canvas: Canvas, picture: Array, blotches: Array) -> None:
    """Skin, fat and bone; face and neck where the plane cuts them."""
    u, v = canvas.u, canvas.v
    centre, axes = CRANIUM[a.plane]
    skin = ellipse(u, v, centre, axes)
    head = skin
    if a.plane == "coronal":
        head = np.minimum(skin, np.maximum(np.abs(u) - np.float32(0.5) + np.float32(0.12) * v, np.float32(0.1) - v))
    if a.plane == "sagittal":
        face = ellipse(u, v, (-0.40, 0.30), (0.32, 0.52), -0.12)
        nose = ellipse(u, v, (-0.70, 0.28), (0.13, 0.09), 0.6)
        neck = np.maximum(np.abs(u - np.float32(0.16) - np.float32(0.06) * v) - np.float32(0.36), np.float32(0.1) - v)
        head = np.minimum(np.minimum(skin, neck), np.minimum(face, nose))
    paint(picture, canvas.cover(head), a.fat * (1 + np.float32(0.08) * blotches))
    flesh = a.muscle * (1 + np.float32(0.3) * blotches)
    paint(picture, canvas.cover(head + np.float32(a.scalp * 0.75)), flesh)
    skull = np.abs(skin + np.float32(a.scalp + a.bone / 2)) - np.float32(a.bone / 2)
    paint(picture, canvas.cover(skull), 0.1)
    paint(picture, canvas.cover(skull + np.float32(a.bone * 0.32)), a.marrow)
    if a.plane == "coronal":  # air of the sphenoid sinus and of the nose below it, the jaw's bone at both sides
        paint(picture, canvas.cover(ellipse(u, v, (0, 0.40), (0.19, 0.10))), 0.03)
        paint(picture, canvas.cover(ellipse(u, v, (0, 0.70), (0.10, 0.14))), 0.04)
        for side in (-1, 1):
            paint(picture, canvas.cover(ellipse(u, v, (side * 0.34, 0.72), (0.05, 0.20), side * 0.1)), 0.12)
    if a.plane == "sagittal":
        paint(picture, canvas.cover(ellipse(u, v, (-0.24, 0.29), (0.12, 0.075))), 0.03)  # sphenoid sinus
        paint(picture, canvas.cover(ellipse(u, v, (-0.42, 0.40), (0.17, 0.06), 0.1)), 0.05)  # nose
        paint(picture, canvas.cover(ellipse(u, v, (-0.66, 0.02), (0.045, 0.085), 0.3)), 0.03)  # frontal sinus
        paint(picture, canvas.cover(ellipse(u, v, (-0.36, 0.62), (0.20, 0.09), 0.1)), a.muscle * 1.2)  # tongue
        paint(picture, canvas.cover(capsule(u, v, (-0.12, 0.45), (-0.08, 1.2), 0.035)), 0.04)  # pharynx
        paint(picture, canvas.cover(capsule(u, v, (0.04, 0.52), (0.06, 1.2), 0.06)), a.marrow)  # vertebrae
        paint(picture, canvas.cover(capsule(u, v, (-0.10, 0.28), (0.02, 0.44), 0.045)), a.marrow)  # clivus


def _brain(a: Anatomy, canvas: Canvas, picture: Array, depth: Array, folds: Array) -> None:
    """White matter, the cortex around it and around each fold, and the fluid in the folds."""
    brain = canvas.cover(-depth)
    reach = 0.30 if a.plane == "sagittal" else 0.16  # the cut between the hemispheres shows folds all over
    shallow = 1 - ramp(depth, reach, 0.1)
    crest = np.abs(folds)
    grey = np.maximum(1 - ramp(depth, 0.045, 0.03), shallow * (1 - ramp(crest, 0.75, 0.5)))
    fluid = shallow * (1 - ramp(crest, 0.16 * a.sulci, 0.25)) * ramp(folds + np.float32(1.5), 0.5, 0.5)
    paint(picture, brain, a.white)
    paint(picture, brain * grey, a.grey)
    paint(picture, brain * fluid, a.fluid + 0.06)


def _axial(a: Anatomy, canvas: Canvas, picture: Array, brain: Array, folds: Array) -> None:
    """At the cistern above the sella: temporal lobes, midbrain, upper cerebellum."""
    u, v = canvas.u, canvas.v

    def on(distance: Array, value: float | Array) -> None:
        paint(picture, brain * canvas.cover(distance), value)

    for side in (-1, 1):
        on(ellipse(u, v, (side * 0.20, -0.28), (0.07, 0.13), side * 0.5), a.grey)  # basal ganglia
        on(capsule(u, v, (side * 0.60, -0.26), (side * 0.30, -0.16), 0.022 * a.sulci), a.fluid)  # lateral fissure
        on(capsule(u, v, (side * 0.30, -0.16), (side * 0.10, -0.10), 0.014 * a.sulci), a.fluid)
        on(capsule(u, v, (side * 0.28, 0.06), (side * 0.35, 0.22), 0.022 * a.ventricles), a.fluid)  # temporal horn
        on(ellipse(u, v, (side * 0.075, -0.42), (0.035, 0.10), -side * 0.35), a.fluid)  # frontal horn
    on(capsule(u, v, (0, -0.80), (0, -0.20), 0.012 * a.sulci), a.fluid)
    on(capsule(u, v, (0, -0.80), (0, -0.55), 0.006), 0.75)  # falx, bright after contrast
    angle = np.arctan2(u, -(v + np.float32(0.06)))
    star = np.hypot(u, v + np.float32(0.06)) - np.float32(0.125) - np.float32(0.04) * np.cos(5 * angle)
    on(star, a.fluid)
    stem = np.minimum(
        np.minimum(ellipse(u, v, (-0.075, 0.13), (0.085, 0.11), 0.35), ellipse(u, v, (0.075, 0.13), (0.085, 0.11), -0.35)),
        ellipse(u, v, (0, 0.21), (0.12, 0.09)),
    )
    lobes = ellipse(u, v, (0, 0.50), (0.34, 0.20))
    on(stem - np.float32(0.03), a.fluid)
    on(lobes - np.float32(0.016), a.fluid)
    on(stem, a.white)
    on(lobes, _leaves(a, folds, v))
    on(ellipse(u, v, (0, 0.48), (0.05, 0.16)), a.grey)  # vermis
    on(ellipse(u, v, (0, 0.245), (0.022, 0.02 * a.ventricles)), a.fluid)  # aqueduct
    on(capsule(u, v, (0, 0.70), (0, 0.80), 0.02), 0.75)  # sinus behind, bright after contrast


def _coronal(a: Anatomy, canvas: Canvas, picture: Array, brain: Array, folds: Array) -> None:
    """Through the third ventricle and the sella."""
    u, v = canvas.u, canvas.v
    wide = a.ventricles

    def on(distance: Array, value: float) -> None:
        paint(picture, brain * canvas.cover(distance), value)

    for side in (-1, 1):
        on(ellipse(u, v, (side * 0.16, 0.0), (0.10, 0.085), side * 0.2), a.grey)  # thalamus
        on(ellipse(u, v, (side * 0.30, -0.02), (0.05, 0.11), side * 0.15), a.grey)  # putamen
        on(capsule(u, v, (side * 0.62, 0.02), (side * 0.42, 0.03), 0.024 * a.sulci), a.fluid)  # lateral fissure
        on(capsule(u, v, (side * 0.42, -0.07), (side * 0.40, 0.11), 0.018 * a.sulci), a.fluid)
        on(ellipse(u, v, (side * 0.33, 0.20), (0.03 * wide, 0.02)), a.fluid)  # temporal horn
    on(capsule(u, v, (0, -0.80), (0, -0.27), 0.014 * a.sulci), a.fluid)
    on(capsule(u, v, (0, -0.80), (0, -0.38), 0.006), 0.75)  # falx
    on(ellipse(u, v, (0, -0.23), (0.22, 0.035)), a.white + 0.04)  # corpus callosum
    for side in (-1, 1):
        on(ellipse(u, v, (side * 0.11, -0.15), (0.05 * wide, 0.115), side * 0.75), a.fluid)
    on(capsule(u, v, (0, -0.06), (0, 0.07), 0.016 * wide), a.fluid)  # third ventricle
    on(ellipse(u, v, (0, 0.14), (0.16, 0.05)), a.fluid)  # cistern
    for side in (-1, 1):  # cavernous sinus, bright after contrast
        paint(picture, canvas.cover(ellipse(u, v, (side * 0.14, 0.25), (0.035, 0.055))), 0.6)
    paint(picture, canvas.cover(ellipse(u, v, (0, 0.235), (0.10, 0.04))), 0.1)
    paint(picture, canvas.cover(ellipse(u, v, (0, 0.225), (0.075, 0.03))), a.white)  # the gland


def _sagittal(a: Anatomy, canvas: Canvas, picture: Array, brain: Array, folds: Array) -> None:
    """In the middle: corpus callosum, brain stem, cerebellum; the face is on the left."""
    u, v = canvas.u, canvas.v
    wide = a.ventricles

    def on(distance: Array, value: float | Array, inside: Array = brain) -> None:
        paint(picture, inside * canvas.cover(distance), value)

    everywhere = np.ones_like(brain)
    arch = ellipse(u, v, (0.04, -0.10), (0.33, 0.19))
    on(np.maximum(arch - np.float32(0.035), v - np.float32(0.0)), a.fluid)
    on(np.maximum(arch - np.float32(0.02), v + np.float32(0.01)), a.white + 0.04)  # corpus callosum
    on(np.maximum(arch + np.float32(0.03), v + np.float32(0.02)), a.fluid)  # lateral ventricle
    on(ellipse(u, v, (0.04, -0.14 + 0.04 * wide), (0.27, 0.07)), a.white - 0.04)  # fornix and septum
    on(ellipse(u, v, (0.04, 0.02), (0.16, 0.09)), a.grey)  # thalamus
    on(ellipse(u, v, (-0.12, 0.09), (0.03 * wide, 0.05), 0.4), a.fluid)  # third ventricle
    fossa = ellipse(u, v, (0.40, 0.18), (0.27, 0.19), 0.15)
    on(fossa - np.float32(0.02), a.fluid)
    stem = np.minimum(capsule(u, v, (0.08, 0.06), (0.15, 0.5), 0.065), ellipse(u, v, (0.08, 0.22), (0.10, 0.10), 0.2))
    cord = np.minimum(stem, capsule(u, v, (0.15, 0.5), (0.19, 1.2), 0.045))
    on(cord - np.float32(0.03), a.fluid, everywhere)
    on(fossa, _leaves(a, folds, np.arctan2(v - np.float32(0.20), u - np.float32(0.22)) * np.float32(0.25)))
    on(ellipse(u, v, (0.245, 0.22), (0.03 * wide, 0.055), -0.3), a.fluid)  # fourth ventricle
    on(cord, a.white, everywhere)
    on(ellipse(u, v, (-0.17, 0.165), (0.085, 0.045)), 0.1, everywhere)  # sella
    on(ellipse(u, v, (-0.17, 0.16), (0.06, 0.032)), a.white, everywhere)  # the gland
    on(ellipse(u, v, (-0.10, 0.10), (0.10, 0.04), 0.2), a.fluid)  # cistern
    on(capsule(u, v, (0.45, 0.0), (0.76, 0.06), 0.012), 0.7)  # straight sinus, bright after contrast


def _leaves(a: Anatomy, folds: Array, along: Array) -> Array:
    """The thin layers of the cerebellum: stripes across `along`, wavering with the folds."""
    stripes = np.sin(np.float32(110) * along + folds)
    return np.asarray(np.float32((a.grey + a.white) / 2) + np.float32((a.white - a.grey) / 1.6) * stripes)

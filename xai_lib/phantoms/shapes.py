"""What heads and lesions are drawn with: signed distances, soft edges, smooth random fields.

Lengths are in half sides of the picture: it spans -1..1 across and down. A signed distance is negative inside a shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Canvas:
    """Where each pixel lies: `x` `(W,)` and `y` `(H,)` in the picture, `u` and `v` `(H, W)` in the head.

    `edge`: over what length a shape's edge fades, about two pixels.
    """

    x: Array
    y: Array
    u: Array
    v: Array
    edge: float

    def cover(self, distance: Array) -> Array:
        """How much of each pixel a shape covers, 0..1, from its signed distance."""
        return np.clip(0.5 - distance / self.edge, 0, 1)

    def field(self, rng: np.random.Generator, low: float, high: float) -> Array:
        """A smooth random field `(H, W)` of unit variance, between `low` and `high` half waves a side.

        A sum of products of cosines, so that it is the same field at every size of the picture.
        """
        waves = np.arange(int(high) + 1)
        across, down = (rng.uniform(0, 2 * np.pi, len(waves)) for _ in range(2))
        weights = rng.standard_normal((len(waves), len(waves)))
        frequency = np.hypot(waves[:, None], waves[None])
        weights[(frequency < low) | (frequency > high)] = 0
        weights *= 2 / np.sqrt(np.square(weights).sum())
        columns = np.cos(np.pi / 2 * waves[:, None] * self.x + across[:, None]).astype(np.float32)
        rows = np.cos(np.pi / 2 * waves[:, None] * self.y + down[:, None]).astype(np.float32)
        return np.asarray(rows.T @ weights.astype(np.float32) @ columns)


def pixels_of(size: int) -> Canvas:
    """The centres of the pixels of a square picture, with no head in it: `u` and `v` are `x` and `y`."""
    centres = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    return Canvas(centres, centres, centres[None], centres[:, None], 4 / size)


def paint(picture: Array, cover: Array, value: float | Array) -> None:
    """Lay `value` over the picture, in place, where `cover` (0..1) says."""
    picture += cover * (value - picture)


def ellipse(
    u: Array, v: Array, centre: tuple[float, float], axes: tuple[float, float], turn: float = 0.0
) -> Array:
    """Signed distance from an ellipse with the semi-axes `axes`, to first order; `turn` in radians, clockwise as seen."""
    du, dv = u - np.float32(centre[0]), v - np.float32(centre[1])
    if turn:
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        du, dv = cos * du + sin * dv, cos * dv - sin * du
    a, b = (np.float32(axis) for axis in axes)
    p, q = du / a, dv / b
    rho = np.sqrt(p * p + q * q) + np.float32(1e-6)
    slope = np.sqrt(np.square(p / a) + np.square(q / b)) + np.float32(1e-6)
    return np.asarray((rho - 1) * rho / slope)


def capsule(u: Array, v: Array, start: tuple[float, float], end: tuple[float, float], radius: float) -> Array:
    """Signed distance from a line between two points with round ends, `radius` to each side."""
    along = np.subtract(end, start).astype(np.float32)
    du, dv = u - np.float32(start[0]), v - np.float32(start[1])
    share = np.clip((du * along[0] + dv * along[1]) / np.float32(along @ along), 0, 1)
    return np.asarray(np.hypot(du - share * along[0], dv - share * along[1]) - np.float32(radius))


def ramp(values: Array, middle: float, width: float) -> Array:
    """From 0 below to 1 above `middle`, linear over `width`."""
    return np.clip((values - np.float32(middle)) / np.float32(width) + np.float32(0.5), 0, 1)

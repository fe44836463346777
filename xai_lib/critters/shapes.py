"""What critters are drawn with, whole batches at once: signed distances, value noise, soft edges.

Lengths are in half sides of the picture: it spans -1..1 across and down. A signed distance is negative inside a shape. Tensors
are `(n, H, W)` or broadcast to it. Only operations that act on one pixel at a time: so a picture does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

LATTICE = 32  #: side of the random lattice that all noise of a picture is read from
BANK = 200  #: random numbers for the scenery


@dataclass
class Easel:
    """A batch of pictures at work.

    `p`: parameters by name, each `(n, 1, 1)`. `x`, `y`: centres of pixels, `(n, H, W)`. `bank`: `(n, BANK)` random numbers
    0..1. `lattice`: `(n, LATTICE²)`, 0..1. `picture`: `(n, 3, H, W)` 0..1. `parts`: `(n, H, W)` uint8, what is seen where.
    """

    p: dict[str, Tensor]
    x: Tensor
    y: Tensor
    bank: Tensor
    lattice: Tensor
    picture: Tensor = field(init=False)
    parts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.picture = torch.zeros(len(self.x), 3, *self.x.shape[1:])
        self.parts = torch.zeros(self.x.shape, dtype=torch.uint8)
        self.pixel = 2 / self.x.shape[-1]

    def paint(
        self,
        distance: Tensor,
        colour: Tensor,
        part: int | None = None,
        strength: Tensor | float = 1.0,
        soft: Tensor | float = 0.0,
    ) -> None:
        """Lay `colour` (n, 3, ...) where the distance is negative; `part` is then what is seen there.

        `strength`: opacity 0..1. `soft`: over what length the edge fades beyond one pixel, half sides.
        """
        cover = (0.5 - distance / (soft + self.pixel)).clamp(0, 1)
        if part is not None:
            self.parts.masked_fill_(cover > 0.5, part)
        self.picture.lerp_(colour, (cover * strength)[:, None])

    def rows(self, rows: Tensor) -> Easel:
        """Some of the pictures, copied as they are now."""
        p = {name: column[rows] for name, column in self.p.items()}
        some = Easel(p, self.x[rows], self.y[rows], self.bank[rows], self.lattice[rows])
        some.picture, some.parts = self.picture[rows], self.parts[rows]
        return some

    def noise(self, u: Tensor, v: Tensor, frequency: float | Tensor, start: int) -> Tensor:
        """Value noise 0..1, `frequency` cells a unit; the same at every size. `start` (0..) makes independent fields."""
        at = torch.empty(*self.x.shape, 2)
        for k, w in enumerate((u * frequency + start * 7.31, v * frequency + start * 3.77)):
            cell = torch.floor(w)
            part = w - cell
            # grid_sample mirrors what is outside of -1..1; its cells are 2 / (LATTICE - 1) wide
            at[..., k] = (cell + part * part * (3 - 2 * part)) * (2 / (LATTICE - 1))
        values = self.lattice.view(-1, 1, LATTICE, LATTICE)
        return grid_sample(values, at, mode="bilinear", padding_mode="reflection", align_corners=True)[:, 0]

    def random(self, at: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """The number at this place of the bank, `(n, 1, 1)`, from `low` to `high`."""
        return low + (high - low) * self.bank[:, at, None, None]


def easel(parameters: np.ndarray, names: tuple[str, ...], seeds: list[int], size: int) -> Easel:
    """Blank pictures; `parameters` `(n, P)`, `seeds` those of the scenery."""
    n = len(parameters)
    centres = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    x = centres[None, None, :].expand(n, size, size).contiguous()
    y = centres[None, :, None].expand(n, size, size).contiguous()
    drawn = np.stack([np.random.default_rng([seed, 0]).random(BANK + LATTICE**2, dtype=np.float32) for seed in seeds])
    table = torch.from_numpy(np.nan_to_num(parameters).astype(np.float32))
    p = {name: table[:, i, None, None] for i, name in enumerate(names)}
    return Easel(p, x, y, torch.from_numpy(drawn[:, :BANK]), torch.from_numpy(np.ascontiguousarray(drawn[:, BANK:])))


def rgb(hue: Tensor | float, saturation: Tensor | float, value: Tensor) -> Tensor:
    """Colour `(n, 3, 1, 1)` from hue (degrees), saturation and value, each `(n, 1, 1)`."""
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = torch.as_tensor((offset + hue / 60) % 6)
        channels.append(value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1)))
    return torch.stack(torch.broadcast_tensors(*channels), 1)


def mix(one: Tensor | float, two: Tensor | float, share: Tensor | float) -> Tensor:
    """From `one` at share 0 to `two` at share 1."""
    return torch.as_tensor(one + (two - one) * share)


def smooth(low: Tensor | float, high: Tensor | float, x: Tensor) -> Tensor:
    """From 0 below `low` to 1 above `high`, smoothly."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def ellipse(du: Tensor, dv: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Signed distance from an ellipse with semi-axes a, b around the origin, to first order."""
    p, q = du / a, dv / b
    rho = (p * p + q * q).sqrt() + 1e-6
    return (rho - 1) * rho / (((p / a).square() + (q / b).square()).sqrt() + 1e-6)


def cone(du: Tensor, dv: Tensor, along: Tensor | float, down: Tensor | float, r1: Tensor | float, r2: Tensor | float) -> Tensor:
    """Distance from a line from the origin to (along, down) whose half width goes from r1 to r2, with round ends."""
    t = ((du * along + dv * down) / (along * along + down * down)).clamp(0, 1)
    return torch.hypot(du - t * along, dv - t * down) - mix(r1, r2, t)


def lit(e: Easel, nx: Tensor, ny: Tensor) -> Tensor:
    """Brightness of a rounded surface with normals (nx, ny, rest): diffuse light and what comes from everywhere."""
    angle = torch.deg2rad(e.p["light_angle"])
    nz = (1 - nx * nx - ny * ny).clamp(min=0).sqrt()
    diffuse = (0.65 * (torch.sin(angle) * nx - torch.cos(angle) * ny) + 0.76 * nz).clamp(min=0)
    return 1 - e.p["contrast"] + e.p["contrast"] * 1.45 * diffuse

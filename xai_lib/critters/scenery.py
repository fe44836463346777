"""What is behind, before and over a critter, drawn alike for every class: clutter, leaves, light and noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xai_lib.critters.shapes import Easel, cone, ellipse, mix, rgb, smooth


def background(e: Easel) -> None:
    """A gradient with blotches and stripes, blurred things, plants, and the edge of a table."""
    r = e.random
    angle = r(0, 0, 2 * np.pi)
    slope = 0.5 + 0.5 * (torch.cos(angle) * e.x + torch.sin(angle) * e.y)
    one = rgb(r(1, 0, 360), r(2, 0.05, 0.45), r(3, 0.3, 0.9))
    two = rgb(r(1, 0, 360) + r(4, -60, 60), r(5, 0.05, 0.45), r(6, 0.3, 0.9))
    blotch = 0.6 * e.noise(e.x, e.y, 2.2, 1) + 0.4 * e.noise(e.x, e.y, 5.0, 2)
    across = torch.cos(angle * 3) * e.x + torch.sin(angle * 3) * e.y
    stripes = torch.sin(across * r(7, 12, 30) + 3 * blotch * r(8)) * 0.13 * (r(9) < 0.45)
    e.picture = mix(one, two, slope[:, None]) * (0.75 + 0.5 * blotch + stripes)[:, None]
    for k in range(4):  # out of focus: lights, boxes, books
        _thing(e, 20 + 12 * k)
    for k in range(5):
        _stalk(e, 80 + 12 * k)
    _table(e, 10)


def _thing(e: Easel, at: int) -> None:
    r = e.random
    turn = r(at, -0.4, 0.4)
    dx, dy = e.x - r(at + 1, -1.1, 1.1), e.y - r(at + 2, -1.1, 0.9)
    du, dv = torch.cos(turn) * dx + torch.sin(turn) * dy, torch.cos(turn) * dy - torch.sin(turn) * dx
    a, b = r(at + 3, 0.08, 0.4), r(at + 4, 0.08, 0.4)
    box = torch.maximum(du.abs() - a, dv.abs() - b)
    d = torch.where(r(at + 5) < 0.5, box, ellipse(du, dv, a, b))
    shade = 1 + 0.5 * (dx / a).clamp(-1, 1) * r(at + 9, -0.4, 0.4)
    colour = rgb(r(at + 6, 0, 360), r(at + 7, 0.05, 0.6), r(at + 8, 0.2, 0.95))
    e.paint(d, colour * shade[:, None], strength=r(at + 10, 0.3, 0.9), soft=r(at + 11, 0.01, 0.16))


def _stalk(e: Easel, at: int) -> None:
    r = e.random
    length, lean = r(at, 0.3, 1.0), r(at + 1, -0.7, 0.7)
    dx, dy = e.x - r(at + 2, -1.1, 1.1), e.y - r(at + 3, 0.0, 1.0)
    bend = r(at + 4, -0.4, 0.4) * dy * dy
    d = cone(dx + bend, dy, lean * length, -length, r(at + 5, 0.02, 0.12), 0.005)
    colour = rgb(r(at + 6, 50, 150), r(at + 7, 0.2, 0.6), r(at + 8, 0.2, 0.6))
    shade = 0.8 + 0.4 * smooth(-0.05, 0.05, dx + bend + lean * dy)
    e.paint(d, colour * shade[:, None], strength=0.9 * (r(at + 9) < 0.55), soft=r(at + 10, 0.0, 0.06))


def _table(e: Easel, at: int) -> None:
    """In two of three pictures; where there is none the backdrop goes on."""
    r = e.random
    edge = e.y - r(at, 0.35, 0.95) - r(at + 1, -0.08, 0.08) * e.x
    wood = 0.85 + 0.3 * e.noise(e.x, e.y * 9, 1.5, 3)
    colour = rgb(r(at + 2, 0, 360), r(at + 3, 0.05, 0.5), r(at + 4, 0.25, 0.85))
    there = (r(at + 5) < 0.65).float()
    e.paint(-edge, colour * wood[:, None], strength=there, soft=0.01)
    e.paint((edge - 0.03).abs() - 0.02, colour * 0.6, strength=0.7 * there)


def cast(e: Easel, silhouette: Tensor) -> None:
    """The soft shadow of a silhouette (signed distance at the pixel's place moved away from the light)."""
    shade = 0.45 * (0.4 + e.p["contrast"]) * (1 - smooth(-0.12, 0.22, silhouette))
    e.picture *= (1 - shade)[:, None]


def leaves(e: Easel) -> None:
    """Leaves before the critter; what they cover is no part of it."""
    rows = (e.p["leaf_size"].flatten() > 0).nonzero().flatten()
    if len(rows):
        some = e.rows(rows)
        for k in range(3):
            _leaf(some, k)
        e.picture[rows], e.parts[rows] = some.picture, some.parts


def _leaf(e: Easel, k: int) -> None:
    r, length, at = e.random, e.p["leaf_size"], 150 + 8 * k
    turn = r(at, -2.6, 2.6)
    dx, dy = e.x - e.p["leaf_x"] - length * r(at + 1, -0.7, 0.7), e.y - e.p["leaf_y"] - length * r(at + 2, -0.7, 0.7)
    along, off = torch.sin(turn) * dx - torch.cos(turn) * dy, torch.cos(turn) * dx + torch.sin(turn) * dy
    t = (along / length).clamp(-1, 1)
    d = 0.8 * torch.maximum(off.abs() - 0.42 * length * (1 - t * t), along.abs() - length)
    vein = 1 - 0.35 * (1 - smooth(0.0, 0.03, off.abs()))
    shade = vein * (0.85 + 0.3 * smooth(-0.02, 0.02, off)) * (0.8 + 0.4 * e.noise(e.x, e.y, 6.0, 5 + k))
    colour = rgb(r(at + 3, 60, 140), r(at + 4, 0.35, 0.7), r(at + 5, 0.3, 0.65))
    e.paint(d - 0.03, colour * 0.25, strength=0.35, soft=0.08)
    e.paint(d, colour * shade[:, None], part=0)


def finish(e: Easel, seeds: list[int]) -> Tensor:
    """Exposure, colour of the light, a vignette, and noise: `(n, 3, H, W)` uint8."""
    warm = torch.cat([1 + e.p["warmth"], torch.ones_like(e.p["warmth"]), 1 - e.p["warmth"]], 1)[..., None]
    fall = 1 - 0.12 * (e.x * e.x + e.y * e.y)
    size = e.x.shape[-1]
    grain = np.stack([np.random.default_rng([seed, 1]).standard_normal((1, size, size), dtype=np.float32) for seed in seeds])
    picture = e.picture * (warm * (e.p["exposure"] * fall)[:, None]) + torch.from_numpy(grain) * e.p["grain"][:, None]
    return (picture * 255 + 0.5).clamp(0, 255).to(torch.uint8)

"""Bottles: a turned outline of neck, shoulder and body in coloured glass, with cap, label and reflection."""

from __future__ import annotations

import torch
from torch import Tensor

from xai_lib.critters.scenery import cast
from xai_lib.critters.shapes import Easel, mix, rgb, smooth

PARTS = ("glass", "shoulder", "bottle_neck", "cap", "label", "highlight")
FIRST = 11  #: code of the first of them
HEIGHT = 1.66  #: half sides of the picture


def _frame(e: Easel, dx: Tensor | float = 0.0, dy: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Across from the axis and down from the top, in heights of the bottle."""
    tilt = torch.deg2rad(e.p["tilt"])
    x, y = e.x - dx - e.p["shift_x"], e.y - dy - e.p["shift_y"]
    u = (torch.cos(tilt) * x + torch.sin(tilt) * y) / (e.p["scale"] * HEIGHT)
    v = (torch.cos(tilt) * y - torch.sin(tilt) * x) / (e.p["scale"] * HEIGHT)
    return u, v + 0.5


def _width(e: Easel, v: Tensor) -> Tensor:
    """Half width at each height."""
    p = e.p
    neck = p["cap_height"] + p["bottle_neck_length"]
    t = ((v - neck) / p["shoulder_length"]).clamp(0, 1)
    rounded = (1 - (1 - t) * (1 - t)).clamp(min=1e-6).sqrt() * smooth(-0.02, 0.12, t)
    straight = t + 0.12 * torch.sin(6.2831853 * t) * -0.5
    wide = p["bottle_width"]
    thin = p["bottle_neck_width"] * wide
    width = thin + (wide - thin) * mix(straight, rounded, p["shoulder_round"])
    middle = ((v - 0.66) / 0.16).clamp(-4, 4)
    width = width - wide * p["waist"] * torch.exp(-middle * middle) * t
    foot = ((v - 0.975) / 0.025).clamp(0, 1)
    ring = 0.012 * smooth(0.006, 0.0, (v - p["cap_height"] - 0.02).abs() - 0.008)
    return width - 0.03 * foot * foot + ring


def _distance(e: Easel, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    width = _width(e, v)
    slope = ((_width(e, v + 0.004) - width) / 0.004).clamp(-2, 2)  # at the ring's step it would reach far out
    side = (u.abs() - width) / (1 + slope * slope).sqrt()
    return torch.maximum(side, torch.maximum(v - 1, -v)), width


def draw(e: Easel) -> None:
    """Lay a bottle over the picture, its shadow on what is behind it."""
    p = e.p
    away = torch.deg2rad(p["light_angle"])
    u, v = _frame(e, -0.2 * torch.sin(away), 0.08 * torch.cos(away))
    cast(e, torch.maximum(u.abs() - _width(e, v), torch.maximum(v - 1, -v)) * HEIGHT)
    u, v = _frame(e)
    d, width = _distance(e, u, v)
    s = p["scale"] * HEIGHT
    across = (u / width).clamp(-1, 1)
    _glass(e, d * s, v, across)
    _label(e, d, v, across, s)
    _cap(e, u, v, s)
    _reflection(e, v, across, width, s)


def _glass(e: Easel, d: Tensor, v: Tensor, across: Tensor) -> None:
    p = e.p
    glass = rgb(p["hue"], p["saturation"], p["value"])
    rim = 1 - 0.55 * across.square().square() + 0.18 * p["contrast"] * across * torch.sin(torch.deg2rad(p["light_angle"]))
    through = e.picture * (0.35 + 0.65 * glass / (p["value"][:, None] + 0.15))
    blotch = 0.88 + 0.24 * e.noise(across, v * 4, 2.0, 20)
    body = mix(glass * (rim * blotch * 1.1)[:, None], through * rim[:, None], 0.3)
    level = p["cap_height"] + 0.02 + (1 - p["fill"]) * 0.85
    wet = smooth(-0.004, 0.004, v - level)
    surface = 1 - smooth(0.004, 0.012, (v - level).abs())
    body = body * (1.12 - 0.38 * wet + 0.2 * surface)[:, None]
    e.paint(d, body, part=FIRST)
    neck = p["cap_height"] + p["bottle_neck_length"]
    inside = d < 0
    e.parts.masked_fill_(inside & (v < neck + p["shoulder_length"]), FIRST + 1)
    e.parts.masked_fill_(inside & (v < neck), FIRST + 2)


def _label(e: Easel, d: Tensor, v: Tensor, across: Tensor, s: Tensor) -> None:
    p = e.p
    bend = 0.012 * (1 - across * across)  # seen slightly from above
    at = v - p["label_place"] - bend
    half = p["label_height"] / 2
    paper = rgb(p["accent"], 0.55, torch.full_like(s, 0.8))
    ink = rgb(p["accent"] + 150, 0.5, torch.full_like(s, 0.35))
    shade = 0.55 + 0.45 * (1 - across * across).clamp(min=0).sqrt()
    shade = shade * (1 + 0.3 * p["contrast"] * across * torch.sin(torch.deg2rad(p["light_angle"])))
    area = torch.maximum(at.abs() - half, d)
    e.paint(area * s, paper * shade[:, None], part=FIRST + 4)
    band = torch.maximum((at.abs() - 0.8 * half).abs() - 0.06 * half, d)
    e.paint(band * s, ink * shade[:, None])
    mark = torch.hypot(across.asin() * p["bottle_width"], at) - 0.42 * half
    e.paint(torch.maximum(mark, d) * s, ink * shade[:, None], strength=0.9)
    e.paint(torch.maximum(mark + 0.18 * half, d) * s, torch.ones_like(paper) * shade[:, None] * 0.9, strength=0.9)


def _cap(e: Easel, u: Tensor, v: Tensor, s: Tensor) -> None:
    p = e.p
    half = p["bottle_neck_width"] * p["bottle_width"] + 0.01
    d = torch.maximum(u.abs() - half, (v - p["cap_height"] / 2).abs() - p["cap_height"] / 2)
    across = (u / half).clamp(-1, 1)
    ribs = 1 + 0.15 * torch.sin(across.asin() * 16)
    light = (0.5 + 0.6 * (1 - across * across).clamp(min=0).sqrt()) * ribs
    colour = rgb(p["accent"] + 20, 0.6, torch.full_like(s, 0.75))
    e.paint(d * s, colour * light[:, None], part=FIRST + 3)


def _reflection(e: Easel, v: Tensor, across: Tensor, width: Tensor, s: Tensor) -> None:
    """A stripe that follows the outline on the side of the light, with a bright spot on the shoulder."""
    p = e.p
    place = 0.55 * torch.tanh(p["light_angle"] / 15)
    neck = p["cap_height"] + p["bottle_neck_length"]
    bottom = neck + p["shoulder_length"] + 0.62 * (1 - neck - p["shoulder_length"])
    stripe = torch.maximum((across - place).abs() * width - 0.13 * width, torch.maximum(p["cap_height"] + 0.03 - v, v - bottom))
    spot = torch.hypot((across - place) * width, (v - neck - 0.7 * p["shoulder_length"]) * 0.6) - 0.24 * width
    strength = 0.85 * p["highlight"]
    white = torch.ones(len(s), 3, 1, 1)
    d = torch.minimum(stripe, spot)
    e.paint(d * s, white, part=FIRST + 5, strength=strength * (0.55 + 0.45 * smooth(0.02, -0.02, spot)), soft=0.012)

"""Animals: a head with ears, eyes and snout or beak on a neck and a body, from one set of numbers for all kinds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xai_lib.critters.scenery import cast
from xai_lib.critters.shapes import Easel, cone, ellipse, lit, mix, rgb, smooth

PARTS = ("body", "neck", "topknot", "ears", "head", "face", "snout", "beak", "nose", "eyes")
RADIUS = 0.37  #: half height of the head, half sides of the picture
CROWN = -0.1  #: where the middle of the head is, from the middle of the picture


@dataclass
class _Figure:
    """Where pixels lie on the animal (`u`, `v` from the middle of its head, in half sides before `scale`), and its fur."""

    u: Tensor
    v: Tensor
    a: Tensor  # half width of the head
    fray: Tensor  # what the fur adds to a distance
    hair: Tensor  # its texture, about -0.5..0.5
    fur: Tensor
    face: Tensor  # how far the turn moves the face to the right


def _frame(e: Easel, dx: Tensor | float = 0.0, dy: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    tilt = torch.deg2rad(e.p["tilt"])
    x, y = e.x - dx - e.p["shift_x"], e.y - dy - e.p["shift_y"]
    u = (torch.cos(tilt) * x + torch.sin(tilt) * y) / e.p["scale"]
    v = (torch.cos(tilt) * y - torch.sin(tilt) * x) / e.p["scale"]
    return u, v - CROWN


def _figure(e: Easel) -> _Figure:
    p = e.p
    u, v = _frame(e)
    swirl = e.noise(u, v, 3.0, 10)
    around = torch.atan2(u, -v - 0.02)  # seam below, where the neck covers it
    below = v > 0.9 * RADIUS
    across, along = torch.where(below, u + 0.2 * swirl, around * 0.44), torch.where(below, 0.25 * v, 0.35 * torch.hypot(u, v))
    strands = e.noise(across, along, 17.0, 11)
    twist = e.noise(v, u, 6.0, 12)
    # ridges of noise off the axes look like curls
    curls = 1.15 - 3.2 * (e.noise(0.8 * u + 0.6 * v + 0.25 * swirl, 0.8 * v - 0.6 * u + 0.16 * twist, 10.0, 13) - 0.5).abs()
    curls = 0.7 * curls + 0.3 * e.noise(u, v, 19.0, 14)
    hair = mix(strands, curls, p["fur_curl"]) - 0.5
    a = RADIUS * p["head_width"]
    fur = rgb(p["hue"], p["saturation"], p["value"])
    return _Figure(u, v, a, -RADIUS * p["fur_length"] * (1.6 * hair + 0.3), hair, fur, p["turn"] * 0.28 * a)


def draw(e: Easel) -> None:
    """Lay an animal over the picture, its shadow on what is behind it."""
    f = _figure(e)
    shadow = torch.deg2rad(e.p["light_angle"])
    u, v = _frame(e, -0.22 * torch.sin(shadow), 0.1 * torch.cos(shadow))
    cast(e, torch.minimum(ellipse(u, v, f.a, RADIUS), _trunk(e, u, v)[0]))
    _body(e, f)
    _ears(e, f)
    _head(e, f)
    _face(e, f)


def _coat(f: _Figure, light: Tensor, colour: Tensor | None = None, depth: float = 0.6) -> Tensor:
    return (f.fur if colour is None else colour) * (light * (1 + depth * f.hair))[:, None]


def _trunk(e: Easel, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distance from neck and body, their half width, and where the shoulders begin."""
    p = e.p
    begin = RADIUS * (0.85 + p["neck_length"])
    rise = smooth(-0.5 * RADIUS, 0.5 * RADIUS, v)  # a neck wider than the head has no corners behind it
    thin, wide = p["neck_width"] * RADIUS * p["head_width"] * rise, p["body_width"] * RADIUS
    t = ((v - begin) / 0.42).clamp(0, 1)
    width = thin + (wide - thin) * (1 - (1 - t) * (1 - t)).clamp(min=1e-6).sqrt() * smooth(0.0, 0.35, t)
    slope = (wide - thin) / 0.42 * (1 - t) * smooth(-0.01, 0.05, v - begin)
    d = (u.abs() - width) / (1 + slope * slope).sqrt()
    return torch.maximum(d, -v), width, begin


def _body(e: Easel, f: _Figure) -> None:
    d, width, begin = _trunk(e, f.u, f.v)
    light = lit(e, 0.95 * (f.u / width).clamp(-1, 1), torch.full_like(f.u, 0.1))
    light = light * (0.62 + 0.38 * smooth(0.9 * RADIUS, 1.7 * RADIUS, f.v))  # the head's shadow
    d = (d + f.fray) * e.p["scale"]
    coat = _coat(f, light)
    e.paint(d, coat, part=2)
    e.parts.masked_fill_((d < 0) & (f.v > begin + 0.04), 1)
    bib = ellipse(f.u - 0.5 * f.face, f.v - 2.1 * RADIUS, 0.45 * e.p["body_width"] * RADIUS, 0.9 * RADIUS)
    e.paint(torch.maximum(bib, d), mix(coat, 1.0, 0.45), strength=0.8 * e.p["face_tone"].clamp(min=0), soft=0.08)


def _ears(e: Easel, f: _Figure) -> None:
    p = e.p
    angle = torch.deg2rad(p["ear_angle"])
    base = 0.3 + 0.42 * angle
    r1 = p["ear_width"] * RADIUS
    r2 = r1 * (1 - 0.92 * p["ear_point"])
    inner = mix(f.fur * 0.55, rgb(12.0, 0.4, p["value"].clamp(min=0.35)), 0.5)
    for side in (-1, 1):
        bu, bv = side * f.a * torch.sin(base) * 0.86 - 0.25 * f.face, -RADIUS * torch.cos(base) * 0.86
        along, down = side * torch.sin(angle) * p["ear_length"] * RADIUS, -torch.cos(angle) * p["ear_length"] * RADIUS
        du, dv = f.u - bu, f.v - bv
        d = cone(du, dv, along, down, r1, r2)
        light = lit(e, (du / (2.2 * r1)).clamp(-0.7, 0.7), torch.full_like(du, -0.3))
        e.paint((d + 0.6 * f.fray) * p["scale"], _coat(f, light * 0.9), part=4)
        within = cone(du, dv, 0.8 * along, 0.8 * down, 0.55 * r1, 0.4 * r2)
        opened = 0.45 + 0.45 * torch.cos(angle)  # hanging ears show their backs
        e.paint(within * p["scale"], _coat(f, light, inner, 0.4), strength=opened, soft=0.02)


def _head(e: Easel, f: _Figure) -> None:
    p = e.p
    size = p["topknot"] * RADIUS
    du, dv = f.u - 0.3 * f.face, f.v + 0.78 * RADIUS
    d = ellipse(du, dv, 0.05 + 0.82 * size, 0.02 + 0.62 * size)
    light = lit(e, (du / (0.3 + size)).clamp(-1, 1), (dv / (0.3 + size)).clamp(-1, 1))
    tuft = (d + 1.3 * f.fray) * p["scale"]
    head = (ellipse(f.u, f.v, f.a, RADIUS) + f.fray) * p["scale"]
    tufted = p["topknot"] > 0.05
    e.paint(torch.where(tufted, tuft, 1.0), _coat(f, light, depth=0.95), part=3)
    coat = _coat(f, lit(e, 0.9 * f.u / f.a, 0.9 * f.v / RADIUS))
    e.paint(head, coat, part=5)
    # a large tuft hangs over the brow
    brow, strength = torch.maximum(tuft + 0.02, f.v + 0.5 * RADIUS), smooth(0.3, 0.6, p["topknot"])
    e.paint(brow, _coat(f, light * 1.06, depth=0.95), strength=strength)
    e.parts.masked_fill_((brow < 0) & (strength > 0.5), 3)


def _face(e: Easel, f: _Figure) -> None:
    p = e.p
    s = p["scale"]
    tone, radius = p["face_tone"], p["face_disc"]
    pale, dark = mix(f.fur, 1.0, 0.65), mix(f.fur * 0.3, rgb(18.0, 0.35, p["value"] * 0.4), 0.5)
    light = lit(e, 0.8 * f.u / f.a, 0.8 * f.v / RADIUS)
    gap = p["eye_gap"] * f.a
    u = f.u - f.face
    wide, high = 0.02 + 0.62 * radius * f.a, 0.02 + 0.86 * radius * RADIUS
    d = ellipse((u.abs() - 0.45 * gap).clamp(min=0), f.v - 0.06 * RADIUS, wide, high) + 0.4 * f.fray
    there = smooth(0.05, 0.3, radius) * smooth(0.0, 0.35, tone.abs())
    up = (tone > 0)[:, None]
    rim, skin = torch.where(up, dark, pale), torch.where(up, pale, dark)
    e.paint(d * s, _coat(f, light, rim, 0.4), strength=there * (0.1 + 0.8 * tone.abs()))
    e.paint((d + 0.055) * s, _coat(f, light, skin, 0.3), strength=there * (0.35 + 0.65 * tone.abs()), soft=0.015)
    e.parts.masked_fill_((d < 0) & (there > 0.25) & (e.parts == 5), 6)
    _snout(e, f, u, light, skin, there)
    _eyes(e, f, u, gap)


def _snout(e: Easel, f: _Figure, u: Tensor, light: Tensor, skin: Tensor, bare: Tensor) -> None:
    p, s = e.p, e.p["scale"]
    half, width = RADIUS * (0.22 + 0.42 * p["snout_length"]), p["snout_width"] * RADIUS
    cv = RADIUS * (0.38 + 0.22 * p["snout_length"])
    u = u - 0.35 * f.face * (0.4 + p["snout_length"])
    dv = f.v - cv
    d = ellipse(u, dv, width, half)
    tone = mix(mix(f.fur, 1.0, 0.3), skin, 0.4 * bare[:, None])
    shade = lit(e, 0.9 * (u / width).clamp(-1, 1), 0.9 * (dv / half).clamp(-1, 1))
    e.paint((d - 0.025) * s, f.fur * 0.4 * light[:, None], strength=0.5, soft=0.05)
    e.paint((d + 0.25 * f.fray) * s, _coat(f, shade, tone, 0.35), part=7)
    size = RADIUS * 0.15 * (1 - 0.9 * p["beak"])
    nv = dv + half * (0.42 - 0.62 * p["snout_length"])
    black = rgb(15.0, 0.3, torch.full_like(s, 0.1))
    mouth = torch.maximum((torch.hypot(u.abs() - 0.4 * width, nv - size) - 0.4 * width).abs() - 0.009, size + 0.15 * half - nv)
    mouth = torch.minimum(mouth, torch.maximum(u.abs() - 0.008, (nv - 0.6 * size - 0.15 * half).abs() - 0.15 * half - 0.4 * size))
    e.paint(mouth * s, black, strength=0.75 * (1 - p["beak"]))
    e.paint(ellipse(u, nv, 1.15 * size, 0.85 * size) * s, black, part=9)
    e.paint(ellipse(u + 0.3 * size, nv + 0.4 * size, 0.35 * size, 0.2 * size) * s, torch.ones_like(black), strength=0.5)
    beak, bv = p["beak"], f.v - 0.12 * RADIUS
    bill = cone(u, bv, torch.zeros_like(s), 0.02 + 0.62 * beak * RADIUS, 0.27 * beak * RADIUS, 0.0)
    bright = smooth(-0.03, 0.03, u * torch.sign(p["light_angle"]))
    horn = rgb(42.0, 0.6, torch.full_like(s, 0.75)) * (0.75 + 0.5 * bright)[:, None]
    ground = smooth(0.1, 0.25, beak)
    e.paint(torch.where(beak > 0.1, (bill - 0.012) * s, 1.0), black, strength=0.6 * ground)
    e.paint(torch.where(beak > 0.1, bill * s, 1.0), horn, part=8, strength=ground)


def _eyes(e: Easel, f: _Figure, u: Tensor, gap: Tensor) -> None:
    p, s = e.p, e.p["scale"]
    radius = p["eye_size"] * RADIUS
    small = 0.11 * RADIUS
    pupil = 0.8 * torch.where(radius > small, small + 0.45 * (radius - small), radius)
    iris = rgb(36 + 16 * torch.sin(torch.deg2rad(p["accent"])), 0.75, 0.4 + 2 * p["eye_size"].clamp(max=0.2))
    for side in (-1, 1):
        # the eye on the far side comes nearer to the middle
        du, dv = u - side * gap * (1 - 0.2 * (side * p["turn"]).clamp(min=0)), f.v + 0.14 * RADIUS
        d = torch.hypot(du, dv)
        dark = torch.full_like(iris, 0.05)
        e.paint((d - radius - 0.016) * s, mix(f.fur, 1.0, 0.3), strength=0.6, soft=0.015)  # or a dark eye drowns in dark fur
        e.paint((d - radius) * s, iris, part=10)
        e.paint((d - pupil) * s, dark)
        glint = torch.hypot(du - 0.3 * pupil * torch.sin(torch.deg2rad(p["light_angle"])), dv + 0.35 * pupil) - 0.3 * pupil
        e.paint(glint * s, torch.ones_like(iris), strength=0.9)

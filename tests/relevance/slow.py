"""The rules a second time, from their formulas, unit by unit: a layer is a matrix, found by passing unit vectors.

A unit's row `w` holds its weights, `reads` marks the inputs it has (zero padding is none), `b` is its bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Vector = np.ndarray


@dataclass
class Units:
    weights: Vector  #: (units, inputs)
    reads: Vector  #: (units, inputs), bool
    biases: Vector  #: (units,)


def units(forward: Callable[[Tensor], Tensor], reading: Callable[[Tensor], Tensor], shape: torch.Size) -> Units:
    """Without biases. `forward`: the map of `(N, *shape)`; `reading`: the same with weights of one."""
    eye = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
    rows, ones = forward(eye), reading(eye)
    return Units(rows.flatten(1).T.numpy(), ones.flatten(1).T.numpy() != 0, np.zeros(rows[0].numel()))


def by_unit(share: Callable[[Vector, Vector, Vector, float, float], Vector], layer: Units, x: Tensor, r: Tensor) -> Tensor:
    """Relevance of `x` `(N, ...)` from `r` `(N, ...)`; `share(x, w, reads, b, R)` is what one unit hands down."""
    found = torch.zeros(len(x), x[0].numel(), dtype=torch.float64)
    for n in range(len(x)):
        flat, above = x[n].flatten().numpy(), r[n].flatten().numpy()
        total = np.zeros(len(flat))
        for w, reads, b, one in zip(layer.weights, layer.reads, layer.biases, above, strict=True):
            total += share(flat, w, reads, float(b), float(one))
        found[n] = torch.from_numpy(total)
    return found.view_as(x)


def evenly(reads: Vector, r: float) -> Vector:
    return reads * (r / reads.sum()) if reads.any() else np.zeros(len(reads))


def epsilon(e: float, bias: str) -> Callable[..., Vector]:
    def share(x: Vector, w: Vector, reads: Vector, b: float, r: float) -> Vector:
        z = float(x @ w) + (b if bias == "keep" else 0)
        return x * w * r / (z + e if z >= 0 else z - e)

    return share


def alpha_beta(alpha: float, bias: str) -> Callable[..., Vector]:
    def share(x: Vector, w: Vector, reads: Vector, b: float, r: float) -> Vector:
        z = x * w
        positive, negative = np.maximum(z, 0), np.minimum(z, 0)
        up, un = positive.sum(), negative.sum()
        if bias == "spread":
            if up > 0 and un < 0:
                return r * (alpha * positive / up + (1 - alpha) * negative / un)
            if up > 0 or un < 0:
                return r * z / (up + un)
            return evenly(reads, r)
        if bias == "keep":
            up, un = up + max(b, 0), un + min(b, 0)
            if alpha == 1 and not up:
                return r * negative / un if un else np.zeros(len(x))
        found = alpha * positive / up if up else np.zeros(len(x))
        return r * (found + ((1 - alpha) * negative / un if un else 0))

    return share


def gamma(g: float, bias: str) -> Callable[..., Vector]:
    def share(x: Vector, w: Vector, reads: Vector, b: float, r: float) -> Vector:
        z, own = x * w, b if bias == "keep" else 0
        total = z.sum() + own
        if total == 0:
            return evenly(reads, r) if bias == "spread" else np.zeros(len(x))
        side = np.maximum if total > 0 else np.minimum
        grown = z + g * side(z, 0)
        return grown * r / (grown.sum() + own + g * side(own, 0))

    return share


def zbox(low: Vector | float, high: Vector | float) -> Callable[..., Vector]:
    def share(x: Vector, w: Vector, reads: Vector, b: float, r: float) -> Vector:
        z = x * w - low * np.maximum(w, 0) - high * np.minimum(w, 0)
        return z * r / z.sum() if z.sum() else evenly(reads, r)

    return share


def flat(x: Vector, w: Vector, reads: Vector, b: float, r: float) -> Vector:
    return evenly(reads, r)


def norm(x: Vector, w: Vector, reads: Vector, b: float, r: float) -> Vector:
    z = x * w
    return z * r / z.sum() if z.sum() else np.zeros(len(x))


def criterion(of_dense: bool) -> Callable[..., Vector]:
    """RAP's criterion relevance of one unit, before the shift."""

    def share(x: Vector, w: Vector, reads: Vector, b: float, r: float) -> Vector:
        p, n = np.maximum(x * w, 0), np.maximum(-x * w, 0)
        found = np.zeros(len(x))
        if n.sum() + p.sum():
            found += n * r / (n.sum() + p.sum())
        if of_dense or r > 0:
            return found + (p * r / p.sum() if p.sum() else 0)
        return found + (n * r / n.sum() if n.sum() else 0)

    return share


def rap_shift(c: Tensor, r: Tensor) -> Tensor:
    """RAP's uniform shift, image by image."""
    found = c.clone()
    for n in range(len(c)):
        alive = c[n] != 0
        found[n][alive] -= (c[n].sum() - r[n].sum()) / alive.sum()
    return found


def rap_start(x: Vector, w: Vector, b: float) -> Vector:
    """RAP's absolute influence on one logit, with the bias shared out as the authors do."""
    c = x * w
    up, un = np.maximum(c, 0).sum(), np.minimum(c, 0).sum()
    if up + un:
        own = np.where(c > 0, b * up / (up + un) * c / (up or 1), b * un / (up + un) * c / (un or 1))
        c = c + own
    return np.abs(c) * c.sum() / np.abs(c).sum() if c.any() else c * 0

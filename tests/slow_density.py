"""The adaptive density of one unit, slowly, step by step as the recipe reads: FFTs, loops, no shortcuts."""

from __future__ import annotations

import math

import numpy as np


def slow_density(samples: np.ndarray, m: int = 10) -> tuple[np.ndarray, np.ndarray] | None:
    """Density and bandwidth of one unit `(Z,)` at `linspace(0, 1, Z)`; None where there is none."""
    wanted = np.linspace(0, 1, len(samples))
    x = np.sort(samples[(samples >= 0) & (samples <= 1)])
    if len(x) < 2:
        return None
    gaps = np.diff(x)
    gap = gaps[gaps > 0].min(initial=np.inf)
    points = len(wanted)
    if np.isfinite(gap) and gap > np.diff(wanted).min():
        points = min(math.ceil(1 / gap), 1000)
    if points < 2:
        return None
    t = wanted if points == len(wanted) else np.linspace(0, 1, points)
    dt = np.diff(t).min()
    edges = t - dt / 2
    h = np.array([((x >= low) & (x < low + dt)).sum() for low in edges[:-1]] + [(x == edges[-1]).sum()]) / dt
    widths = np.log1p(np.exp(np.linspace(np.log(np.expm1(5 * dt)), np.log(np.expm1(1.0)), m)))
    costs = []
    for w in widths:
        s = smooth(h, w / dt)
        costs.append(s**2 - 2 * s * h + 2 / math.sqrt(2 * math.pi) / w * h)
    best = np.array([widths[np.argmin([smooth(c, window / dt) for c in costs], axis=0)] for window in widths])
    y, w = golden_section(t, dt, h, widths, best / widths[:, None])
    with np.errstate(invalid="ignore"):
        return np.interp(wanted, t, y / (y.sum() * dt)), np.interp(wanted, t, w)


def smooth(values: np.ndarray, width: float) -> np.ndarray:
    size = 2 ** math.ceil(math.log2(len(values) + 3 * width))
    spectrum = np.fft.fft(values, size) * np.exp(-0.5 * (2 * np.pi * np.fft.fftfreq(size) * width) ** 2)
    return np.fft.ifft(spectrum).real[: len(values)]


def gauss(distance: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    return np.exp(-0.5 * (distance / width) ** 2) / (math.sqrt(2 * math.pi) * width)


def probe(stiffness: float, t: np.ndarray, dt: float, h: np.ndarray, widths: np.ndarray, ratios: np.ndarray) -> tuple:
    chosen = np.empty(len(t))
    for s in range(len(t)):
        reached = np.flatnonzero(ratios[:, s] >= stiffness)
        if stiffness > ratios[:, s].max():
            chosen[s] = widths.min()
        elif stiffness < ratios[:, s].min():
            chosen[s] = widths.max()
        else:
            chosen[s] = stiffness * widths[reached[-1]]
    w = np.empty(len(t))
    for k in range(len(t)):
        window = gauss(t[k] - t, chosen / stiffness)
        w[k] = (chosen * window).sum() / window.sum()
    total = h.sum() * dt
    y = np.array([sum(h[j] * dt * gauss(t[k] - t[j], w[k]) for j in np.flatnonzero(h)) for k in range(len(t))], dtype=float)
    with np.errstate(invalid="ignore"):
        y = y * (total / (y.sum() * dt))
    cost = dt * (y**2 - 2 * y * h + 2 / math.sqrt(2 * math.pi) / w * h).sum()
    return cost, y, w


def golden_section(t: np.ndarray, dt: float, h: np.ndarray, widths: np.ndarray, ratios: np.ndarray) -> tuple:
    phi = (math.sqrt(5) + 1) / 2
    a, b = 1e-12, 1.0
    c1, c2 = (phi - 1) * a + (2 - phi) * b, (2 - phi) * a + (phi - 1) * b
    f1 = probe(c1, t, dt, h, widths, ratios)[0]
    f2, y, w = probe(c2, t, dt, h, widths, ratios)
    for _ in range(29):
        if abs(b - a) <= 1e-5 * (abs(c1) + abs(c2)):
            break
        if f1 < f2:
            b, c2, f2 = c2, c1, f1
            c1 = (phi - 1) * a + (2 - phi) * b
            f1, y, w = probe(c1, t, dt, h, widths, ratios)
        else:
            a, c1, f1 = c1, c2, f2
            c2 = (2 - phi) * a + (phi - 1) * b
            f2, y, w = probe(c2, t, dt, h, widths, ratios)
    return y, w

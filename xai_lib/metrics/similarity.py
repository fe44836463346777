"""How much of a picture is left in another: MSE, SSIM and FSIM, with the parts of the reference computed once.

Pictures are `(N, C, H, W)` in 0..255; with three channels they are red, green and blue, and with any other number FSIM
compares the mean of the channels and knows no chroma (our choice). A reference stands against many pictures (every mask of
one photograph), and FSIM is by far the most expensive of the metrics of a table, so the reference's phase congruency,
gradients and local means are kept, and the filters of a size are made once. `piq.fsim` gives the same numbers, but makes
filters and reference again in each call, which is several times as slow.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from xai_lib.errors import XaiError

SCALES, ORIENTATIONS = 4, 4  #: of the log-Gabor filters of FSIM, and all below: Zhang et al. 2011 and its authors' program
SHORTEST, STEP, RADIAL, ANGULAR = 6, 2, 0.55, 1.2
NOISE, CUTOFF, ORDER = 2.0, 0.45, 15
T1, T2, T3, T4, CHROMA = 0.85, 160.0, 200.0, 200.0, 0.03
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
SIGMA, RADIUS, RANGE = 1.5, 5, 255.0  #: of SSIM's Gaussian window (11 taps) and of the pictures


class SimilarityError(XaiError):
    """Pictures that cannot be compared."""


class Features(NamedTuple):
    """What FSIM compares, each `(N, H', W')`: phase congruency, gradient magnitude, and the two chroma channels."""

    congruency: Tensor
    gradient: Tensor
    i: Tensor
    q: Tensor


class Reference:
    """A picture `(C, H, W)` in 0..255 that others are compared with."""

    def __init__(self, picture: Tensor) -> None:
        if picture.ndim != 3 or 0 in picture.shape:
            raise SimilarityError(f"a reference: expected a picture (C, H, W), found {tuple(picture.shape)}")
        self.picture = picture.double()
        self._features: Features | None = None
        self._moments: dict[bool, tuple[Tensor, Tensor]] = {}

    def mse(self, pictures: Tensor) -> Tensor:
        """Mean squared error over pixels and channels, over 255 squared, `(N,)`: 0 to 1 (eq. 14)."""
        return (self._checked(pictures) - self.picture).square().mean((1, 2, 3)) / RANGE**2

    def ssim(self, pictures: Tensor, volume: bool = False) -> Tensor:
        """Structural similarity `(N,)`, mean over pixels and channels (eq. 13; Wang et al. 2004), window 11, sigma 1.5.

        Edges are replicated. `volume`: the window also runs across the channels, which is what MATLAB's `ssim`
        makes of an array H x W x 3 and so what ADVISE's authors computed.
        """
        pictures = self._checked(pictures)
        if volume not in self._moments:
            self._moments[volume] = _window(self.picture[None], volume), _window(self.picture[None].square(), volume)
        mean, square = self._moments[volume]
        own, product = _window(pictures, volume), _window(pictures * self.picture, volume)
        c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
        twice, own_squared, mean_squared = 2 * own * mean, own.square(), mean.square()
        variances = (_window(pictures.square(), volume) - own_squared) + (square - mean_squared)
        values = (twice + c1) * (2 * product - twice + c2) / ((own_squared + mean_squared + c1) * (variances + c2))
        return values.mean((1, 2, 3))

    def fsim(self, pictures: Tensor, chroma: bool = False) -> Tensor:
        """Feature similarity `(N,)` (Zhang et al., IEEE TIP 20, 2011); `chroma`: FSIMc. NaN for an all-black picture."""
        # float32 agrees with the authors' program to the same 1e-5 as float64, at half the time; one picture at a time is as
        # fast as many, and sums then do not depend on how many there are
        found = [self._fsim(p, chroma) for p in self._checked(pictures).float().split(1)]
        return torch.cat(found).double() if found else self.picture.new_zeros(0)

    def _fsim(self, picture: Tensor, chroma: bool) -> Tensor:
        self._features = self._features or features(self.picture[None].float())
        one, two = features(picture), self._features
        weight = torch.maximum(one.congruency, two.congruency)
        score = _similar(one.congruency, two.congruency, T1) * _similar(one.gradient, two.gradient, T2) * weight
        if chroma:
            colour = _similar(one.i, two.i, T3) * _similar(one.q, two.q, T4)
            # the real part of a complex power, where the product is negative
            score = score * colour.abs() ** CHROMA * torch.where(colour < 0, math.cos(math.pi * CHROMA), 1.0)
        return score.sum((1, 2)) / weight.sum((1, 2))

    def _checked(self, pictures: Tensor) -> Tensor:
        if pictures.ndim != 4 or pictures.shape[1:] != self.picture.shape:
            wanted = tuple(self.picture.shape)
            raise SimilarityError(f"pictures: expected (N, {', '.join(map(str, wanted))}), found {tuple(pictures.shape)}")
        return pictures.double()


def features(pictures: Tensor) -> Features:
    """What FSIM compares of pictures `(N, C, H, W)`, averaged down so that the shorter side has about 256 pixels."""
    factor = max(1, math.floor(min(pictures.shape[-2:]) / 256 + 0.5))
    small = avg_pool2d(pictures, factor)
    if pictures.shape[1] == 3:
        y, i, q = torch.einsum("ck,nkhw->cnhw", pictures.new_tensor(YIQ), small)
    else:
        y = small.mean(1)
        i = q = torch.zeros_like(y)
    across = y.new_tensor([[3, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16  # Scharr
    slopes = conv2d(y[:, None], torch.stack([across, across.T])[:, None], padding=1)
    return Features(phase_congruency(y), slopes.square().sum(1).sqrt(), i, q)


def phase_congruency(y: Tensor) -> Tensor:
    """Phase congruency of luminances `(N, H, W)` (Kovesi 1999, in the form of FSIM's authors), `(N, H, W)` in 0..1."""
    spectrum = torch.fft.fft2(y)
    energies, amplitudes = torch.zeros_like(y), torch.zeros_like(y)
    for bank in _filters(y.shape[-2], y.shape[-1], y.dtype, y.device):
        response = torch.view_as_real(torch.fft.ifft2(spectrum[:, None] * bank.filters))
        even, odd = response[..., 0].contiguous(), response[..., 1].contiguous()  # (N, scales, H, W): real arithmetic is faster
        amplitude = (even.square() + odd.square()).sqrt()
        total_even, total_odd = even.sum(1, keepdim=True), odd.sum(1, keepdim=True)
        length = (total_even.square() + total_odd.square()).sqrt() + torch.finfo(y.dtype).eps
        cosine, sine = total_even / length, total_odd / length  # of the mean phase
        energy = (even * cosine + odd * sine - (even * sine - odd * cosine).abs()).sum(1)
        median = amplitude[:, 0].flatten(1).median(1).values
        energies += (energy - median[:, None, None] * bank.threshold).clamp(min=0)
        amplitudes += amplitude.sum(1)
    return energies / amplitudes


class _Bank(NamedTuple):
    """Filters of one orientation `(scales, H, W)`, and its noise threshold over the median response of the finest."""

    filters: Tensor
    threshold: float


@lru_cache(maxsize=4)
def _filters(height: int, width: int, dtype: torch.dtype, device: torch.device) -> list[_Bank]:
    down, right = _frequencies(height)[:, None], _frequencies(width)
    radius = (down.square() + right.square()).sqrt()
    angle = torch.atan2(-down, right.expand_as(radius))
    low = 1 / (1 + (radius / CUTOFF) ** (2 * ORDER))
    radius[0, 0] = 1
    radial = [
        torch.exp(-((radius * SHORTEST * STEP**s).log() ** 2) / (2 * math.log(RADIAL) ** 2)) * low for s in range(SCALES)
    ]
    banks = []
    for o in range(ORIENTATIONS):
        apart = angle - o * math.pi / ORIENTATIONS
        apart = torch.atan2(apart.sin(), apart.cos())
        spread = torch.exp(-(apart**2) / (2 * (math.pi / ORIENTATIONS / ANGULAR) ** 2))
        filters = torch.stack([r * spread for r in radial])
        filters[:, 0, 0] = 0
        banks.append(_Bank(filters.to(device, dtype), _noise(filters)))
    return banks


def _frequencies(n: int) -> Tensor:
    """Cycles a pixel in the order of the FFT; odd sizes are divided by n - 1, as in FSIM's program."""
    centred = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.fft.ifftshift(centred / (n if n % 2 == 0 else n - 1))


def _noise(filters: Tensor) -> float:
    """Mean plus two deviations of the energy that noise would have (Rayleigh), for a median response of 1."""
    spatial = torch.fft.ifft2(filters).real * math.sqrt(filters[0].numel())
    products = torch.einsum("ahw,bhw->ab", spatial, spatial)
    power = 1 / math.log(2) / float(filters[0].square().sum())
    energy = power * (2 * float(products.trace()) + 4 * float(products.triu(1).sum()))
    tau = math.sqrt(energy / 2)
    return (tau * math.sqrt(math.pi / 2) + NOISE * tau * math.sqrt(2 - math.pi / 2)) / 1.7


def _similar(a: Tensor, b: Tensor, constant: float) -> Tensor:
    return (2 * a * b + constant) / (a.square() + b.square() + constant)


def _window(pictures: Tensor, volume: bool) -> Tensor:
    """Local means `(N, C, H, W)` under SSIM's Gaussian, edges replicated."""
    taps = torch.exp(-0.5 * (torch.arange(-RADIUS, RADIUS + 1, dtype=pictures.dtype) / SIGMA) ** 2)
    taps /= taps.sum()
    means = pictures
    for axis, sides in ((3, (RADIUS, RADIUS, 0, 0)), (2, (0, 0, RADIUS, RADIUS))):
        wide, size = pad(means, sides, mode="replicate"), pictures.shape[axis]
        means = wide.narrow(axis, RADIUS, size) * float(taps[RADIUS])
        for t in range(RADIUS):  # sums of shifted pictures: a third of the time of a convolution
            pair = wide.narrow(axis, t, size) + wide.narrow(axis, 2 * RADIUS - t, size)
            means.add_(pair, alpha=float(taps[t]))
    if not volume:
        return means
    channels = pictures.shape[1]
    place = (torch.arange(channels)[:, None] + torch.arange(-RADIUS, RADIUS + 1)).clamp(0, channels - 1)
    mixing = torch.zeros(channels, channels, dtype=taps.dtype).scatter_add_(1, place, taps.expand(channels, -1))
    return (mixing.to(means.device) @ means.flatten(2)).view_as(means)

"""What a map is like, whatever the truth may be: how fine, how spread, of which sign, how close to the picture's low level.

None of these says whether a map is right. Maps are `(..., H, W)`, of any sign and scale, and a positive factor changes no
answer; answers are `(...)` float64 on the processor, NaN where a map is all zero (or constant, where that is said).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, pad

from xai_lib.errors import XaiError
from xai_lib.explanation import checked_images
from xai_lib.metrics.localisation import edge_map
from xai_lib.metrics.sanity import rank_correlation


class MapError(XaiError):
    """Maps that are too small, do not fit each other, or hold NaN or infinity."""


class LowLevel(NamedTuple):
    """What can be said of each pixel without any network, each `(N, H, W)`, never negative.

    `edges`: Sobel magnitude, as `localisation.edge_map`. `variance`: of grey in a square window around the pixel.
    `saturation`: that of HSV, 0..1, (max - min) / max over the channels, 0 for black.
    """

    edges: Tensor
    variance: Tensor
    saturation: Tensor


def low_level(images: Tensor, window: int = 7) -> LowLevel:
    """Edges, local variance and saturation of images `(N, C, H, W)` in 0..1 (claim on SHAP of paper 4; formulas our choice).

    `window`: side of the square of the variance, odd, pixels; the picture's edge is replicated. Raises `MapError` and
    `ExplanationError` for images that no explainer takes.
    """
    images = checked_images(images, None).cpu()
    if window < 3 or window % 2 == 0:
        raise MapError(f"window: expected an odd number of pixels from 3, found {window}")
    grey = pad(images.double().mean(1, keepdim=True), (window // 2,) * 4, mode="replicate")
    variance = (avg_pool2d(grey.square(), window, 1) - avg_pool2d(grey, window, 1).square()).clamp(min=0)
    high, low = images.amax(1), images.amin(1)
    return LowLevel(edge_map(images), variance[:, 0].float(), torch.where(high > 0, (high - low) / high.clamp(min=1e-9), 0))


def spearman(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation of each map with `others`, pixel by pixel: `(...)`, -1..1; NaN where one is constant.

    Both `(..., H, W)`, of shapes that broadcast. Signs count: give `maps.abs()` for the strength alone.
    """
    one, two = _checked(maps), _checked(others)
    try:
        one, two = torch.broadcast_tensors(one, two)
    except RuntimeError:
        raise MapError(f"expected maps of shapes that broadcast, found {tuple(maps.shape)} and {tuple(others.shape)}") from None
    pairs = zip(*(m.reshape(-1, *one.shape[-2:]).numpy() for m in (one, two)), strict=True)
    return torch.tensor([rank_correlation(a, b) for a, b in pairs], dtype=torch.float64).view(one.shape[:-2])


def entropy(maps: Tensor) -> Tensor:
    """How evenly |map| is spread over the pixels: 0 for a single pixel, 1 for all alike.

    Shannon's entropy of the shares of |R| over its largest value, log(H*W); without that division the "complexity" of Bhatt,
    Weller, Moura 2020, arXiv 2005.00631. (`sanity.entropy` is that of a histogram of the values, another thing.)
    """
    shares = _shares(_checked(maps).flatten(-2).abs())
    return torch.special.entr(shares).sum(-1) / math.log(shares.shape[-1])


def effective_rank(maps: Tensor) -> Tensor:
    """Of how many products of a row and a column a map consists, in effect: 1 to min(H, W).

    The exponential of the entropy of the singular values' shares (Roy, Vetterli 2007, EUSIPCO). A map enlarged bilinearly
    from 7x7 has at most 7.
    """
    values = _shares(torch.linalg.svdvals(_checked(maps)))
    return torch.special.entr(values).sum(-1).exp()


def correlation_length(maps: Tensor) -> Tensor:
    """How far, in pixels, a map resembles itself: where its autocorrelation has fallen to 1/e; NaN for a constant map.

    The autocorrelation of the map less its mean, over the variance, averaged over shifts to the right and down, and linear
    between whole pixels (our choice). White noise has 1 - 1/e, noise blurred by a Gaussian of s pixels about 2s.
    """
    values = _checked(maps)
    height, width = values.shape[-2:]
    constant = values.amax((-2, -1)) == values.amin((-2, -1))
    values = values / values.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    values = values - values.mean((-2, -1), keepdim=True)
    power = torch.fft.rfft2(values, s=(2 * height, 2 * width)).abs().square()
    # zeros outside: pairs that wrap around do not exist, and the correlation ends at 0, so that every map has a length
    found = torch.fft.irfft2(power, s=(2 * height, 2 * width))
    lags = min(height, width) + 1
    curve = (found[..., 0, :lags] + found[..., :lags, 0]) / (2 * found[..., :1, 0]) - math.exp(-1)
    after = (curve <= 0).to(torch.int64).argmax(-1, keepdim=True)
    high, low = curve.gather(-1, (after - 1).clamp(min=0)), curve.gather(-1, after)
    length = (after - 1 + high / (high - low)).squeeze(-1)
    return length.masked_fill(constant, math.nan)


def sign_balance(maps: Tensor) -> Tensor:
    """Share of the positive in the whole of |map|: 1 all positive, 0 all negative, 0.5 in balance."""
    values = _checked(maps).flatten(-2)
    return _shares(values.abs()).mul(values > 0).sum(-1)


def agreement(maps: Sequence[Tensor], cells: int = 14) -> Tensor:
    """Mean of Spearman's correlations of all pairs of methods, of maps averaged to `cells` x `cells`: `(N,)`, -1..1.

    `maps`: two or more, each `(N, H, W)` of the same N images; H and W may differ. Averaged first, as otherwise a coarse and a
    fine map differ by their resolution alone (our choice). Signs count. NaN where one of the maps is constant.
    """
    if len(maps) < 2 or len({(m.ndim, len(m)) for m in maps}) > 1 or maps[0].ndim != 3:
        raise MapError(f"maps: expected two or more (N, H, W) of the same N, found {[tuple(m.shape) for m in maps]}")
    small = [adaptive_avg_pool2d(_checked(m)[:, None], cells)[:, 0] for m in maps]
    return torch.stack([spearman(a, b) for a, b in itertools.combinations(small, 2)]).mean(0)


def _shares(values: Tensor) -> Tensor:
    """Values >= 0 over their sum along the last axis; the largest first, so that no sum overflows or vanishes; 0/0 is NaN."""
    values = values / values.amax(-1, keepdim=True)
    return values / values.sum(-1, keepdim=True)


def _checked(maps: Tensor) -> Tensor:
    if not isinstance(maps, Tensor) or maps.ndim < 2 or 0 in maps.shape or maps.shape[-2] * maps.shape[-1] < 2:
        found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise MapError(f"maps: expected a tensor (..., H, W) of two pixels or more, found {found}")
    values = maps.detach().cpu().double()
    if not bool(values.isfinite().all()):
        raise MapError("maps: expected finite values, found NaN or infinity; leave such maps out and count them")
    return values

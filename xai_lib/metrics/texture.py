"""Is it texture or shape that a map lives on? Pictures without the one or the other, and what relevance is left in them.

A blur takes the texture and leaves the shape; patches in another order keep the texture and lose the shape (as in Brendel,
Bethge 2019, arXiv 1904.00760, and Geirhos et al. 2019, arXiv 1811.12231). Both also leave the photographs that the network
has learnt, so put what is left of its score beside what is left of the relevance.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from xai_lib.errors import XaiError


class TextureError(XaiError):
    """A blur or patches that a picture of this size cannot have, or maps that do not fit each other."""


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images `(N, C, H, W)` under a Gaussian of `sigma` pixels, cut off at three, edges reflected; float, alike."""
    from torchvision.transforms.functional import gaussian_blur

    reach = math.ceil(3 * sigma) if sigma > 0 else 0
    if images.ndim != 4 or not 0 < reach < min(images.shape[-2:]):
        raise TextureError(f"blurred: expected (N, C, H, W) and 0 < 3 sigma < H, W; found {tuple(images.shape)}, sigma={sigma}")
    return gaussian_blur(images, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])


def patch_orders(n: int, cells: int = 4, seed: int = 0) -> Tensor:
    """For each of `n` images an order of its `cells` x `cells` patches at random, `(N, cells²)` int64, for `patch_shuffled`."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.permutation(cells**2) for _ in range(n)]))


def patch_shuffled(images: Tensor, orders: Tensor) -> Tensor:
    """Images (or maps) `(N, C, H, W)` whose patches have changed places: place k shows patch `orders[n, k]`, row by row.

    `orders` `(N, cells²)`; `cells` must divide H and W. `patch_shuffled(shuffled, orders.argsort(1))` puts all back, so that
    the map of a shuffled picture can be laid on that of the picture.
    """
    cells = math.isqrt(orders.shape[-1])
    if images.ndim != 4 or orders.shape != (len(images), cells**2) or any(side % cells for side in images.shape[-2:]):
        raise TextureError(
            f"expected images (N, C, H, W) and orders (N, cells²) with cells dividing H and W; found {tuple(images.shape)} "
            f"and {tuple(orders.shape)}"
        )
    n, c, h, w = images.shape
    patches = images.view(n, c, cells, h // cells, cells, w // cells).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = patches[torch.arange(n)[:, None], orders.to(images.device)]
    return moved.unflatten(1, (cells, cells)).permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


def relevance_kept(before: Tensor, after: Tensor, cells: int = 14) -> Tensor:
    """Share of the positive relevance of `before` that `after` has at the same places: `(N,)` float64, 0..1.

    Sum of min(R, R') over sum of R, of the positive parts averaged over `cells` x `cells` (our choice). Maps `(N, H, W)` for
    the same target, not rescaled, as amount and place both count; what is gained elsewhere does not. NaN where nothing of
    `before` is positive.
    """
    if before.ndim != 3 or before.shape != after.shape:
        raise TextureError(f"expected two sets of maps (N, H, W), found {tuple(before.shape)} and {tuple(after.shape)}")
    if not bool(before.isfinite().all() and after.isfinite().all()):
        raise TextureError("maps: expected finite values, found NaN or infinity; leave such maps out and count them")
    one, two = (adaptive_avg_pool2d(m.detach().cpu().double().clamp(min=0), cells).flatten(1) for m in (before, after))
    return torch.minimum(one, two).sum(1) / one.sum(1)

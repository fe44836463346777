"""Does a map point at what it should? Measures against a true mask, and maps that know nothing of the network as controls.

Pointing game: Zhang et al. 2018, "Top-down neural attention by excitation backprop", IJCV 126. Relevance mass and rank
accuracy: Arras, Osman, Samek 2022, "CLEVR-XAI", Information Fusion 81, arXiv 2003.07258. What no knowledge of the picture
would get is `chance`, the mask's share of the area: say it beside every number. A central mask is found by a map that is
always bright in the middle, so the controls belong beside them, too.

Maps are `(..., H, W)`, of any sign and scale; masks are bool `(H, W)` or with leading axes that broadcast against those of
the maps. Answers are float64 on the processor. A mask without a pixel raises `LocalisationError`: where nothing is to be
found, as in a healthy brain, the question makes no sense, and a NaN in its place would silently thin out a mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from xai_lib.errors import XaiError
from xai_lib.explanation import checked_images, rng_for


class LocalisationError(XaiError):
    """Maps or masks that do not fit each other, hold NaN or infinity, or a mask in which there is nothing to find."""


class Regions(NamedTuple):
    """Shares of the positive relevance, each `(...)` float64; they sum to 1, or all are NaN where nothing is positive."""

    inside: Tensor
    ring: Tensor
    outside: Tensor


# ---------------------------------------------------------------------------------------------------------------------
# Measures


def pointing_game(maps: Tensor, mask: Tensor) -> Tensor:
    """Whether the largest value lies in the mask: `(...)`, 0 or 1.

    Of pixels that share the largest value, the share that lies in the mask: what picking one at random hits on average
    (our choice). A constant map scores its chance. Zhang et al. count a hit up to 15 pixels outside as well: give
    `mask | ring(mask, 15)` for that. Raises `LocalisationError`.
    """
    values, inside = _checked(maps, mask)
    best = values == values.amax(-1, keepdim=True)
    return (best & inside).sum(-1).double() / best.sum(-1)


def relevance_mass_accuracy(maps: Tensor, mask: Tensor) -> Tensor:
    """Positive relevance in the mask over all positive relevance: `(...)`, 0..1 (Arras et al., eq. for mass accuracy).

    NaN for a map without a positive value, which has no mass to share: count those. Negative relevance takes no part; give
    `-maps` to ask where that lies, `maps.abs()` for both. Raises `LocalisationError`.
    """
    values, inside = _checked(maps, mask)
    return _mass(values, inside)


def relevance_rank_accuracy(maps: Tensor, mask: Tensor) -> Tensor:
    """Share of the |m| pixels of most relevance that lie in the mask of |m| pixels: `(...)`, 0..1 (Arras et al.).

    Where the last places are tied, the expected value over all orders of the tied pixels (our choice; a sort's order would
    favour the top left or the bottom right corner). A constant map scores its chance. Raises `LocalisationError`.
    """
    values, inside = _checked(maps, mask)
    count = inside.sum(-1, keepdim=True)
    last = values.sort(-1, descending=True).values.gather(-1, count - 1)
    above, tied = values > last, values == last
    places = count - above.sum(-1, keepdim=True)
    share = (tied & inside).sum(-1, keepdim=True).double() / tied.sum(-1, keepdim=True)
    return (((above & inside).sum(-1, keepdim=True) + places * share) / count).squeeze(-1)


def mass_by_region(maps: Tensor, mask: Tensor, width: float) -> Regions:
    """Shares of positive relevance in the mask, in a ring of `width` pixels around it, and farther out.

    The areas of the three, for comparison, are `chance(mask)`, `chance(ring(mask, width))` and the rest. A ring leaves out
    what lies outside the picture. NaN and errors as in `relevance_mass_accuracy`.
    """
    values, inside = _checked(maps, mask)
    around = ring(mask, width).flatten(-2).expand(inside.shape)
    shares = _mass(values, inside), _mass(values, around)
    return Regions(*shares, _mass(values, ~(inside | around)))


def chance(mask: Tensor) -> Tensor:
    """The share of a mask `(..., H, W)` in the picture, `(...)` float64, 0..1.

    The expected pointing game and rank accuracy of a random map, and the mass accuracy of a constant positive one.
    """
    return _checked_mask(mask, may_be_empty=True).double().mean((-2, -1))


def ring(mask: Tensor, width: float) -> Tensor:
    """Pixels outside a mask `(..., H, W)` whose centre is at most `width` pixels from that of one inside: bool, alike."""
    from scipy.ndimage import distance_transform_edt

    mask = _checked_mask(mask)
    if not width > 0:
        raise LocalisationError(f"width: expected a number of pixels above 0, found {width}")
    pictures = mask.reshape(-1, *mask.shape[-2:]).numpy()
    distance = torch.from_numpy(np.stack([distance_transform_edt(~picture) for picture in pictures])).view(mask.shape)
    return (distance > 0) & (distance <= width)


# ---------------------------------------------------------------------------------------------------------------------
# Controls: maps that never ask the network


def centre_gaussian(images: Tensor, sigma: float = 0.25) -> Tensor:
    """A bell in the middle of each picture, `(N, H, W)` float32, at most 1; `sigma` in shares of height and of width.

    `images` `(N, 3, H, W)` as an explainer takes them; their shape alone counts. Raises `LocalisationError`.
    """
    images = checked_images(images, None)
    if not sigma > 0:
        raise LocalisationError(f"sigma: expected a share of the sides above 0, found {sigma}")
    down, across = (((torch.arange(n) + 0.5) / n - 0.5) / sigma for n in images.shape[-2:])
    bell = torch.exp(-0.5 * (down[:, None] ** 2 + across**2))
    return bell.expand(len(images), -1, -1).clone()


def edge_map(images: Tensor) -> Tensor:
    """Magnitude of the Sobel gradient of the mean over the channels, `(N, H, W)` float32, edges replicated.

    Its scale is that of the kernel with weights 1, 2, 1: a step from 0 to 1 gives 4.
    """
    grey = pad(checked_images(images, None).cpu().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    found = conv2d(grey, torch.stack([across, across.T])[:, None])
    return found.square().sum(1).sqrt()


def random_map(images: Tensor, seed: int = 0) -> Tensor:
    """Values drawn from 0..1, `(N, H, W)` float32; each map depends on `seed` and its picture alone."""
    shape = tuple(images.shape[-2:])
    return torch.stack([torch.from_numpy(rng_for(seed, i, 0).random(shape, np.float32)) for i in checked_images(images, None)])


# ---------------------------------------------------------------------------------------------------------------------


def _mass(values: Tensor, region: Tensor) -> Tensor:
    positive = values.clamp(min=0)
    # divided by the largest first: sums of large values would overflow, of small ones vanish; 0/0 is NaN, as promised
    positive = positive / positive.amax(-1, keepdim=True)
    return (positive * region).sum(-1) / positive.sum(-1)


def _checked(maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Maps as float64 and masks as bool, both `(..., H*W)` of one shape."""
    mask = _checked_mask(mask)
    if not isinstance(maps, Tensor) or maps.ndim < 2 or maps.shape[-2:] != mask.shape[-2:]:
        found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise LocalisationError(f"maps: expected (..., {mask.shape[-2]}, {mask.shape[-1]}), as the mask, found {found}")
    values = maps.detach().cpu().double()
    if not bool(values.isfinite().all()):
        raise LocalisationError("maps: expected finite values, found NaN or infinity; leave such maps out and count them")
    try:
        values, mask = torch.broadcast_tensors(values, mask)
    except RuntimeError:
        raise LocalisationError(
            f"masks {tuple(mask.shape)} and maps {tuple(maps.shape)} do not fit: expected one mask, or one a map"
        ) from None
    return values.flatten(-2), mask.flatten(-2)


def _checked_mask(mask: Tensor, may_be_empty: bool = False) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim < 2 or 0 in mask.shape:
        found = f"{tuple(mask.shape)} {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise LocalisationError(f"mask: expected a bool tensor (H, W) or (..., H, W), found {found}")
    mask = mask.detach().cpu()
    full = mask.flatten(-2).any(-1)
    if not may_be_empty and not bool(full.all()):
        rows = (~full).nonzero().tolist() if full.ndim else []
        raise LocalisationError(
            f"mask{f' {rows[:5]}' if rows else ''}: no pixel is marked, so that there is nothing to find; leave such pictures out"
        )
    return mask

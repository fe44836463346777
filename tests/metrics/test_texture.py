"""Pictures without texture or shape, and what relevance is left: scipy's filter, plain loops, cases by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import Tensor

from xai_lib.metrics.texture import TextureError, blurred, patch_orders, patch_shuffled, relevance_kept


@pytest.fixture
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((3, 3, 24, 32), np.float32))


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_blur_is_a_gaussian(images: Tensor, sigma: float) -> None:
    reach = math.ceil(3 * sigma)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    wanted = images.double().numpy()
    for axis in (2, 3):
        wanted = correlate1d(wanted, taps / taps.sum(), axis, mode="mirror")
    assert np.allclose(blurred(images, sigma), wanted, atol=1e-6)
    assert torch.allclose(blurred(torch.full((1, 3, 20, 20), 0.4), 2), torch.tensor(0.4))


def test_shuffled_patches_are_where_the_order_says(images: Tensor) -> None:
    orders = patch_orders(3, 4, seed=1)
    found = patch_shuffled(images, orders)
    for n, k in np.ndindex(3, 16):
        (to_y, to_x), (y, x) = (divmod(int(place), 4) for place in (k, orders[n, k]))
        here = found[n, :, 6 * to_y : 6 * to_y + 6, 8 * to_x : 8 * to_x + 8]
        assert torch.equal(here, images[n, :, 6 * y : 6 * y + 6, 8 * x : 8 * x + 8])
    assert torch.equal(patch_shuffled(found, orders.argsort(1)), images)
    assert torch.equal(patch_shuffled(images, torch.arange(16).expand(3, -1)), images)
    maps = images[:, :1]
    assert torch.equal(patch_shuffled(maps, orders), found[:, :1])


def test_orders_are_permutations_that_repeat_themselves() -> None:
    before = np.random.get_state()[1].tobytes()  # type: ignore[index,union-attr]
    orders = patch_orders(5, 3, seed=2)
    assert orders.sort(1).values.tolist() == [[*range(9)]] * 5
    assert torch.equal(orders, patch_orders(5, 3, seed=2)) and not torch.equal(orders, patch_orders(5, 3, seed=3))
    assert torch.equal(orders[:2], patch_orders(2, 3, seed=2)) and len({tuple(o) for o in orders.tolist()}) == 5
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[index,union-attr]


def test_relevance_kept_by_hand() -> None:
    before = torch.tensor([[[4.0, 2], [0, -5]]])
    for after, kept in (
        ([[4.0, 2], [0, 9]], 1), ([[2.0, 1], [0, 0]], 0.5), ([[0.0, 0], [8, 8]], 0), ([[8.0, -2], [0, 0]], 4 / 6),
    ):  # fmt: skip
        assert relevance_kept(before, torch.tensor([after]), cells=2) == pytest.approx(kept)
    moved = torch.tensor([[[0.0, 4], [2, 0]]])
    assert relevance_kept(before, moved, cells=2) == pytest.approx(2 / 6) and relevance_kept(before, moved, cells=1) == 1
    assert relevance_kept(-before.abs(), before).isnan()


@pytest.mark.parametrize("factor", [1e-20, 7.0, 1e20])
def test_a_common_factor_does_not_matter(images: Tensor, factor: float) -> None:
    one, two = images[:, 0].double(), images[:, 1].double()
    assert torch.allclose(relevance_kept(factor * one, factor * two), relevance_kept(one, two))


def test_what_does_not_fit_is_refused(images: Tensor) -> None:
    for sigma in (0.0, -1.0, 20.0):
        with pytest.raises(TextureError, match=f"found \\(3, 3, 24, 32\\), sigma={sigma}"):
            blurred(images, sigma)
    for orders in (patch_orders(3, 5), patch_orders(2, 4), torch.zeros(3, 15)):
        with pytest.raises(TextureError, match=r"cells dividing H and W; found \(3, 3, 24, 32\)"):
            patch_shuffled(images, orders)
    with pytest.raises(TextureError, match=r"two sets of maps \(N, H, W\)"):
        relevance_kept(images[:, 0], images[:2, 0])
    with pytest.raises(TextureError, match="NaN or infinity"):
        relevance_kept(images[:, 0], images[:, 1] * math.nan)

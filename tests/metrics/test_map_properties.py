"""What maps are like: cases by hand, plain loops, quantus's and scikit-image's numbers, and what must not change an answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import quantus
import torch
from scipy.stats import rankdata
from skimage.color import rgb2hsv
from torch import Tensor
from torch.nn.functional import interpolate

from xai_lib.explanation import ExplanationError
from xai_lib.metrics import map_properties
from xai_lib.metrics.map_properties import MapError, agreement, low_level, spearman

MEASURES: list[Callable[[Tensor], Tensor]] = [
    map_properties.entropy, map_properties.effective_rank, map_properties.correlation_length, map_properties.sign_balance,
]  # fmt: skip


@pytest.fixture
def maps() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((3, 11, 14)))


def smooth(seed: int, size: int, sigma: float) -> Tensor:
    """White noise under a Gaussian, on a torus, so that the statistics are the same everywhere."""
    frequency = torch.fft.fftfreq(size, dtype=torch.float64)
    power = torch.exp(-2 * (math.pi * sigma) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((size, size)))
    return torch.fft.ifft2(torch.fft.fft2(noise) * power).real


def test_low_level_by_hand_and_by_loops() -> None:
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.random((2, 3, 9, 8), np.float32))
    images[0, :, 2, 3] = 0
    _, variance, saturation = low_level(images, window=5)
    hsv = np.stack([rgb2hsv(i.permute(1, 2, 0).numpy()) for i in images])
    assert np.allclose(saturation, hsv[..., 1], atol=1e-6)
    grey = np.pad(images.double().mean(1).numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge")
    for n, y, x in np.ndindex(2, 9, 8):
        assert float(variance[n, y, x]) == pytest.approx(grey[n, y : y + 5, x : x + 5].var(), abs=1e-6)
    step = torch.zeros(1, 3, 6, 6)
    step[..., 3:] = 1
    assert low_level(step).edges[0, 3].tolist() == [0, 0, 4, 4, 0, 0]
    assert not any(part.any() for part in low_level(torch.full((1, 3, 6, 6), 0.3)))


def test_spearman_is_pearsons_of_ranks(maps: Tensor) -> None:
    other = maps.flip(0).round()  # with ties
    pairs = zip(maps.flatten(1).numpy(), other.flatten(1).numpy(), strict=True)
    wanted = [np.corrcoef(rankdata(a), rankdata(b))[0, 1] for a, b in pairs]
    assert np.allclose(spearman(maps, other), wanted)
    assert torch.allclose(spearman(maps, maps.exp()), torch.ones(3, dtype=torch.float64))
    assert spearman(maps[0], maps[0].neg()) == pytest.approx(-1) and spearman(maps[0], torch.ones(11, 14)).isnan()
    assert spearman(maps.view(3, 1, 11, 14), maps).shape == (3, 3)


def test_entropy_by_hand_and_of_quantus(maps: Tensor) -> None:
    one = torch.zeros(4, 5)
    one[1, 2] = -3
    assert map_properties.entropy(one) == 0
    assert map_properties.entropy(torch.ones(4, 5)) == pytest.approx(1)
    assert map_properties.entropy(torch.tensor([[1.0, -1], [2, 0]])) == pytest.approx(1.5 * math.log(2) / math.log(4))
    metric = quantus.Complexity(disable_warnings=True, display_progressbar=False)
    theirs = metric.evaluate_batch(x_batch=maps.numpy(), a_batch=maps.abs().numpy())
    assert np.allclose(map_properties.entropy(maps) * math.log(11 * 14), theirs)


def test_effective_rank_by_hand(maps: Tensor) -> None:
    column, row = torch.rand(6, 1, generator=torch.Generator().manual_seed(0)), torch.arange(1.0, 9)
    assert map_properties.effective_rank(column * row) == pytest.approx(1, abs=1e-5)
    assert map_properties.effective_rank(torch.eye(6)) == pytest.approx(6)
    shares = np.linalg.svd(maps[0].numpy())[1]
    shares /= shares.sum()
    assert map_properties.effective_rank(maps[0]) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    coarse = interpolate(torch.randn(1, 1, 7, 7, generator=torch.Generator().manual_seed(0)), (56, 56), mode="bilinear")
    assert map_properties.effective_rank(coarse)[0, 0] < 7 + 1e-4


def slow_length(values: np.ndarray) -> float:
    centred, before = values - values.mean(), 1.0
    for lag in range(1, min(values.shape) + 1):
        right, down = centred[:, lag:] * centred[:, :-lag], centred[lag:] * centred[:-lag]
        now = (right.sum() + down.sum()) / (2 * (centred**2).sum())
        if now <= math.exp(-1):
            return lag - 1 + (before - math.exp(-1)) / (before - now)
        before = now
    raise AssertionError


def test_correlation_length_by_loops_and_of_known_noise(maps: Tensor) -> None:
    blocks = maps.repeat_interleave(4, -1).repeat_interleave(4, -2)
    for m in (*maps, *blocks, smooth(0, 20, 2), torch.arange(30.0).expand(12, -1)):
        assert float(map_properties.correlation_length(m)) == pytest.approx(slow_length(m.double().numpy()), abs=1e-9)
    white = torch.from_numpy(np.random.default_rng(2).standard_normal((200, 200)))
    assert map_properties.correlation_length(white) == pytest.approx(1 - 1 / math.e, abs=0.02)
    for sigma in (2, 4):  # the correlation of two pixels d apart is exp(-(d / 2 sigma)²)
        assert map_properties.correlation_length(smooth(3, 400, sigma)) == pytest.approx(2 * sigma, rel=0.08)


def test_sign_balance_by_hand() -> None:
    assert map_properties.sign_balance(torch.tensor([[3.0, -1], [0, 0]])) == 0.75
    assert map_properties.sign_balance(torch.tensor([[1.0, 0], [0, 2]])) == 1
    assert map_properties.sign_balance(torch.tensor([[-1.0, 0], [0, -2]])) == 0


def test_agreement_is_the_mean_over_pairs_of_averaged_maps(maps: Tensor) -> None:
    fine, coarse, third = smooth(0, 28, 3)[None], smooth(1, 14, 2)[None], smooth(2, 56, 4)[None]
    small = [m.view(14, k, 14, k).mean((1, 3)) for m, k in ((fine[0], 2), (coarse[0], 1), (third[0], 4))]
    wanted = np.mean([float(spearman(small[i], small[j])) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert float(agreement([fine, coarse, third])) == pytest.approx(wanted)
    assert torch.allclose(agreement([maps, 9 * maps.flip(0)], 5), agreement([maps, maps.flip(0)], 5))
    assert agreement([maps, maps.exp()], 14).shape == (3,)
    assert agreement([fine, 5 * fine]) == pytest.approx(1) and agreement([fine, -fine]) == pytest.approx(-1)
    assert agreement([fine, torch.ones_like(fine)]).isnan()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_scale_and_company_do_not_matter(measure: Callable[[Tensor], Tensor], factor: float, maps: Tensor) -> None:
    found = measure(maps)
    assert found.shape == (3,) and found.dtype == torch.float64
    assert torch.allclose(measure(factor * maps), found, rtol=1e-6)
    assert torch.allclose(torch.stack([measure(m) for m in maps]), found)
    assert measure(maps.view(1, 3, 11, 14)).shape == (1, 3)
    assert measure(torch.zeros(5, 6)).isnan()


def test_constant_maps() -> None:
    flat = torch.full((5, 6), -0.1)
    assert map_properties.correlation_length(flat).isnan()
    assert map_properties.entropy(flat) == pytest.approx(1) and map_properties.effective_rank(flat) == pytest.approx(1)


def test_what_cannot_be_measured_is_refused(maps: Tensor) -> None:
    for measure in MEASURES:
        with pytest.raises(MapError, match=r"maps: expected a tensor \(..., H, W\) of two pixels or more, found \(5,\)"):
            measure(torch.ones(5))
        with pytest.raises(MapError, match="found NaN or infinity"):
            measure(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(MapError, match=r"found \(3, 11, 14\) and \(11, 13\)"):
        spearman(maps, torch.ones(11, 13))
    with pytest.raises(MapError, match=r"two or more \(N, H, W\)"):
        agreement([maps])
    with pytest.raises(MapError, match=r"two or more \(N, H, W\) of the same N, found \[\(3, 11, 14\), \(2, 11, 14\)\]"):
        agreement([maps, maps[:2]])
    with pytest.raises(MapError, match="window: expected an odd number of pixels from 3, found 4"):
        low_level(torch.zeros(1, 3, 8, 8), 4)
    with pytest.raises(ExplanationError, match="images"):
        low_level(torch.zeros(3, 8, 8))

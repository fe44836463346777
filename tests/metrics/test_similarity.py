"""MSE, SSIM and FSIM against the authors' FSIM, piq, scikit-image and slow second implementations."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import piq
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity
from torch import Tensor

from xai_lib import images
from xai_lib.images import View
from xai_lib.metrics.similarity import Reference, SimilarityError, features

ORACLE = Path(os.environ.get("XAI_DATA_HOME", "absent")).parent / "oracles" / "advise_fsim.npz"


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    one, two = images.load("photos").select(["chelsea", "coffee"]).batch(View(96, 110))
    return (one * 255).round(), (two * 255).round()


@pytest.mark.skipif(not ORACLE.is_file(), reason="the authors' results (oracles/advise_fsim.npz) are not beside XAI_DATA_HOME")
def test_the_authors_fsim_gives_the_same() -> None:
    oracle = np.load(ORACLE)
    for i, name in enumerate(oracle["name"]):
        changed = torch.from_numpy(oracle[f"image_{i:02d}"]).permute(2, 0, 1)
        reference = Reference(torch.from_numpy(oracle[f"reference_{name.split(':')[0]}"]).permute(2, 0, 1))
        for key, chroma in (("FSIM", False), ("FSIMc", True)):
            found = float(reference.fsim(changed[None], chroma))
            # the oracle has six digits; beyond that, the median of an even number of values is another in torch
            assert np.isnan(found) == np.isnan(oracle[key][i]) and (np.isnan(found) or abs(found - oracle[key][i]) < 3e-5), name


@pytest.mark.parametrize("size", [(96, 96), (96, 81), (75, 96), (60, 61)])
def test_piq_gives_the_same_fsim(pair: tuple[Tensor, Tensor], size: tuple[int, int]) -> None:
    one, two = (p[:, : size[0], : size[1]] for p in pair)
    mixed = torch.stack([one * 0.7 + two * 0.3, one * (torch.arange(size[1]) > 30)]).round()
    for chroma in (False, True):
        wanted = piq.fsim(mixed.double(), one.expand_as(mixed).double(), "none", data_range=255, chromatic=chroma)
        # piq takes |x| ** .03 where the authors' power is complex, which shows nowhere but for a negative product
        assert torch.allclose(Reference(one).fsim(mixed, chroma), wanted, rtol=0, atol=5e-5)


def slow_ssim(a: np.ndarray, b: np.ndarray, volume: bool) -> float:
    """Formula 13 of arrays (H, W, 3), each moment by one-dimensional correlations along the axes."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def mean(x: np.ndarray) -> np.ndarray:
        for axis in (0, 1, 2)[: 3 if volume else 2]:
            x = correlate1d(x, taps, axis, mode="nearest")
        return x

    c1, c2 = 2.55**2, 7.65**2
    ma, mb = mean(a), mean(b)
    va, vb, ab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return float(((2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())


@pytest.mark.parametrize("volume", [False, True])
def test_ssim_is_its_formula(pair: tuple[Tensor, Tensor], volume: bool) -> None:
    one, two = pair
    wanted = slow_ssim(one.permute(1, 2, 0).double().numpy(), two.permute(1, 2, 0).double().numpy(), volume)
    assert float(Reference(two).ssim(one[None], volume)) == pytest.approx(wanted, rel=1e-9)


def test_ssim_inside_the_edges_is_that_of_scikit_image_and_piq(pair: tuple[Tensor, Tensor]) -> None:
    one, two = pair
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "channel_axis": 0}
    theirs = structural_similarity(one.double().numpy(), two.double().numpy(), **options)
    assert float(Reference(two).ssim(one[None])) == pytest.approx(theirs, abs=0.02)  # it crops the edges
    assert float(piq.ssim(one[None], two[None], data_range=255.0, downsample=False)) == pytest.approx(theirs, abs=1e-4)


def test_known_values(pair: tuple[Tensor, Tensor]) -> None:
    one, _ = pair
    reference = Reference(one)
    same = one[None]
    assert float(reference.mse(same)) == 0
    assert float(reference.ssim(same)) == float(reference.ssim(same, True)) == 1
    assert float(reference.fsim(same)) == pytest.approx(1, abs=1e-12) == float(reference.fsim(same, True))
    assert float(reference.mse(255 - torch.zeros_like(same))) == pytest.approx(float(((255 - one) / 255).square().mean()))
    assert torch.isnan(reference.fsim(torch.zeros_like(same))).all()
    grey = Reference(torch.full((3, 64, 64), 100.0))
    assert float(grey.mse(torch.full((1, 3, 64, 64), 151.0))) == pytest.approx(0.04)


def test_company_does_not_matter_and_large_pictures_are_averaged_down(pair: tuple[Tensor, Tensor]) -> None:
    one, two = pair
    many = torch.stack([one.flip(2), two, one])
    alone = [Reference(one).fsim(p[None], True) for p in many]
    assert torch.equal(Reference(one).fsim(many, True), torch.cat(alone))
    assert features(torch.rand(1, 3, 400, 500).double()).congruency.shape == (1, 200, 250)
    assert features(torch.rand(1, 3, 380, 500).double()).congruency.shape == (1, 380, 500)


def test_other_shapes_are_refused(pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(SimilarityError, match=r"a reference: expected a picture \(C, H, W\), found \(1, 3, 96, 96\)"):
        Reference(pair[0][None])
    with pytest.raises(SimilarityError, match=r"pictures: expected \(N, 3, 96, 96\), found \(3, 96, 96\)"):
        Reference(pair[0]).mse(pair[1])

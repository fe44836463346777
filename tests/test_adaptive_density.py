"""The adaptive density against the authors' own function, a slow second implementation, a second package, and by hand."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.slow_density import slow_density
from xai_lib import stiffness
from xai_lib.adaptive_density import Density, DensityError, adaptive_kde, count_peaks

ORACLE = Path(os.environ.get("XAI_DATA_HOME", "absent")).parent / "oracles" / "advise_kde.npz"


@pytest.mark.skipif(not ORACLE.is_file(), reason="the authors' results (oracles/advise_kde.npz) are not beside XAI_DATA_HOME")
@pytest.mark.parametrize("z", [49, 100, 169, 196])
def test_the_authors_function_gives_the_same(z: int) -> None:
    oracle = np.load(ORACLE)
    found = adaptive_kde(torch.from_numpy(oracle[f"x_{z}"]))
    settled, wanted = oracle[f"settled_{z}"], oracle[f"density_{z}"]
    assert found.density.dtype == torch.float64 and np.allclose(found.grid, oracle[f"grid_{z}"], atol=1e-15)
    peaks = count_peaks(found.density).numpy()
    assert (peaks == oracle[f"peaks_{z}"])[settled].all()
    known = settled & ~np.isnan(wanted).any(1)
    error = np.abs(found.density.numpy() - wanted).max(1, where=known[:, None], initial=0)[known] / wanted[known].max(1)
    assert (error < 1e-12).mean() >= 0.98  # one unit a Z has a tie that rounding decides
    assert np.isnan(found.density.numpy()).any(1)[settled].tolist() == np.isnan(wanted).any(1)[settled].tolist()
    width = np.abs(found.bandwidth.numpy() - oracle[f"bandwidth_{z}"])[known][error < 1e-12]
    assert np.nanmax(width) < 1e-12


def units(kind: str, rng: np.random.Generator) -> np.ndarray:
    z = int(rng.choice([12, 25, 49, 64]))
    x = rng.random(z)
    if kind == "sparse":  # as behind a ReLU
        x[rng.random(z) < 0.7] = 0
    elif kind == "clumped":
        x = np.clip(rng.normal(rng.choice([0.2, 0.5, 0.7], z), 0.03), 0, 1)
    elif kind == "outside":
        x = x * 3 - 1
    elif kind == "coarse":
        x = np.where(rng.random(z) < 0.8, 0, rng.choice([0.11, 0.37, 0.52, 0.93], z))
    return x


@pytest.mark.parametrize("kind", ["uniform", "sparse", "clumped", "outside", "coarse"])
def test_a_slow_second_implementation_gives_the_same(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    for x in (units(kind, rng) for _ in range(6)):
        wanted = slow_density(x)
        found = adaptive_kde(torch.from_numpy(x[None]))
        assert wanted is not None
        np.testing.assert_allclose(found.density[0], wanted[0], rtol=0, atol=1e-11 * wanted[0].max())
        np.testing.assert_allclose(found.bandwidth[0], wanted[1], rtol=1e-11)


def test_the_package_adaptivekde_gives_the_same_where_the_two_agree() -> None:
    """Where the data span exactly 1 and end below the last half cell: there its four differences do not matter."""
    from adaptivekde import ssvkernel

    rng = np.random.default_rng(0)
    for z in (49, 60):
        x = np.concatenate([[-0.05, 0.95], rng.random(z - 2) * 0.94])
        grid = np.linspace(0, 1, z)
        y, _, w, *_ = ssvkernel(x, grid, M=10, nbs=1, WinFunc="Gauss")
        found = adaptive_kde(torch.from_numpy(x[None]))
        np.testing.assert_allclose(found.density[0], y, rtol=0, atol=1e-12 * y.max())
        np.testing.assert_allclose(found.bandwidth[0], w, rtol=1e-9)


def mixed_units() -> torch.Tensor:
    """Dense ones, sparse ones, ones on coarse grids, and every tenth twice."""
    x = torch.rand(60, 49, generator=torch.Generator().manual_seed(1))
    x[::3] = torch.where(x[::3] < 0.9, 0, x[::3])
    x[1::6] = (x[1::6] * torch.linspace(2, 9, 10)[:, None]).round() / 10
    return torch.cat([x, x[::10]])


def same(one: Density, two: Density, rtol: float = 1e-12) -> bool:
    equal = torch.allclose(one.density, two.density, rtol=rtol, atol=0, equal_nan=True)
    return equal and torch.allclose(one.bandwidth, two.bandwidth, rtol=rtol, atol=0, equal_nan=True)


def test_chunks_order_and_company_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = mixed_units()
    together, turned = adaptive_kde(x), adaptive_kde(x.flip(0))
    assert same(together, Density(turned.density.flip(0), turned.bandwidth.flip(0), turned.grid))
    alone = [adaptive_kde(row[None]) for row in x]
    density, bandwidth = (torch.cat([getattr(a, name) for a in alone]) for name in ("density", "bandwidth"))
    assert same(together, Density(density, bandwidth, together.grid))
    for limit in ("CHUNK", "EXPONENTIALS", "SMOOTHED", "TABLE"):
        monkeypatch.setattr(stiffness, limit, 5_000)
        assert same(together, adaptive_kde(x)), limit


def test_both_ways_to_sum_gaussians_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for z in (48, 49, 100):  # the middle of an odd grid belongs to both halves
        x = torch.rand(8, z, dtype=torch.float64, generator=torch.Generator().manual_seed(z))
        found = []
        for few in (True, False):
            monkeypatch.setattr(stiffness, "_few", lambda cells, points, few=few: (cells >= 0) == few)
            found.append(adaptive_kde(x))
        assert same(*found, rtol=1e-9) and not torch.equal(found[0].density, found[1].density)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), min_size=1, max_size=80))
def test_every_unit_with_a_density_is_in_one_chunk(units: list[tuple[int, int]]) -> None:
    points, cells = (torch.tensor(values) for values in zip(*((n, min(n, j)) for n, j in units), strict=True))
    found = stiffness.chunks(points, cells, 10)
    assert sorted(torch.cat([*found, points[:0]]).tolist()) == (points > 1).nonzero()[:, 0].tolist()
    for rows in found:
        n = points[rows]
        assert n.amax() <= 2 * n.amin() + 32 and len({bool(v) for v in n <= stiffness.TIES}) == 1
        assert len(rows) == 1 or 20 * int(n.unique().sum() * n.amax()) <= stiffness.TABLE


def test_degenerate_units_raise_nothing() -> None:
    z, nan, inf = 25, torch.nan, torch.inf
    rows = [[0.0] * z, [1.0] * z, [0.5] * z, [nan] * z, [inf] * z, [0.3] + [nan] * (z - 1), [2.0] * z, [0.0] * (z - 1) + [1.0]]
    found = adaptive_kde(torch.tensor(rows))
    empty = found.density.isnan().any(1).tolist()
    assert empty == [False, True, False, True, True, True, True, True]
    assert count_peaks(found.density).tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert adaptive_kde(torch.zeros(0, 9)).density.shape == (0, 9)
    assert adaptive_kde(torch.zeros(3, 1)).density.isnan().all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=30), st.integers(2, 12))
def test_a_density_is_positive_and_sums_to_one_on_its_own_grid(values: list[float], bandwidths: int) -> None:
    x = torch.tensor([values], dtype=torch.float64)
    found = adaptive_kde(x, n_bandwidths=bandwidths)
    if not found.density.isnan().any():
        assert (found.density >= 0).all() and (found.bandwidth > 0).all()
        # after interpolation from a coarser grid the sum is near one only
        total = float(found.density.sum() * (found.grid[1] - found.grid[0]))
        assert 0.4 < total < 1.6


def test_another_grid_moves_and_stretches_the_density() -> None:
    x = torch.rand(4, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 0.98
    plain = adaptive_kde(x)
    grid = torch.linspace(0, 1, 49, dtype=torch.float64)
    assert torch.equal(adaptive_kde(x, grid=grid).density, plain.density)
    moved = adaptive_kde(x + 3, grid=grid + 3)
    assert torch.allclose(moved.density, plain.density, rtol=1e-6)
    finer = adaptive_kde(x, grid=torch.linspace(0, 1, 97))
    assert finer.density.shape == (4, 97)


def test_what_cannot_be_a_density_is_refused() -> None:
    with pytest.raises(DensityError, match=r"expected floats \(U, Z\), one row a unit, found torch.float32 \(3,\)"):
        adaptive_kde(torch.rand(3))
    with pytest.raises(DensityError, match=r"found torch.int64 \(3, 4\)"):
        adaptive_kde(torch.ones(3, 4, dtype=torch.long))
    with pytest.raises(DensityError, match="n_bandwidths: expected at least 1, found 0"):
        adaptive_kde(torch.rand(3, 9), n_bandwidths=0)
    with pytest.raises(DensityError, match="evenly spaced, increasing points"):
        adaptive_kde(torch.rand(3, 9), grid=torch.tensor([0.0, 0.5, 0.4]))
    with pytest.raises(DensityError, match=r"density: expected shape \(U, Z\), found \(9,\)"):
        count_peaks(torch.rand(9))


@pytest.mark.parametrize(
    ("values", "peaks"),
    [
        ([0, 1, 0], 1), ([1, 0, 1], 0), ([0, 1, 1, 0], 1), ([0, 1, 1, 2, 2, 1], 1), ([3, 3, 2, 3, 3], 0), ([0, 1, 0, 1, 0], 2),
        ([2, 1, 1, 0], 0), ([0, torch.nan, 0, 1, 0], 1), ([0, 1, torch.nan, 0, 0], 0), ([torch.nan] * 4, 0), ([1, 2], 0),
    ],
)  # fmt: skip
def test_peaks_by_hand(values: list[float], peaks: int) -> None:
    for dtype in (torch.float32, torch.float64):
        assert count_peaks(torch.tensor([values], dtype=dtype)).tolist() == [peaks]


MEMORY = """
import resource, torch
from xai_lib.adaptive_density import adaptive_kde
x = torch.rand(2048, 196, generator=torch.Generator().manual_seed(0))
adaptive_kde(x[:64])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
adaptive_kde(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_bounded() -> None:
    assert resource.RUSAGE_SELF == 0
    ended = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(ended.stdout) * unit < 1e9

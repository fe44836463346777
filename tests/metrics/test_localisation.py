"""Localisation: cases by hand, plain loops, all orders of ties, quantus's numbers, and controls against scipy."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xai_lib.metrics import localisation
from xai_lib.metrics.localisation import (
    LocalisationError,
    chance,
    mass_by_region,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    ring,
)

MEASURES: list[Callable[[Tensor, Tensor], Tensor]] = [pointing_game, relevance_mass_accuracy, relevance_rank_accuracy]
HAND = torch.tensor([[4.0, 1, 0], [-3, 2, 0], [0, 0, 3]])
MASK = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)


def random_case(seed: int, levels: int | None = None) -> tuple[Tensor, Tensor]:
    """A map and a mask `(6, 7)`; with `levels` the map has many ties."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((6, 7)) if levels is None else rng.integers(0, levels, (6, 7))
    mask = rng.random((6, 7)) < rng.uniform(0.1, 0.7)
    mask[rng.integers(6), rng.integers(7)] = True
    return torch.from_numpy(values).float(), torch.from_numpy(mask)


def test_by_hand() -> None:
    assert pointing_game(HAND, MASK) == 1 and pointing_game(-HAND, MASK) == 1 and pointing_game(HAND, ~MASK) == 0
    assert relevance_mass_accuracy(HAND, MASK) == pytest.approx(6 / 10)
    assert relevance_rank_accuracy(HAND, MASK) == pytest.approx(2 / 3)  # 4, 3 and 2 are the strongest; 3 lies outside
    assert chance(MASK) == pytest.approx(3 / 9) and chance(~MASK) == pytest.approx(6 / 9)


@pytest.mark.parametrize("seed", range(5))
def test_mass_and_rank_are_their_definitions(seed: int) -> None:
    values, mask = random_case(seed)
    flat, marked = values.flatten().tolist(), mask.flatten().tolist()
    inside = sum(v for v, m in zip(flat, marked, strict=True) if m and v > 0)
    assert relevance_mass_accuracy(values, mask) == pytest.approx(inside / sum(v for v in flat if v > 0))
    order = sorted(range(len(flat)), key=lambda i: -flat[i])
    hits = sum(marked[i] for i in order[: sum(marked)])
    assert relevance_rank_accuracy(values, mask) == pytest.approx(hits / sum(marked))
    assert pointing_game(values, mask) == marked[order[0]]


def test_ties_get_the_mean_over_all_orders() -> None:
    values = torch.tensor([[2.0, 1, 1], [1, 1, 0]])
    for chosen in itertools.product([False, True], repeat=6):
        mask = torch.tensor(chosen).view(2, 3)
        if not mask.any():
            continue
        count, found = sum(chosen), []
        for tied in itertools.permutations(range(1, 5)):
            found.append(sum(chosen[i] for i in (0, *tied, 5)[:count]) / count)
        assert relevance_rank_accuracy(values, mask) == pytest.approx(np.mean(found))
        best = torch.tensor([[0.0, 5, 5], [0, 0, 5]])
        assert pointing_game(best, mask) == pytest.approx(np.mean([chosen[i] for i in (1, 2, 5)]))


def test_constant_and_zero_maps() -> None:
    for value in (0.0, 3.0, -2.0):
        flat = torch.full((3, 3), value)
        assert pointing_game(flat, MASK) == relevance_rank_accuracy(flat, MASK) == chance(MASK)
    assert relevance_mass_accuracy(torch.ones(3, 3), MASK) == pytest.approx(float(chance(MASK)))
    for nothing in (torch.zeros(3, 3), -torch.ones(3, 3)):
        assert relevance_mass_accuracy(nothing, MASK).isnan() and all(r.isnan() for r in mass_by_region(nothing, MASK, 1))
    for large in (1e30, 1e-30):
        assert relevance_mass_accuracy(HAND.double() * large, MASK) == pytest.approx(0.6)
    assert relevance_mass_accuracy(torch.full((50, 50), 3e38), torch.ones(50, 50, dtype=torch.bool)) == 1


def test_a_perfect_map_gets_one_and_its_contrary_nothing() -> None:
    for measure in MEASURES:
        assert measure(MASK.float(), MASK) == 1 and measure(MASK.double(), MASK) == 1
    assert pointing_game(-MASK.float(), MASK) == 0 and relevance_mass_accuracy((~MASK).float(), MASK) == 0
    assert relevance_rank_accuracy(-MASK.float(), MASK) == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(1e-3, 1e3), levels=st.sampled_from([None, 2, 4]))
def test_properties(seed: int, factor: float, levels: int | None) -> None:
    values, mask = random_case(seed, levels)
    for measure in MEASURES:
        found = float(measure(values, mask))
        assert np.isnan(found) or 0 <= found <= 1
        assert float(measure(values.double() * factor, mask)) == pytest.approx(found, nan_ok=True)
        turned = float(measure(values.flip(0).T, mask.flip(0).T))
        assert turned == pytest.approx(found, nan_ok=True)  # no corner is favoured
    for measure in (pointing_game, relevance_rank_accuracy):  # of ranks alone
        assert measure(values.double() * factor - 7, mask) == measure(values.double(), mask)
    parts = mass_by_region(values, mask, 1.5)
    if values.max() > 0:
        assert float(sum(parts)) == pytest.approx(1) and parts.inside == relevance_mass_accuracy(values, mask)


def test_the_mean_over_random_maps_is_chance() -> None:
    _, mask = random_case(3)
    maps = torch.from_numpy(np.random.default_rng(0).random((4000, 6, 7)))
    for measure in MEASURES:
        assert float(measure(maps, mask).mean()) == pytest.approx(float(chance(mask)), abs=0.02)


def test_many_maps_and_masks_are_those_one_by_one() -> None:
    cases = [random_case(seed, levels) for seed in range(3) for levels in (None, 3)]
    maps, masks = (torch.stack(parts) for parts in zip(*cases, strict=True))
    for measure in MEASURES:
        alone = torch.stack([measure(m, k) for m, k in cases])
        assert torch.equal(measure(maps, masks), alone)
        assert torch.equal(measure(maps.view(2, 3, 6, 7), masks.view(2, 3, 6, 7)), alone.view(2, 3))
        assert torch.equal(measure(torch.stack([maps, maps]), masks), torch.stack([alone, alone]))  # methods, images
        assert measure(maps, masks[0]).shape == (6,) and measure(maps[0], masks).shape == (6,)
        assert measure(maps, masks).dtype == torch.float64
    assert torch.equal(mass_by_region(maps, masks, 2).ring, torch.stack([mass_by_region(m, k, 2).ring for m, k in cases]))
    assert torch.equal(ring(masks, 2), torch.stack([ring(k, 2) for k in masks]))


def test_a_ring_is_every_pixel_near_enough() -> None:
    for seed, width in itertools.product(range(3), (1, 1.5, 3)):
        mask = random_case(seed)[1]
        places = mask.nonzero().double()
        grid = torch.cartesian_prod(torch.arange(6.0), torch.arange(7.0)).double()
        near = ((grid[:, None] - places).norm(dim=2).amin(1) <= width).view(6, 7) & ~mask
        assert torch.equal(ring(mask, width), near)
    assert not ring(torch.ones(3, 3, dtype=torch.bool), 1).any()
    shares = mass_by_region(HAND, MASK, 1)
    assert [float(s) for s in shares] == pytest.approx([0.6, 0.1, 0.3])


@pytest.mark.parametrize("seed", range(3))
def test_quantus_finds_the_same(seed: int) -> None:
    """Without ties, and for the mass without negative values, which quantus lets cancel the others."""
    import quantus

    cases = [random_case(10 * seed + k) for k in range(4)]
    maps, masks = (torch.stack(parts) for parts in zip(*cases, strict=True))
    pairs = [
        (quantus.PointingGame, pointing_game, maps),
        (quantus.RelevanceRankAccuracy, relevance_rank_accuracy, maps),
        (quantus.RelevanceMassAccuracy, relevance_mass_accuracy, maps.clamp(min=0)),
    ]
    for theirs, ours, given_maps in pairs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric = theirs(abs=False, normalise=False, disable_warnings=True)
        found = metric.evaluate_batch(a_batch=given_maps[:, None].double().numpy(), s_batch=masks[:, None].numpy())
        assert np.allclose(np.asarray(found, float), ours(given_maps, masks).numpy(), atol=1e-9)


def test_what_cannot_be_judged_is_refused() -> None:
    empty = torch.zeros(3, 3, dtype=torch.bool)
    for measure in MEASURES:
        with pytest.raises(LocalisationError, match="^mask: no pixel is marked"):
            measure(HAND, empty)
        with pytest.raises(LocalisationError, match=r"mask \[\[1\]\]: no pixel is marked.*leave such pictures out"):
            measure(HAND, torch.stack([MASK, empty]))
        with pytest.raises(LocalisationError, match=r"maps: expected \(..., 3, 3\), as the mask, found \(3, 4\)"):
            measure(torch.ones(3, 4), MASK)
        with pytest.raises(LocalisationError, match="expected finite values"):
            measure(HAND / 0, MASK)
        with pytest.raises(LocalisationError, match="expected a bool tensor"):
            measure(HAND, MASK.float())
        with pytest.raises(LocalisationError, match="do not fit"):
            measure(HAND.expand(2, 3, 3), MASK.expand(5, 3, 3))
    assert chance(empty) == 0
    with pytest.raises(LocalisationError, match="width: expected a number of pixels above 0, found 0"):
        ring(MASK, 0)


# controls


def pictures() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((3, 3, 20, 26), np.float32))


def test_the_edge_map_is_scipys_sobel() -> None:
    from scipy.ndimage import sobel

    images = pictures()
    for found, image in zip(localisation.edge_map(images), images, strict=True):
        grey = image.mean(0).double().numpy()
        wanted = np.hypot(sobel(grey, 0, mode="nearest"), sobel(grey, 1, mode="nearest"))
        assert np.allclose(found.numpy(), wanted, atol=1e-5)
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1
    assert localisation.edge_map(step)[0, 4].tolist() == [0, 0, 0, 4, 4, 0, 0, 0]


def test_the_gaussian_sits_in_the_middle() -> None:
    bell = localisation.centre_gaussian(pictures())
    assert bell.shape == (3, 20, 26) and torch.equal(bell[0], bell[2]) and torch.allclose(bell, bell.flip(1, 2))
    assert bell[0].argmax() in (9 * 26 + 12, 9 * 26 + 13, 10 * 26 + 12, 10 * 26 + 13)
    row = localisation.centre_gaussian(torch.zeros(1, 3, 1, 101), 0.2)[0, 0]
    assert row[50] == 1 and row[50 + 20] == pytest.approx(np.exp(-0.5 * (20 / 101 / 0.2) ** 2), abs=1e-6)
    with pytest.raises(LocalisationError, match="sigma"):
        localisation.centre_gaussian(pictures(), 0)


def test_the_random_map_depends_on_seed_and_picture_alone() -> None:
    images = pictures()
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()
    maps = localisation.random_map(images, 3)
    assert before == (np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())
    assert torch.equal(maps.flip(0), localisation.random_map(images.flip(0), 3))
    assert torch.equal(maps[1:2], localisation.random_map(images[1:2], 3))
    assert not torch.equal(maps, localisation.random_map(images, 4)) and not torch.equal(maps[0], maps[1])
    assert maps.min() >= 0 and maps.max() < 1 and maps.mean() == pytest.approx(0.5, abs=0.03)

"""Faithfulness, sparseness, sensitivity: quantus's numbers on the same perturbations, plain loops, and known optima."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.networks import picture, tiny
from xai_lib.metrics.faithfulness import (
    FaithfulnessError,
    attributed,
    average_sensitivity,
    drops,
    faithfulness_correlation,
    perturbed,
    sparseness,
    subsets,
)

SIDE = 16
RUNS, SIZE = 30, 60


class Doubled(nn.Module):
    """Computes in float64 whatever comes, so that differences of logits have no rounding worth speaking of."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.double())


class Sum(nn.Module):
    """Its one logit is the sum of all features, times `sign`."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * x.flatten(1).double().sum(1, keepdim=True)


def network() -> nn.Module:
    return Doubled(tiny().network).eval()


@pytest.fixture
def inputs() -> Tensor:
    return tiny().normalise(torch.stack([picture(s, SIDE) for s in range(3)]))


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


TARGETS = torch.tensor([0, 3, 1])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def quietly(call: Callable[[], Any]) -> Any:
    """quantus warns of its parameters and of numpy's own changes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


# ---------------------------------------------------------------------------------------------------------------------
# quantus. Its random numbers are numpy's global ones: a RandomState of the same seed draws the same in the same order.


class Replayed:
    """Draws as quantus does: with a baseline by name, each choice is followed by a number for "uniform", used or not."""

    def __init__(self, seed: int, named: bool) -> None:
        self.state, self.named = np.random.RandomState(seed), named

    def choice(self, *args: Any, **kwargs: Any) -> np.ndarray:
        found = self.state.choice(*args, **kwargs)
        if self.named:
            self.state.uniform(size=1)
        return found


@pytest.mark.parametrize("baseline", ["black", "mean", "white", 0.3])
@pytest.mark.parametrize("channels", [1, 3])
def test_quantus_finds_the_same_correlation(inputs: Tensor, baseline: str | float, channels: int) -> None:
    import quantus

    metric = quietly(
        lambda: quantus.FaithfulnessCorrelation(
            nr_runs=RUNS, subset_size=SIZE, perturb_baseline=baseline, return_aggregate=False, disable_warnings=True
        )
    )
    maps = torch.randn(3, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = network()
    before = np.random.get_state()
    try:
        for n in range(3):  # one image a call: quantus's order of draws depends on the batch
            x, y, a = inputs[n : n + 1], TARGETS[n : n + 1], maps[n : n + 1]
            np.random.seed(n)
            call = {"x_batch": x.numpy(), "y_batch": y.numpy(), "a_batch": a.numpy().copy(), "batch_size": 1}
            theirs = quietly(lambda call=call: metric(model=model, device="cpu", softmax=False, **call))
            indices = subsets((3, SIDE, SIDE), RUNS, SIZE, rng=Replayed(n, isinstance(baseline, str)))  # type: ignore[arg-type]
            ours = faithfulness_correlation(a, drops(model, x, y, indices, baseline=baseline), indices)
            assert float(ours[0]) == pytest.approx(theirs[0], abs=1e-6)
    finally:
        np.random.set_state(before)


def test_quantus_finds_the_same_sparseness(maps: Tensor) -> None:
    import quantus

    metric = quietly(lambda: quantus.Sparseness(return_aggregate=False, disable_warnings=True))
    maps = torch.stack([maps[0, 0], maps[1, 0] ** 5, (maps[2, 0] > 2).float()]).double()
    x, y = np.zeros((1, 3, SIDE, SIDE), np.float32), np.zeros(1, int)
    theirs = [
        quietly(lambda a=a: metric(model=network(), x_batch=x, y_batch=y, a_batch=a[None, None].numpy().copy(), device="cpu"))[0]
        for a in maps
    ]
    assert sparseness(maps).tolist() == pytest.approx(theirs, abs=1e-6)
    assert sparseness(maps.float()).tolist() == pytest.approx(theirs, abs=1e-6)


def test_quantus_finds_the_same_sensitivity(inputs: Tensor) -> None:
    import quantus

    samples = 6
    metric = quietly(lambda: quantus.AvgSensitivity(nr_samples=samples, return_aggregate=False, disable_warnings=True))
    model = network()

    def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
        return gradient(model, torch.as_tensor(inputs), torch.as_tensor(targets)).sum(1, keepdim=True).numpy()

    before = np.random.get_state()
    try:
        for n in range(3):
            x, y = inputs[n : n + 1], TARGETS[n : n + 1]
            np.random.seed(n)
            call = {"x_batch": x.numpy(), "y_batch": y.numpy(), "explain_func": explain, "batch_size": 1}
            theirs = quietly(lambda call=call: metric(model=model, device="cpu", **call))
            copies = perturbed(x, samples, rng=np.random.RandomState(n))  # type: ignore[arg-type]
            moved = torch.stack([gradient(model, c, y).sum(1) for c in copies])
            ours = average_sensitivity(gradient(model, x, y).sum(1), moved)
            assert float(ours[0]) == pytest.approx(float(theirs[0]), abs=1e-6)
    finally:
        np.random.set_state(before)


def gradient(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).gather(1, targets[:, None]).sum(), x)[0]


# ---------------------------------------------------------------------------------------------------------------------
# The formulas, one number at a time


def test_all_three_are_their_formulas(inputs: Tensor, maps: Tensor) -> None:
    model, indices = network(), subsets((3, SIDE, SIDE), 7, 20, rng=rng())
    found = drops(model, inputs, TARGETS, indices, batch=3)
    scores = faithfulness_correlation(maps, found, indices)
    for n in range(3):
        lost, given = [], []
        for row in indices.tolist():
            changed, total = inputs[n].clone(), 0.0
            for i in row:
                channel, y, x = i // SIDE**2, i % SIDE**2 // SIDE, i % SIDE
                changed[channel, y, x] = inputs[n].min()
                total += float(maps[n, 0, y, x])
            with torch.no_grad():
                lost.append(float((model(inputs[n : n + 1]) - model(changed[None]))[0, TARGETS[n]]))
            given.append(total)
        assert found[n].tolist() == pytest.approx(lost, abs=1e-9)
        assert attributed(maps[n], indices, 3).tolist() == pytest.approx(given, abs=1e-5)
        assert float(scores[n]) == pytest.approx(np.corrcoef(given, lost)[0, 1], abs=1e-6)
    for map_, gini in zip(maps[:, 0], sparseness(maps[:, 0]).tolist(), strict=True):
        values = sorted(abs(v) / float(map_.abs().max()) + 1e-7 for v in map_.flatten().tolist())
        n = len(values)
        assert gini == pytest.approx(sum((2 * k - n - 1) * v for k, v in enumerate(values, 1)) / n / sum(values), abs=1e-9)
    others = maps + torch.randn(4, 1, 1, 1, 1)
    wanted = np.mean([np.linalg.norm((maps[1] - o[1]).flatten()) / np.linalg.norm(maps[1].flatten()) for o in others])
    assert float(average_sensitivity(maps, others)[1, 0]) == pytest.approx(float(wanted), abs=1e-6)


def test_subsets_of_each_image_and_populations_of_maps(inputs: Tensor, maps: Tensor) -> None:
    model = network()
    own = torch.stack([subsets((3, SIDE, SIDE), RUNS, SIZE, rng=rng(n)) for n in range(3)])
    found = drops(model, inputs, TARGETS, own)
    scores = faithfulness_correlation(maps, found, own)
    for n in range(3):
        alone = drops(model, inputs[n : n + 1], TARGETS[n : n + 1], own[n])
        assert torch.equal(alone[0], found[n])  # whoever stands beside
        assert torch.allclose(faithfulness_correlation(maps[n : n + 1], alone, own[n])[0], scores[n], atol=1e-12)
    population = torch.randn(4, 5, 3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    for indices in (own, own[0]):
        many = faithfulness_correlation(population, found, indices)
        assert many.shape == (4, 5, 3) and attributed(population, indices, 3).shape == (4, 5, 3, RUNS)
        assert torch.allclose(many[2, 4], faithfulness_correlation(population[2, 4], found, indices), atol=1e-12)
    spread = maps.expand(-1, 3, -1, -1)
    assert torch.allclose(faithfulness_correlation(spread, found, own), scores, atol=1e-12)
    assert sparseness(population).shape == (4, 5, 3, 1)
    assert average_sensitivity(population, population[None] + 1, axes=3).shape == (4, 5, 3)


def test_the_batch_changes_rounding_alone(inputs: Tensor) -> None:
    model, indices = tiny().network, subsets((3, SIDE, SIDE), 20, SIZE, rng=rng())
    wanted = drops(model, inputs, TARGETS, indices, batch=20)
    for batch in (1, 7, 64):
        assert torch.allclose(drops(model, inputs, TARGETS, indices, batch=batch), wanted, atol=1e-5)
    assert not wanted.requires_grad


# ---------------------------------------------------------------------------------------------------------------------
# Known optima


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("baseline", ["black", "mean", "white", 0.0])
def test_the_features_of_a_sum_are_its_explanation(inputs: Tensor, sign: float, baseline: str | float) -> None:
    indices, targets = subsets((3, SIDE, SIDE), 40, SIZE, rng=rng()), torch.zeros(3, dtype=torch.int64)
    found = drops(Sum(sign).eval(), inputs, targets, indices, baseline=baseline)
    assert torch.allclose(faithfulness_correlation(inputs, found, indices), torch.tensor(sign).double(), atol=1e-9)
    assert torch.allclose(faithfulness_correlation(-inputs, found, indices), torch.tensor(-sign).double(), atol=1e-9)
    summed = faithfulness_correlation(inputs.sum(1, keepdim=True), found, indices) * sign
    assert bool((summed < 0.9).all())  # features are drawn a channel: a map without channels cannot be perfect


def test_known_sparseness() -> None:
    single, flat = torch.zeros(SIDE, SIDE), torch.full((SIDE, SIDE), -3.0)
    single[4, 5] = -2
    n = SIDE**2
    assert sparseness(torch.stack([single, flat])).tolist() == pytest.approx([1 - 1 / n, 0], abs=1e-4)
    half = torch.cat([torch.zeros(n // 2), torch.ones(n // 2)]).view(SIDE, SIDE)
    assert float(sparseness(half)) == pytest.approx(0.5, abs=1e-6)
    far = torch.stack([single * 1e9, single * 1e-12])  # quantus, given both at once, says 1e-5 of the second
    assert float(sparseness(far)[1]) == pytest.approx(float(sparseness(single)), abs=1e-9)


def test_known_sensitivity(maps: Tensor) -> None:
    others = maps + torch.randn(5, *maps.shape, generator=torch.Generator().manual_seed(3))
    assert average_sensitivity(maps, maps.expand(5, -1, -1, -1, -1)).tolist() == [[0.0]] * 3
    one, two = average_sensitivity(maps, others), average_sensitivity(maps, maps + 2 * (others - maps))
    assert torch.allclose(two, 2 * one, atol=1e-6)


def test_scale_does_not_matter_and_sign_is_a_sign(inputs: Tensor, maps: Tensor) -> None:
    indices = subsets((3, SIDE, SIDE), RUNS, SIZE, rng=rng())
    found = drops(network(), inputs, TARGETS, indices)
    wanted = faithfulness_correlation(maps, found, indices)
    for factor in (1e-20, 7.0, 1e20):
        assert torch.allclose(faithfulness_correlation(maps * factor, found, indices), wanted, atol=1e-6)
        assert torch.allclose(sparseness(maps * factor), sparseness(maps), atol=1e-6)
        moved = average_sensitivity(maps * factor, (maps + 1)[None] * factor)
        assert torch.allclose(moved, average_sensitivity(maps, (maps + 1)[None]), atol=1e-6)
    assert torch.allclose(faithfulness_correlation(-maps, found, indices), -wanted, atol=1e-12)
    assert torch.equal(sparseness(-maps), sparseness(maps))


def test_what_cannot_be_told_is_nan(inputs: Tensor, maps: Tensor) -> None:
    indices = subsets((3, SIDE, SIDE), RUNS, SIZE, rng=rng())
    found = drops(network(), inputs, TARGETS, indices)
    flat = torch.cat([torch.full_like(maps[:1], 0.1), torch.zeros_like(maps[:1]), maps[2:]])
    assert faithfulness_correlation(flat, found, indices).isnan().tolist() == [True, True, False]
    found[2] = 0.3
    assert faithfulness_correlation(maps, found, indices).isnan().tolist() == [False, False, True]
    assert sparseness(flat)[:, 0].isnan().tolist() == [False, True, False]
    assert average_sensitivity(flat, flat[None] + 1)[:, 0].isnan().tolist() == [False, True, False]


# ---------------------------------------------------------------------------------------------------------------------
# Random numbers


def test_subsets_have_no_place_twice_and_cover_all_channels() -> None:
    found = subsets((3, 8, 8), 50, 64, rng=rng(1))
    assert found.shape == (50, 64) and found.dtype == torch.int64
    assert all(len(set(row)) == 64 for row in found.tolist())
    assert set(found.flatten().tolist()) == set(range(192))
    assert torch.equal(found, subsets((3, 8, 8), 50, 64, rng=rng(1)))
    assert not torch.equal(found, subsets((3, 8, 8), 50, 64, rng=rng(2)))
    assert sorted(subsets((3, 2, 2), 1, 12, rng=rng())[0].tolist()) == list(range(12))


def test_noise_is_uniform_within_its_bound(inputs: Tensor) -> None:
    copies = perturbed(inputs, 4, 0.2, rng=rng())
    noise = copies - inputs
    assert copies.shape == (4, *inputs.shape) and copies.dtype == torch.float32
    assert 0.19 < float(noise.abs().max()) < 0.2 + 1e-6 and abs(float(noise.mean())) < 0.005
    assert float(noise.std()) == pytest.approx(0.2 / 3**0.5, rel=0.02)
    assert torch.equal(copies, perturbed(inputs, 4, 0.2, rng=rng()))
    assert torch.equal(copies[:, :1], perturbed(inputs[:1], 4, 0.2, rng=rng()))  # whoever comes after


# ---------------------------------------------------------------------------------------------------------------------
# What does not fit


def call(inputs: Tensor, maps: Tensor, kind: str, changes: dict[str, Any]) -> Any:
    indices = subsets((3, SIDE, SIDE), 4, 9, rng=rng())
    given: dict[str, Any] = {"network": network(), "inputs": inputs, "targets": TARGETS}
    if kind == "drops":
        return drops(**(given | {"indices": indices} | changes))
    found = {"maps": maps, "drops": torch.rand(3, 4), "indices": indices}
    return faithfulness_correlation(**(found | changes))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("drops", {"baseline": "grey"}, "baseline: expected black, mean, white or a finite number, found 'grey'"),
        ("drops", {"baseline": float("nan")}, "baseline: expected .* found nan"),
        ("drops", {"batch": 0}, "batch: expected at least 1, found 0"),
        ("drops", {"inputs": torch.rand(3, 8, 8)}, r"inputs: expected floats \(N, C, H, W\), found torch.float32 \(3, 8, 8\)"),
        ("drops", {"targets": torch.tensor([0])}, r"targets: expected 3 integers, found torch.int64 \(1,\)"),
        ("drops", {"targets": torch.tensor([0, 1, 5])}, "targets: expected classes of 0..4, found 5"),
        ("drops", {"targets": torch.tensor([0, 1, -1])}, "targets: expected classes of 0..4, found -1"),
        ("drops", {"indices": torch.rand(2, 3)}, r"indices: expected integers \(R, S\) or \(N, R, S\), found torch.float32"),
        ("drops", {"indices": torch.tensor([[3 * SIDE**2]])}, "indices: expected places in 0..767, found 768..768"),
        ("drops", {"indices": torch.zeros(2, 4, 9, dtype=torch.int64)}, "expected one set of subsets an image, 3, found 2"),
        ("drops", {"network": nn.Identity().eval()}, r"network: expected logits \(1, classes\), found \(1, 3, 16, 16\)"),
        ("drops", {"network": nn.Flatten()}, "network: expected evaluation mode, found training mode; call network.eval()"),
        ("correlation", {"maps": torch.rand(3, SIDE, SIDE)}, r"found \(3, 16, 16\), \(3, 4\) and \(4, 9\)"),
        ("correlation", {"drops": torch.rand(3, 5)}, r"expected maps .* drops \(N, R\) .* found .* \(3, 5\)"),
        ("correlation", {"maps": torch.rand(3, 2, SIDE, SIDE)}, r"maps: expected \(..., 1 or 3, H, W\), found \(3, 2, 16, 16\)"),
    ],
)
def test_what_does_not_fit_is_named(inputs: Tensor, maps: Tensor, kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FaithfulnessError, match=message.replace("eval()", r"eval\(\)")):
        call(inputs, maps, kind, changes)


def test_sizes_that_cannot_be_are_named(inputs: Tensor, maps: Tensor) -> None:
    with pytest.raises(FaithfulnessError, match=r"a size of 1..192, the features of \(3, 8, 8\); found runs=100, size=224"):
        subsets((3, 8, 8), rng=rng())
    with pytest.raises(FaithfulnessError, match="found samples=5, bound=-1"):
        perturbed(inputs, bound=-1, rng=rng())
    with pytest.raises(FaithfulnessError, match=r"add the axis of channels with maps\[..., None, :, :\]"):
        attributed(maps[0, 0], subsets((3, SIDE, SIDE), 2, 3, rng=rng()), 3)
    with pytest.raises(FaithfulnessError, match=r"found \(3, 1, 16, 16\) and \(3, 1, 16, 16\)"):
        average_sensitivity(maps, maps)
    with pytest.raises(FaithfulnessError, match=r"maps: expected \(..., H, W\), found \(4,\)"):
        sparseness(torch.rand(4))

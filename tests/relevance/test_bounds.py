"""Bounds of the pixels where something lies between them and the first layer; the oracle is the network folded into one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.relevance.networks import pixels, small
from xai_lib.explainers import lrp, lrp_composite, rap
from xai_lib.relevance import Recording, RelevanceError

pytestmark = pytest.mark.usefixtures("one_thread")
X = pixels(2, 12).clamp(-2, 2)
BOX = (-2.0, 2.5)
COMPOSITES = [
    lrp.alpha_beta(2.0, zbox=BOX, bias="spread"), lrp.alpha_beta(1.0, zbox=BOX), lrp.epsilon(zbox=BOX),
    lrp.epsilon_gamma_box(*BOX), lrp_composite.by_depth(BOX), lrp.epsilon_plus_flat(),
]  # fmt: skip
MEAN, STD = (
    torch.tensor([0.4, -0.3, 0.1]).double().view(3, 1, 1),
    torch.tensor([0.5, 2.0, 1.5]).double().view(3, 1, 1),
)


def body(first: nn.Module) -> list[nn.Module]:
    return [
        first,
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ]


def pair(
    before: Callable[[Tensor], Tensor], fold: Callable[[nn.Conv2d], None]
) -> tuple[nn.Module, nn.Module]:
    """A network that calls `before` on its input, and its twin whose first convolution has taken that in."""

    def run(m: Any, x: Tensor) -> Tensor:
        for layer in m:
            x = layer(x)
        return x

    parts = small(run, *body(nn.Conv2d(3, 4, 3)))
    twin: Any = copy.deepcopy(parts)
    fold(twin.m[0])
    inside = small(lambda m, x: run(m, before(x)))
    inside.m = parts.m
    return inside, twin


def times(factor: Tensor | float, shift: Tensor | float = 0.0) -> Callable[[nn.Conv2d], None]:
    def fold(layer: nn.Conv2d) -> None:
        weight = layer.weight.data
        assert layer.bias is not None
        layer.bias.data = layer.bias.data + (weight * torch.as_tensor(shift)).sum((1, 2, 3))
        layer.weight.data = weight * torch.as_tensor(factor)

    return fold


PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[nn.Conv2d], None]]] = {
    "factor": (lambda x: x * 4, times(4)),
    "factor in place": (lambda x: x.clone().mul_(4.0), times(4)),
    "quotient": (lambda x: x / 0.25, times(4)),
    "normalised": (lambda x: (x - MEAN) / STD, times(1 / STD, -MEAN / STD)),
    "normalised by a norm": (
        lambda x: F.batch_norm(x, MEAN.flatten(), STD.flatten() ** 2, eps=0.0), times(1 / STD, -MEAN / STD)),
    "negative factor": (lambda x: 1 - x, times(-1, 1)),
    "negated twice": (lambda x: torch.neg(-x), times(1)),
    "flipped and back": (lambda x: x.flip(-1).flip([3]) * 2, times(2)),
    "two steps": (lambda x: 2 * (x * 2 + 0.5), times(4, 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_the_map_is_that_of_the_folded_network(name: str) -> None:
    inside, folded = pair(*PAIRS[name])
    for composite in COMPOSITES:
        found = lrp.check_equivalence(inside, folded, composite, X)
        assert found.logits < 1e-12 and float(found.maps.max()) < 1e-7, composite
    one, two = (rap.relevance(n, X, [0, 3]) for n in (inside, folded))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_a_grey_image_that_is_expanded_has_the_map_of_the_network_of_one_channel() -> None:
    """Its weights are the sum over channels, which all see the same; kept of one sign so that the rule's terms add up."""
    grey = X[:, :1]
    one: Any = small(
        lambda m, x: m[2](m[1](m[0](x).relu()).relu().mean((2, 3))),
        nn.Conv2d(1, 4, 3),
        nn.Conv2d(4, 4, 3),
        nn.Linear(4, 5),
    )
    spread: Any = copy.deepcopy(one)
    spread.m[0] = nn.Conv2d(3, 4, 3).double()
    parts = torch.rand(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spread.m[0].weight.data = one.m[0].weight.data * (parts / parts.sum())[None, :, None, None]
    spread.m[0].bias.data = one.m[0].bias.data.clone()
    for expand in (
        lambda x: x.expand(-1, 3, -1, -1), lambda x: x.repeat(1, 3, 1, 1), lambda x: torch.cat([x, x, x], 1),
        lambda x: x.repeat_interleave(3, 1), lambda x: torch.stack([x[:, 0]] * 3, 1),
    ):  # fmt: skip
        three = copy.deepcopy(spread)
        three.function = lambda m, x, e=expand: m[2](m[1](m[0](e(x)).relu()).relu().mean((2, 3)))
        for composite in COMPOSITES[:-1]:
            found = lrp.check_equivalence(three, one, composite, grey)
            assert found.logits < 1e-12 and float(found.maps.max()) < 1e-7, composite


@pytest.mark.parametrize(("before", "moves"), [
    (lambda x: F.pad(x, (1, 2, 0, 1)), True), (lambda x: F.pad(x, (1, 1, 1, 1), value=0.7), True), (torch.tanh, False),
    (lambda x: x[:, :, 1:-1, 2:], True), (lambda x: x.clamp(-1, 1), False), (lambda x: x.roll(2, -1), True),
    (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), True),
    (lambda x: torch.cat([x, torch.ones(len(x), 1, 12, 12).double()], 1)[:, 1:], True),
])  # fmt: skip
def test_bounds_pass_what_acts_on_each_pixel(before: Any, moves: bool) -> None:
    """Against z^B by hand on what the layer sees; `moves`: `before` moves values, so its gradient moves relevance."""
    layer = nn.Conv2d(3, 4, 3)
    network: Any = small(lambda m, x: m[1](m[0](before(x)).mean((2, 3))), layer, nn.Linear(4, 5))
    recording = Recording(network, X)
    start = lrp.start_of(recording, torch.tensor([0, 3]))
    got = lrp.propagate(recording, lrp.epsilon(zbox=BOX), start[None])[0]
    assert bool(got.isfinite().all())
    seen = before(X)
    low, high = before(torch.full_like(X, BOX[0])), before(torch.full_like(X, BOX[1]))
    w, z = network.m[0].weight, network.m[0](seen)
    end, pooled = network.m[1].weight, z.mean((2, 3))
    above = start @ end * pooled / recording.logits.gather(1, torch.tensor([[0], [3]]))
    assert torch.allclose(above, torch.stack([end[t] * p * 1.0 for t, p in zip((0, 3), pooled, strict=True)]))
    r = above[:, :, None, None] * z / z.sum((2, 3), keepdim=True)
    up, un = w.clamp(min=0), w.clamp(max=0)
    total = F.conv2d(seen, w) - F.conv2d(low, up) - F.conv2d(high, un)
    wanted = (
        seen * F.conv_transpose2d(r / total, w)
        - low * F.conv_transpose2d(r / total, up)
        - high * F.conv_transpose2d(r / total, un)
    )
    x = X.clone().requires_grad_()
    moved = torch.autograd.grad(before(x), x, wanted)[0] if moves else wanted
    torch.testing.assert_close(got, moved, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("before", "words"), [
    (lambda x: F.max_pool2d(x, 2), "max pooling"), (lambda x: F.avg_pool2d(x, 2), "pooling or a mean"),
    (lambda x: x - x.mean((2, 3), keepdim=True), "a sum of branches"), (lambda x: x + x.flip(-1), "a sum of branches"),
    (lambda x: F.silu(x), "a function that rises and falls"), (lambda x: x * x.sigmoid(), "a product of branches"),
    (lambda x: F.interpolate(x, 24, mode="bilinear"), "pooling or a mean"),
])  # fmt: skip
def test_other_things_before_the_first_layer_are_refused_with_the_way_out(before: Any, words: str) -> None:
    network = small(lambda m, x: m[1](m[0](before(x)).mean((2, 3))), nn.Conv2d(3, 4, 3), nn.Linear(4, 5))
    for composite in COMPOSITES:
        with pytest.raises(
            RelevanceError,
            match=f'sees .* made of the inputs .* by {words}.* pixels="gamma" for lrp_composite',
        ):
            lrp.relevance(network, X, 0, composite)
    assert lrp.relevance(network, X, 0, lrp.alpha_beta(2.0)).shape == X.shape


def test_a_factor_that_depends_on_the_image_is_refused() -> None:
    network = small(
        lambda m, x: m[1](m[0](x / x.abs().amax((1, 2, 3), keepdim=True)).mean((2, 3))),
        nn.Conv2d(3, 4, 3),
        nn.Linear(4, 5),
    )
    with pytest.raises(RelevanceError, match="a product of branches"):
        lrp.relevance(network, X, 0, lrp.alpha_beta(2.0, zbox=BOX))


def test_a_layer_that_sees_the_pixels_has_the_bounds_as_they_are_given() -> None:
    network = small(lambda m, x: m[1](m[0](x).mean((2, 3))), nn.Conv2d(3, 4, 3), nn.Linear(4, 5))
    recording = Recording(network, X)
    assert recording.direct and not recording.pixels
    with pytest.raises(RelevanceError, match="does not broadcast"):
        lrp.relevance(network, X, 0, lrp.alpha_beta(2.0, zbox=(torch.zeros(4, 1, 1), 1.0)))

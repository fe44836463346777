"""Functions written in another way have the same relevance; those without a rule are refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.relevance.blocks import COMPOSITES, D, X, network, same
from tests.relevance.networks import randomised, small
from tests.relevance.test_attention import heads
from xai_lib.explainers import lrp
from xai_lib.relevance import Ledger, Recording, UnsupportedNetwork


def masked(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(t) for t in m[2](x).chunk(3, -1))
    scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).masked_fill(
        ~torch.ones(16, 16).tril().bool(), -math.inf
    )
    return m[3]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def causal(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(t) for t in m[2](x).chunk(3, -1))
    return m[3](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def norm_by_hand(m: Any, x: Tensor) -> Tensor:
    centre = x - x.mean(-1, keepdim=True)
    return centre / torch.sqrt(centre.pow(2).mean(-1, keepdim=True) + m[2].eps) * m[2].weight + m[2].bias


def norm_with_var(m: Any, x: Tensor) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) * torch.rsqrt(var + m[2].eps) * m[2].weight + m[2].bias


TWINS: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[Any, Tensor], Tensor], list[nn.Module]]] = {
    "causal mask": (masked, causal, [nn.Linear(D, 3 * D), nn.Linear(D, D)]),
    "layer norm": (lambda m, x: m[2](x), norm_by_hand, [nn.LayerNorm(D)]),
    "layer norm with variance": (lambda m, x: m[2](x), norm_with_var, [nn.LayerNorm(D)]),
    "group norm of one group": (
        lambda m, x: m[2](x.transpose(1, 2)).transpose(1, 2),
        lambda m, x: F.layer_norm(x.transpose(1, 2), (D, 16), eps=m[2].eps).transpose(1, 2) * m[2].weight + m[2].bias,
        [nn.GroupNorm(1, D)],
    ),
    "instance norm": (
        lambda m, x: F.instance_norm(x.transpose(1, 2)).transpose(1, 2),
        lambda m, x: F.group_norm(x.transpose(1, 2), D).transpose(1, 2), [],
    ),
    "rms norm": (
        lambda m, x: F.rms_norm(x, (D,), eps=1e-6),
        lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), [],
    ),
    "unit length": (lambda m, x: F.normalize(x, dim=-1), lambda m, x: x / x.norm(dim=-1, keepdim=True), []),
    "SiLU": (lambda m, x: F.silu(m[2](x)), lambda m, x: (y := m[2](x)) * torch.sigmoid(y), [nn.Linear(D, D)]),
    "SiLU in place": (lambda m, x: F.silu(m[2](x)), lambda m, x: (y := m[2](x)).mul_(y.sigmoid()), [nn.Linear(D, D)]),
    "SiLU as a quotient": (lambda m, x: F.silu(m[2](x)), lambda m, x: (y := m[2](x)) / (1 + torch.exp(-y)), [nn.Linear(D, D)]),
    "hard swish": (lambda m, x: F.hardswish(m[2](x)), lambda m, x: (y := m[2](x)) * F.relu6(y + 3) / 6, [nn.Linear(D, D)]),
    "hard swish by hard sigmoid": (
        lambda m, x: F.hardswish(m[2](x)), lambda m, x: (y := m[2](x)) * F.hardsigmoid(y), [nn.Linear(D, D)]),
    "GELU": (
        lambda m, x: F.gelu(m[2](x)), lambda m, x: 0.5 * (y := m[2](x)) * (1 + torch.erf(y / math.sqrt(2))), [nn.Linear(D, D)]),
    "GELU by tanh": (
        lambda m, x: F.gelu(m[2](x), approximate="tanh"),
        lambda m, x: 0.5 * (y := m[2](x)) * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * torch.pow(y, 3)))),
        [nn.Linear(D, D)],
    ),
    "Mish": (lambda m, x: F.mish(m[2](x)), lambda m, x: (y := m[2](x)) * torch.tanh(F.softplus(y)), [nn.Linear(D, D)]),
    "GLU": (
        lambda m, x: F.glu(m[2](x)), lambda m, x: (c := m[2](x).chunk(2, -1))[0] * c[1].sigmoid(), [nn.Linear(D, 2 * D)]),
    "square": (lambda m, x: m[2](x) ** 2, lambda m, x: (y := m[2](x)) * y, [nn.Linear(D, D)]),
    "dense layer as a product": (
        lambda m, x: m[2](x), lambda m, x: x @ m[2].weight.T, [nn.Linear(D, D, bias=False)]),
    "dense layer as addmm": (
        lambda m, x: F.linear(F.linear(x, m[2].weight), m[3].weight),
        lambda m, x: x.matmul(m[2].weight.t()).matmul(m[3].weight.mT),
        [nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)]),
    "layer scale": (
        lambda m, x: x + m[2](x.relu()),
        lambda m, x: x + m[3].weight * F.linear(x.relu(), m[2].weight / m[3].weight[:, None], m[2].bias / m[3].weight),
        [nn.Linear(D, D), nn.LayerNorm(D)],
    ),
    "a layer added to what it sees": (
        lambda m, x: x + m[2](x),
        lambda m, x: F.linear(x, m[2].weight + torch.eye(D).double(), m[2].bias),
        [nn.Linear(D, D)],
    ),
    "positions": (
        lambda m, x: m[2](x + torch.ones(16, D)), lambda m, x: m[2](torch.ones(16, D).double() + x), [nn.Linear(D, D)]),
    "positions subtracted": (
        lambda m, x: m[2](x - torch.ones(1, 1, D)), lambda m, x: m[2](x + -torch.ones(D).double()), [nn.Linear(D, D)]),
    "class token": (
        lambda m, x: m[2](torch.cat([torch.ones(2, 1, D).double(), x], 1))[:, :2],
        lambda m, x: m[2](F.pad(x, (0, 0, 1, 0), value=1.0))[:, :2], [nn.Linear(D, D)]),
    "convolution of one dimension": (
        lambda m, x: m[2](x.transpose(1, 2)).transpose(1, 2),
        lambda m, x: F.conv2d(x.transpose(1, 2)[:, :, None], m[2].weight[:, :, None],
        m[2].bias, padding=(0, 1))[:, :, 0].transpose(1, 2),
        [nn.Conv1d(D, D, 3, padding=1)]),
    "learned slope": (
        lambda m, x: F.prelu(m[2](x).transpose(1, 2), torch.full((D,), 0.25)).transpose(1, 2),
        lambda m, x: F.leaky_relu(m[2](x), 0.25), [nn.Linear(D, D)]),
    "mean as a sum": (lambda m, x: x.mean(1, keepdim=True), lambda m, x: x.sum(1, True) / 16, []),
    "broadcast sum": (
        lambda m, x: x + m[2](x.mean(1, keepdim=True)),
        lambda m, x: x + m[2](x.mean(1, keepdim=True)).expand_as(x), [nn.Linear(D, D)]),
    "weighted sum": (
        lambda m, x: torch.add(m[2](x), m[3](x), alpha=2),
        lambda m, x: m[2](x) + 2 * m[3](x), [nn.Linear(D, D), nn.Linear(D, D)]),
    "layers in parallel": (
        lambda m, x: m[2](x) + m[3](x),
        lambda m, x: F.linear(x, m[2].weight + m[3].weight, m[2].bias + m[3].bias), [nn.Linear(D, D), nn.Linear(D, D)]),
    "roll": (lambda m, x: x.roll(3, 1), lambda m, x: torch.cat([x[:, -3:], x[:, :-3]], 1), []),
    "maximum over tokens": (lambda m, x: x.amax(1, keepdim=True),
        lambda m, x: F.max_pool1d(x.transpose(1, 2), 16).transpose(1, 2), []),
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_functions_written_in_another_way_have_the_same_relevance(name: str) -> None:
    one, two, parts = TWINS[name]
    same(network(one, *copy.deepcopy(parts)), network(two, *copy.deepcopy(parts)))


def test_upsampling_shuffles_and_transposed_convolutions_conserve() -> None:
    ways: list[Any] = [
        lambda m, x: F.interpolate(m[0](x), scale_factor=2), lambda m, x: F.interpolate(m[0](x), 11, mode="bilinear"),
        lambda m, x: F.pixel_shuffle(m[0](x), 2).repeat(1, 4, 1, 1), lambda m, x: m[2](m[0](x)),
        lambda m, x: F.fold(F.unfold(m[0](x), 3), (8, 8), 3)[:, :, ::2], lambda m, x: F.pixel_unshuffle(m[0](x), 2)[:, :4],
        lambda m, x: F.pad(m[0](x), (1, 1, 1, 1), mode="reflect"), lambda m, x: F.pad(m[0](x), (1, 1, 0, 1), mode="circular"),
    ]  # fmt: skip
    parts = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5), nn.ConvTranspose2d(4, 4, 3, 2)
    for way in ways:
        model = small(lambda m, x, way=way: m[1](way(m, x).relu().mean((2, 3))), *copy.deepcopy(parts))
        for composite in (COMPOSITES[0], lrp.alpha_beta(1.0, bias="spread")):
            found = lrp.check_conservation(model, composite, X)
            assert float(found.error.abs().max()) < 1e-8
    transposed: Any = small(lambda m, x: m[1](m[2](m[0](x)).relu().mean((2, 3))), *parts)
    wide = copy.deepcopy(transposed)  # a transposed convolution is one of the input with zeros between
    kernel = transposed.m[2].weight.data.transpose(0, 1).flip(2, 3)
    wide.function = lambda m, x: m[1](
        F.conv2d(F.pad(with_zeros(m[0](x)), (2, 2, 2, 2)), kernel, m[2].bias).relu().mean((2, 3))
    )
    for composite in COMPOSITES:
        found_ = lrp.check_equivalence(transposed, wide, composite, X)
        assert found_.logits < 1e-12 and float(found_.maps.max()) < 1e-8


def with_zeros(x: Tensor) -> Tensor:
    """Zeros between the rows and columns of `(N, C, h, w)`."""
    x = torch.stack([x, torch.zeros_like(x)], -1).flatten(-2)[..., :-1]
    return torch.stack([x, torch.zeros_like(x)], -2).flatten(-3, -2)[..., :-1, :]


@pytest.mark.parametrize(("middle", "message"), [
    (lambda m, x: x.softmax(-1), "no rule is known for softmax"), (lambda m, x: x.exp(), "no rule is known for exp"),
    (lambda m, x: torch.einsum("nid,njd,nkd->nid", x, x, x), "no rule is known for einsum"), (lambda m, x: 1 / x, "__rdiv__"),
    (lambda m, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), "attention with dropout switched on"),
    (lambda m, x: x.sort(1).values, "no rule is known for sort"), (lambda m, x: x.cumsum(1), "no rule is known for cumsum"),
])  # fmt: skip
def test_functions_without_a_rule(middle: Any, message: str) -> None:
    with pytest.raises(UnsupportedNetwork, match=message):
        Recording(network(middle), X)


def test_a_network_with_images_on_another_axis_takes_one_at_a_time() -> None:
    layer = nn.TransformerEncoderLayer(D, 2, 8)
    first = network(lambda m, x: m[2](x), copy.deepcopy(layer))
    first.m[2].self_attn.batch_first = True
    other = network(lambda m, x: m[2](x.transpose(0, 1)).transpose(0, 1), copy.deepcopy(layer))
    with pytest.raises(UnsupportedNetwork, match="give it one image at a time"):
        Recording(other, X)
    for composite in COMPOSITES:
        found = lrp.check_equivalence(first, other, composite, X[:1])
        assert found.logits < 1e-12 and float(found.maps.max()) < 1e-8
    recordings, start = (Recording(first, X[:1]), Recording(other, X[:1])), torch.randn(3, 1, 5).double()
    ledgers = Ledger(), Ledger()
    maps = [
        lrp.propagate(r, COMPOSITES[0], start, ledger=k) for r, k in zip(recordings, ledgers, strict=True)
    ]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-6, atol=1e-8)


def test_networks_of_other_dtypes_are_computed_in_that_of_the_inputs() -> None:
    parts: list[nn.Module] = [
        nn.LayerNorm(D),
        nn.Conv1d(D, D, 1),
        nn.PReLU(D),
        nn.MultiheadAttention(D, 2, batch_first=True),
    ]

    def middle(m: Any, x: Tensor) -> Tensor:
        y = m[4](m[3](m[2](x).transpose(1, 2))).transpose(1, 2)
        y = F.group_norm(y.transpose(1, 2), 2, m[2].weight, m[2].bias).transpose(1, 2)
        return y + m[5](y, y, y)[0]

    single = network(middle, *parts).float()
    double = copy.deepcopy(single).double()
    for composite in COMPOSITES:
        wanted, found = (lrp.relevance(n, X, [1, 2], composite) for n in (double, single))
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    assert all(p.dtype == torch.float32 for p in single.parameters())
    assert lrp.relevance(single, X.float(), 0, COMPOSITES[1]).dtype == torch.float32
    randomised(single)

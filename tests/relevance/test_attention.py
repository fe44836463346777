"""Attention, normalisations, gates: against relevance by hand, unit by unit in float64, and against twins."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.relevance.blocks import COMPOSITES, D, X, network, same, start_like, tokens, z_rule
from tests.relevance.networks import small
from xai_lib.explainers import lrp
from xai_lib.relevance import Ledger, Recording


def test_a_block_of_attention_by_hand() -> None:
    """Layer norm, two heads, residual; relevance of the tokens, by loops over units, heads and tokens."""
    model = network(lambda m, x: x + m[3](m[2](x), m[2](x), m[2](x), need_weights=False)[0],
                    nn.LayerNorm(D), nn.MultiheadAttention(D, 2, batch_first=True))  # fmt: skip
    x = X[:1]
    recording, at = Recording(model, x), {}
    target = torch.tensor([3])
    ledger = Ledger()
    got = lrp.propagate(recording, lrp.epsilon(1e-12), lrp.start_of(recording, target)[None], ledger=ledger)[
        0, 0
    ]

    m = model.m
    with torch.no_grad():
        t = tokens(m, x)[0]  # (16, D)
        centre = t - t.mean(1, keepdim=True)
        deviation = (centre.square().mean(1, keepdim=True) + m[2].eps).sqrt()
        n = centre / deviation * m[2].weight + m[2].bias
        q, k, v = (
            n @ w.T + b for w, b in zip(m[3].in_proj_weight.chunk(3), m[3].in_proj_bias.chunk(3), strict=True)
        )
        heads = [slice(0, 3), slice(3, 6)]
        weights = [torch.softmax(q[:, h] @ k[:, h].T / math.sqrt(3), 1) for h in heads]
        mixed = torch.cat([a @ v[:, h] for a, h in zip(weights, heads, strict=True)], 1)
        w_out, b_out = m[3].out_proj.weight, m[3].out_proj.bias
        out = t + mixed @ w_out.T + b_out
        pooled = out.mean(0)
        at["logit"] = m[1](pooled)[3]

        r = m[1].weight[3] * pooled * (at["logit"] / (m[1].weight[3] @ pooled + m[1].bias[3]))
        r = out * (r / (16 * pooled))  # mean over tokens
        part = mixed @ w_out.T + b_out
        r_skip, r_part = t * r / out, part * r / out
        r_mixed = torch.stack([z_rule(mixed[i], w_out, b_out, r_part[i]) for i in range(16)])
        r_v = torch.zeros_like(v)
        for a, h in zip(weights, heads, strict=True):
            for i in range(16):
                for j in range(16):
                    r_v[j, h] += a[i, j] * v[j, h] * r_mixed[i, h] / (a[i] @ v[:, h])
        w_v, b_v = m[3].in_proj_weight.chunk(3)[2], m[3].in_proj_bias.chunk(3)[2]
        r_n = torch.stack([z_rule(n[i], w_v, b_v, r_v[i]) for i in range(16)])
        r_scaled = r_n * (n - m[2].bias) / n
        matrix = torch.eye(D).double() - 1 / D  # of the mean that is subtracted
        r_t = r_skip + torch.stack([z_rule(t[i], matrix, 0.0, r_scaled[i]) for i in range(16)])

        w, b = m[0].weight, m[0].bias
        wanted = torch.zeros(3, 8, 8).double()
        for i in range(16):
            patch = x[0, :, 2 * (i // 4) : 2 * (i // 4) + 2, 2 * (i % 4) : 2 * (i % 4) + 2]
            share = z_rule(patch.flatten(), w.flatten(1), b, r_t[i]).view(3, 2, 2)
            wanted[:, 2 * (i // 4) : 2 * (i // 4) + 2, 2 * (i % 4) : 2 * (i % 4) + 2] += share
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-7
    assert float(got.sum() + torch.as_tensor(ledger.biases).sum()) == pytest.approx(
        float(at["logit"]), rel=1e-8
    )


def test_squeeze_and_excitation_by_hand() -> None:
    """The gate is a weight of the signal: a scaled convolution has the same map."""
    parts = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Linear(4, 5)

    def gate(m: Any, y: Tensor) -> Tensor:
        return torch.sigmoid(m[2](F.silu(m[1](y.mean((2, 3), keepdim=True)))))

    squeezed = small(lambda m, x: m[3](((y := m[0](x).relu()) * gate(m, y)).mean((2, 3))), *parts)
    for n in range(2):
        x = X[n : n + 1]
        fixed = copy.deepcopy(squeezed)
        with torch.no_grad():
            s = gate(squeezed.m, squeezed.m[0](x).relu())[0]  # type: ignore[index, union-attr, operator]
            fixed.m[0].weight *= s[:, :, :, None]  # type: ignore[index, union-attr, operator]
            fixed.m[0].bias *= s.flatten()  # type: ignore[index, union-attr, operator]
        fixed.function = lambda m, x: m[3](m[0](x).relu().mean((2, 3)))  # type: ignore[assignment]
        for composite in COMPOSITES:
            found = lrp.check_equivalence(squeezed, fixed, composite, x)
            assert found.logits < 1e-12 and float(found.maps.max()) < 1e-8


def test_two_signals_get_half_each() -> None:
    """A product of branches, and one of matrices, by hand at the tokens."""
    parts = nn.Linear(D, D), nn.Linear(D, D)
    for product, scale in ((torch.mul, 1.0), (lambda a, b: a @ b.transpose(1, 2) @ a, None)):
        model = network(lambda m, x, p=product: p(m[2](x), m[3](x)), *copy.deepcopy(parts))
        found = lrp.check_conservation(model, lrp.epsilon(1e-12), X)
        assert float(found.error.abs().max()) < 1e-7
        recording = Recording(model, X)
        if scale:
            (op,) = [o for o in recording.operations if o.kind == "product"]
            lrp.propagate(recording, lrp.epsilon(), start_like(recording))
            r = torch.randn(2, 2, 16, D).double()
            assert all(torch.equal(f, r / 2) for f in recording.back(op, r) if f is not None)
    model = network(
        lambda m, x: (m[2](x) @ m[3](x).transpose(1, 2)) @ torch.ones(16, D).double(), *copy.deepcopy(parts)
    )
    recording = Recording(model, X)
    (op,) = [o for o in recording.operations if o.kind == "mixing"]
    lrp.propagate(recording, lrp.epsilon(), start_like(recording))
    a, b = (side.inputs[0] for side in op.sides)
    r = torch.randn(1, 2, 16, 16).double()
    found_a, found_b = recording.back(op, r)
    for n in range(2):
        z = a[n] @ b[n]
        wanted_a, wanted_b = torch.zeros_like(a[n]), torch.zeros_like(b[n])
        for i in range(16):
            for j in range(16):
                share = a[n, i] * b[n, :, j] * r[0, n, i, j] / (2 * z[i, j])
                wanted_a[i] += share
                wanted_b[:, j] += share
        assert found_a is not None and found_b is not None
        torch.testing.assert_close(found_a[0, n], wanted_a)
        torch.testing.assert_close(found_b[0, n], wanted_b)


# ---------------------------------------------------------------------------------------------------------------------
# Twins


def heads(x: Tensor, n: int = 2) -> Tensor:
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def by_hand(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(t) for t in m[2](x).chunk(3, -1))
    weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), -1)
    return m[3]((weights @ v).transpose(1, 2).flatten(2))


def by_function(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(t) for t in m[2](x).chunk(3, -1))
    return m[3](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def as_timm_does(m: Any, x: Tensor) -> Tensor:
    q, k, v = m[2](x).reshape(len(x), 16, 3, 2, D // 2).permute(2, 0, 3, 1, 4).unbind(0)
    attn = ((q * (D // 2) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
    return m[3](F.dropout(attn @ v, 0.1, m[3].training).transpose(1, 2).reshape(len(x), 16, D))


def by_einsum(m: Any, x: Tensor) -> Tensor:
    q, k, v = m[2](x).view(len(x), 16, 3, 2, -1).unbind(2)
    weights = torch.einsum("nihd,njhd->nhij", q, k).div(math.sqrt(D // 2)).softmax(-1)
    return m[3](torch.einsum("nhij,njhd->nihd", weights, v).flatten(2))


def by_batches(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(t).flatten(0, 1) for t in m[2](x).chunk(3, -1))
    weights = torch.bmm(q, k.mT).mul(1 / math.sqrt(D // 2)).softmax(2)
    return m[3](torch.bmm(weights, v).unflatten(0, (len(x), 2)).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("way", [by_function, as_timm_does, by_einsum, by_batches])
def test_attention_has_the_same_relevance_however_it_is_written(way: Any) -> None:
    parts = nn.Linear(D, 3 * D), nn.Linear(D, D)
    same(network(by_hand, *parts), network(way, *parts))


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}])
def test_the_module_of_attention_is_attention_by_hand(options: Any) -> None:
    def module(m: Any, x: Tensor) -> Tensor:
        if m[2].batch_first:
            return m[2](x, x, x)[0]
        y = x.transpose(0, 1)
        return m[2](y, y, y, need_weights=False)[0].transpose(0, 1)

    one = network(module, nn.MultiheadAttention(D, 2, **options))
    two = network(
        by_hand, nn.Linear(D, 3 * D, bias="bias" not in options), nn.Linear(D, D, bias="bias" not in options)
    )
    inside, m = one.m[2], two.m
    m[0].load_state_dict(one.m[0].state_dict())
    m[1].load_state_dict(one.m[1].state_dict())
    m[2].weight.data = inside.in_proj_weight.data
    m[3].weight.data = inside.out_proj.weight.data
    if inside.in_proj_bias is not None:
        m[2].bias.data, m[3].bias.data = inside.in_proj_bias.data, inside.out_proj.bias.data
    same(one, two)


def test_the_fast_path_of_the_encoder_layer_does_not_slip_by() -> None:
    layer = nn.TransformerEncoderLayer(D, 2, 8, activation="gelu", batch_first=True)
    whole = network(lambda m, x: m[2](x), layer)

    def apart(m: Any, x: Tensor) -> Tensor:
        e = m[2]
        x = e.norm1(x + e.self_attn(x, x, x, need_weights=False)[0])
        return e.norm2(x + e.linear2(F.gelu(e.linear1(x))))

    written = network(apart, layer)
    written.m = whole.m
    assert "mixing" in [o.kind for o in Recording(whole, X).operations]
    same(whole, written)
    encoder = network(
        lambda m, x: m[2](x), nn.TransformerEncoder(copy.deepcopy(layer), 2, enable_nested_tensor=False)
    )
    found = lrp.check_conservation(encoder, lrp.epsilon(1e-12), X)
    assert float(found.error.abs().max()) < 1e-7

"""Attention, normalisations, gates: against relevance by hand, unit by unit in float64, and against twins."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.relevance.networks import pixels, randomised, small
from xai_lib.explainers import lrp
from xai_lib.relevance import Ledger, Recording, UnsupportedNetwork

pytestmark = pytest.mark.usefixtures("one_thread")
X = pixels(2, 8)
COMPOSITES = [
    lrp.epsilon(1e-12), lrp.epsilon_plus(epsilon=1e-12), lrp.alpha_beta(2.0, bias="spread"), lrp.alpha_beta(1.0),
    lrp.epsilon_gamma_box(-6.0, 6.0, epsilon=1e-12),
]  # fmt: skip
D = 6  #: width of a token


def start_like(recording: Recording, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(3, *recording.logits.shape, generator=rng, dtype=torch.float64)


def tokens(m: Any, x: Tensor) -> Tensor:
    """`(N, 16, D)` from patches of two pixels."""
    return m[0](x).flatten(2).transpose(1, 2)


def network(middle: Callable[[Any, Tensor], Tensor], *parts: nn.Module) -> Any:
    """Patches, `middle`, mean over tokens, classes."""
    made = small(
        lambda m, x: m[1](middle(m, tokens(m, x)).mean(1)), nn.Conv2d(3, D, 2, 2), nn.Linear(D, 5), *parts
    )
    for module in made.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
                module.bias.normal_(0, 0.2, generator=torch.Generator().manual_seed(2))
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_bias is not None:
            with torch.no_grad():
                module.in_proj_bias.normal_(0, 0.2, generator=torch.Generator().manual_seed(2))
    return made


def same(one: nn.Module, two: nn.Module, tolerance: float = 1e-8) -> None:
    """The same logits, the same relevance from any start, nothing lost."""
    for composite in COMPOSITES:
        found = lrp.check_equivalence(one, two, composite, X)
        assert found.logits < 1e-12 and float(found.maps.max()) < tolerance, composite
        recordings = Recording(one, X), Recording(two, X)
        start, ledgers = start_like(recordings[0]), (Ledger(), Ledger())
        maps = [
            lrp.propagate(r, composite, start, ledger=k) for r, k in zip(recordings, ledgers, strict=True)
        ]
        assert float((maps[0] - maps[1]).abs().max() / maps[0].abs().max()) < tolerance
        if composite is COMPOSITES[2]:
            for found_, ledger in zip(maps, ledgers, strict=True):
                total = found_.flatten(2).sum(2) + torch.as_tensor(ledger.biases)
                torch.testing.assert_close(total, start.sum(2), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# By hand


def z_rule(x: Tensor, w: Tensor, b: Tensor | float, r: Tensor) -> Tensor:
    """LRP-0 of one vector, `w` `(units, inputs)`, unit by unit."""
    found = torch.zeros_like(x)
    for j in range(len(w)):
        z = float(w[j] @ x) + (float(b[j]) if isinstance(b, Tensor) else b)
        found += w[j] * x * r[j] / z
    return found


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

"""Every rule against its formula, worked out unit by unit, on small layers of every shape."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.relevance import slow
from xai_lib.explainers import rap
from xai_lib.relevance import AlphaBeta, Dense, Epsilon, Flat, Gamma, Layer, Norm, Pooling, RelevanceError, Rule, Scaling, ZBox
from xai_lib.relevance.layers import Convolution, of_module

pytestmark = pytest.mark.usefixtures("one_thread")
ANY: Any = "any"
SHAPES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "dense": (nn.Linear(7, 5), (7,)),
    "dense without bias": (nn.Linear(7, 5, bias=False), (7,)),
    "dense over the last axis": (nn.Linear(4, 5), (3, 4)),
    "stride": (nn.Conv2d(3, 4, 3, 2, 1), (3, 6, 5)),
    "two strides": (nn.Conv2d(2, 4, (2, 3), (3, 1), (0, 2)), (2, 7, 4)),
    "pixels that no unit reads": (nn.Conv2d(2, 4, 2, 3), (2, 7, 7)),
    "groups": (nn.Conv2d(4, 6, 3, 1, 1, groups=2), (4, 4, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, 2, 1, groups=4), (4, 5, 5)),
    "dilation": (nn.Conv2d(2, 4, 3, 1, 2, dilation=2), (2, 5, 6)),
    "dilation and stride": (nn.Conv2d(2, 4, (2, 3), 2, (1, 3), dilation=(3, 2)), (2, 6, 7)),
    "same": (nn.Conv2d(2, 4, (2, 4), padding="same"), (2, 4, 5)),
    "units without inputs": (nn.Conv2d(2, 4, 1, 1, 1), (2, 3, 3)),
}


def weights(module: Any, seed: int) -> None:
    """Signed weights; the first unit has positive ones alone, the second negative ones, the third none."""
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn(module.weight.shape, generator=rng, dtype=torch.float64)
    w[0], w[1], w[2] = w[0].abs(), -w[1].abs(), 0
    module.weight = nn.Parameter(w)
    if module.bias is not None:
        module.bias = nn.Parameter(torch.randn(len(w), generator=rng, dtype=torch.float64))


def images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Three inputs: of both signs, what a ReLU lets through, and nothing."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.stack([x[0], x[1].clamp(min=0), torch.zeros_like(x[2])])


def cases() -> list[tuple[str, Layer, slow.Units, Tensor]]:
    found = []
    for i, (name, (module, shape)) in enumerate(SHAPES.items()):
        weights(module, i)
        found.append((name, of_module(module), as_units(module, shape), images(shape, i)))
    module, shape = nn.Conv2d(2, 4, 3, 2), (2, 4, 5)
    weights(module, 99)
    layer = of_module(module)
    assert isinstance(layer, Convolution)
    for pad in ((0, 1, 0, 1), (2, 0, 1, 3)):
        found.append((f"padded {pad}", replace(layer, pad=pad), as_units(module, shape, pad), images(shape)))
    return found


def as_units(module: Any, shape: tuple[int, ...], pad: tuple[int, ...] = (0, 0)) -> slow.Units:
    def mapped(x: Tensor, w: Tensor) -> Tensor:
        x = F.pad(x, pad)
        if isinstance(module, nn.Linear):
            return F.linear(x, w)
        return F.conv2d(x, w, None, module.stride, module.padding, module.dilation, module.groups)

    w = module.weight.detach()
    found = slow.units(lambda x: mapped(x, w), lambda x: mapped(x, torch.ones_like(w)), torch.Size(shape))
    if module.bias is not None:
        output = mapped(torch.zeros(1, *shape, dtype=torch.float64), w)[0]
        b = module.bias.detach()
        found.biases = (output + (b if isinstance(module, nn.Linear) else b[:, None, None])).flatten().numpy()
    return found


with warnings.catch_warnings():  # torch has one for an uneven "same"
    warnings.simplefilter("ignore")
    CASES = cases()
every = pytest.mark.parametrize(("layer", "units", "x"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])


def output(layer: Layer, x: Tensor) -> Tensor:
    z = layer.forward(x)
    return z + layer.bias_like(z)


def relevance_of(z: Tensor, candidates: int = 2, seed: int = 5) -> Tensor:
    return torch.randn(candidates, *z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool(((found - wanted).abs() <= 1e-10 * max(1, float(wanted.abs().max()))).all())


def compare(rule: Rule, layer: Layer, units: slow.Units, x: Tensor, shares: list[Any], values: list[float]) -> None:
    """Two candidates at once, each with its parameter; then the rule's own parameter."""
    z = output(layer, x)
    r = relevance_of(z)
    state = rule.prepare(layer, x, z)
    found = rule.redistribute(layer, state, r, torch.tensor(values, dtype=torch.float64))
    wanted = torch.stack([slow.by_unit(share, units, x, one) for share, one in zip(shares, r, strict=True)])
    assert close(found, wanted)
    assert close(rule.redistribute(layer, state, r[:1], values[0]), wanted[:1])
    kept = rule.absorbed(layer, state, r, torch.tensor(values, dtype=torch.float64))
    if rule.bias != "keep":
        assert not kept.any()
    assert kept.shape == (2, len(x))


@every
@pytest.mark.parametrize("bias", ["keep", "ignore"])
def test_epsilon(bias: Any, layer: Layer, units: slow.Units, x: Tensor) -> None:
    values = [0.3, 1e-3]
    compare(Epsilon(0.3, bias), layer, units, x, [slow.epsilon(e, bias) for e in values], values)


@every
@pytest.mark.parametrize("bias", ["keep", "ignore"])
def test_epsilon_in_units_of_each_images_outputs(bias: Any, layer: Layer, units: slow.Units, x: Tensor) -> None:
    z = output(layer, x)
    r = relevance_of(z, 1)
    rule = Epsilon(0.25, bias, relative=True)
    found = rule.redistribute(layer, rule.prepare(layer, x, z), r, 0.25)[0]
    for n in range(3):
        own = units.weights @ x[n].flatten().numpy() + (units.biases if bias == "keep" else 0)
        e = 0.25 * float(np.sqrt((own**2).mean()))
        if e:  # an image without any contribution has no scale
            assert close(found[n : n + 1], slow.by_unit(slow.epsilon(e, bias), units, x[n : n + 1], r[0, n : n + 1]))


@every
@pytest.mark.parametrize("bias", ["keep", "ignore", "spread"])
@pytest.mark.parametrize("values", [[1.0, 1.0], [1.7, 2.0]])
def test_alpha_beta(values: list[float], bias: Any, layer: Layer, units: slow.Units, x: Tensor) -> None:
    compare(AlphaBeta(values[0], bias), layer, units, x, [slow.alpha_beta(a, bias) for a in values], values)


@every
@pytest.mark.parametrize("bias", ["keep", "ignore", "spread"])
def test_gamma(bias: Any, layer: Layer, units: slow.Units, x: Tensor) -> None:
    values = [0.25, 10.0]
    compare(Gamma(0.25, bias), layer, units, x, [slow.gamma(g, bias) for g in values], values)


@every
def test_flat_and_norm(layer: Layer, units: slow.Units, x: Tensor) -> None:
    compare(Flat(), layer, units, x, [slow.flat] * 2, [0.0, 0.0])
    compare(Norm(), layer, units, x, [slow.norm] * 2, [0.0, 0.0])


@every
def test_zbox_by_number_channel_and_image(layer: Layer, units: slow.Units, x: Tensor) -> None:
    z = output(layer, x)
    r = relevance_of(z, 1)
    ones = [1] * (x.ndim - 2)
    channel = torch.arange(x.shape[1], dtype=torch.float64).view(1, -1, *ones) / 7
    image = torch.arange(3, dtype=torch.float64).view(3, 1, *ones) / 5
    for low, high in ((-1.5, 2.0), (-1 - channel, 2 + channel), (-1 - image, 2 + image), (-1.5, 1 + image * channel)):
        rule = ZBox(low, high)
        found = rule.redistribute(layer, rule.prepare(layer, x, z), r, 0.0)[0]
        below, above = (torch.as_tensor(v, dtype=torch.float64).expand(x.shape).flatten(1).numpy() for v in (low, high))
        for n in range(3):
            share = slow.zbox(below[n], above[n])
            assert close(found[n : n + 1], slow.by_unit(share, units, x[n : n + 1], r[0, n : n + 1]))


@every
def test_a_bias_that_is_kept_is_an_input_of_one(layer: Layer, units: slow.Units, x: Tensor) -> None:
    """What the biases absorb, and what they leave, from the formulas without any bias."""
    wider = slow.Units(np.c_[units.weights, units.biases], np.c_[units.reads, np.ones(len(units.reads), bool)], 0 * units.biases)
    one = torch.cat([x.flatten(1), torch.ones(3, 1, dtype=torch.float64)], 1)
    z = output(layer, x)
    r = relevance_of(z, 1)
    rules = (Epsilon(0.1), slow.epsilon(0.1, "ignore")), (AlphaBeta(1.7), slow.alpha_beta(1.7, "ignore"))
    for rule, share in (*rules, (Gamma(0.3), slow.gamma(0.3, "ignore"))):
        state = rule.prepare(layer, x, z)
        wanted = slow.by_unit(share, wider, one, r[0])
        assert close(rule.redistribute(layer, state, r, rule.value)[0].flatten(1), wanted[:, :-1])
        assert close(rule.absorbed(layer, state, r, rule.value)[0], wanted[:, -1])


POOLS = [
    nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(2, ceil_mode=True),
    nn.AdaptiveAvgPool2d((2, 3)), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(7),
]  # fmt: skip


@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_average_pooling(pool: nn.Module) -> None:
    x = images((2, 5, 5))
    layer = of_module(pool)
    units = slow.units(pool, pool, x.shape[1:])
    compare(Norm(), layer, units, x, [slow.norm] * 2, [0.0, 0.0])
    values = [1.0, 1.7]
    compare(AlphaBeta(1.0, "spread"), layer, units, x, [slow.alpha_beta(a, "spread") for a in values], values)
    for rule in (Epsilon(), Gamma(), AlphaBeta(2.0), AlphaBeta(2.0, "ignore"), Flat()):
        assert isinstance(rule.pooled(), Norm)
    assert isinstance(AlphaBeta(2.0, "spread").pooled(), AlphaBeta)


@pytest.mark.parametrize("n", [2, 3])
def test_sums_of_branches(n: int) -> None:
    parts = [images((2, 3, 3), seed) for seed in range(n)]
    parts[0][0, 0], parts[1][0, 0] = parts[0][0, 0].abs(), parts[1][0, 0].abs()  # of one sign
    r = relevance_of(parts[0])
    inputs = torch.stack(parts, -1).view(-1, n)
    unit = slow.Units(np.ones((1, n)), np.ones((1, n), bool), np.zeros(1))
    rules: list[tuple[Rule, Any]] = [(rule, slow.norm) for rule in (Epsilon(), Gamma(), AlphaBeta(2.0), AlphaBeta(2.0, "ignore"))]
    rules += [(AlphaBeta(alpha, "spread"), slow.alpha_beta(alpha, "spread")) for alpha in (1.0, 1.7)]
    for rule, share in rules:
        found = torch.stack(rule.share(parts, r, rule.value), -1)
        for one, mine in zip(r, found, strict=True):
            assert close(mine.view(-1, n), slow.by_unit(share, unit, inputs, one.view(-1, 1)))


def test_a_norm_of_its_own_is_a_unit_of_one_input() -> None:
    x = images((4, 3, 3))
    w, b = torch.tensor([1.5, -0.5, 0.0, 2.0]).double(), torch.tensor([0.3, -0.2, 0.1, -1.0]).double()
    layer = Scaling(w, b, "norm")
    eye = np.diag(w.repeat_interleave(9).numpy())
    units = slow.Units(eye, np.eye(36) != 0, b.repeat_interleave(9).numpy())
    for bias in ("keep", "ignore"):
        compare(Epsilon(0.1, bias), layer, units, x, [slow.epsilon(e, bias) for e in (0.1, 0.2)], [0.1, 0.2])


@every
def test_raps_criterion(layer: Layer, units: slow.Units, x: Tensor) -> None:
    x = x.clamp(min=0)
    z = output(layer, x)
    r = relevance_of(z, 2)
    for of_dense in (True, False):
        rule = rap.Criterion(of_dense)
        found = rule.redistribute(layer, rule.prepare(layer, x, z), r, 0.0)
        for one, mine in zip(r, found, strict=True):
            assert close(mine, slow.rap_shift(slow.by_unit(slow.criterion(of_dense), units, x, one), one))


def test_raps_start() -> None:
    for module in (nn.Linear(7, 5), nn.Linear(7, 5, bias=False)):
        weights(module, 3)
        layer, x = of_module(module), images((7,)).clamp(min=0)
        assert isinstance(layer, Dense)
        rule = rap.Start()
        module.weight.data[3] = torch.tensor([1.0, -1, 0, 0, 0, 0, 0])
        x[0, :2] = 2.0  # contributions that cancel: the bias has nothing to spread over
        for target in range(5):
            r = F.one_hot(torch.full((3,), target), 5).double()
            found = rule.redistribute(layer, rule.prepare(layer, x, output(layer, x)), r[None], 0.0)[0]
            b = 0.0 if layer.bias is None else float(layer.bias[target])
            wanted = [slow.rap_start(one.numpy(), layer.weight[target].numpy(), b) for one in x]
            assert close(found, torch.from_numpy(np.stack(wanted)))


def test_the_stabiliser_is_added_with_the_sign_of_the_denominator() -> None:
    layer, x = Dense(torch.tensor([[1.0, -2.0]]).double(), None), torch.tensor([[1.0, 1.0]]).double()
    z, r = layer.forward(x), torch.ones(1, 1, 1, dtype=torch.float64)
    for rule, wanted in (
        (AlphaBeta(2.0, "ignore", 0.5), [2 / 1.5, -2 / 2.5]), (AlphaBeta(2.0, "keep", 0.5), [2 / 1.5, -2 / 2.5]),
        (Gamma(1.0, "keep", 0.5), [1 / -3.5, -4 / -3.5]), (Norm(0.5), [1 / -1.5, -2 / -1.5]),
        (ZBox(0.0, 2.0, 0.5), [1 / 3.5, 2 / 3.5]),
    ):  # fmt: skip
        found = rule.redistribute(layer, rule.prepare(layer, x, z), r, rule.value)
        torch.testing.assert_close(found[0, 0], torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Epsilon(0.0), "epsilon: expected a number above 0"),
        (lambda: Epsilon(-1e-3), "epsilon: expected a number above 0 .* found -0.001"),
        (lambda: Epsilon(float("nan")), "epsilon: expected a number above 0 .* found nan"),
        (lambda: Epsilon(torch.tensor([0.1, 0.0])), "epsilon: expected a number above 0"),
        (lambda: Epsilon(0.1, "spread"), 'epsilon: bias="spread" diverges'),
        (lambda: Epsilon(0.1, ANY), "bias: expected keep, ignore, spread, found 'any'"),
        (lambda: AlphaBeta(0.9), r"alpha: expected a number of at least 1 \(beta = alpha - 1\), found 0.9"),
        (lambda: AlphaBeta(float("nan")), "alpha: expected a number of at least 1"),
        (lambda: AlphaBeta(2.0, ANY), "bias: expected keep, ignore, spread, found 'any'"),
        (lambda: AlphaBeta(2.0, stabiliser=-1.0), "stabiliser: expected a number >= 0, found -1.0"),
        (lambda: Gamma(-0.1), "gamma: expected a number >= 0, found -0.1"),
        (lambda: ZBox(1.0, 0.0), "zbox: a lower bound lies above its upper bound"),
        (lambda: ZBox(torch.zeros(1, 3, 1, 1), torch.tensor([1.0, 1, -1]).view(1, 3, 1, 1)), "zbox: a lower bound lies above"),
    ],
)
def test_parameters_that_no_rule_can_take(make: Any, message: str) -> None:
    with pytest.raises(RelevanceError, match=message):
        make()


def test_bounds_that_do_not_broadcast() -> None:
    layer, x = CASES[3][1], CASES[3][3]
    for low in (torch.zeros(2, 1, 1), torch.zeros(1, 4, 1, 1), torch.zeros(4, 3, 1, 1), torch.zeros(1, 1, 3, 1, 1)):
        message = r"zbox: a bound of shape \(.*\) does not broadcast to inputs \(3, 3, 6, 5\)"
        with pytest.raises(RelevanceError, match=message):
            ZBox(low, low + 1).prepare(layer, x, output(layer, x))


def test_modules_without_a_rule() -> None:
    for module in (nn.ConvTranspose2d(2, 3, 3), nn.Bilinear(2, 2, 2), nn.ReLU()):
        with pytest.raises(TypeError, match=f"no rule for a module {type(module).__name__}; expected Linear, Conv2d"):
            of_module(module)


def test_negative_weights_of_a_pooling_are_none() -> None:
    x = images((2, 4, 4))
    layer = Pooling(nn.AvgPool2d(2))
    z = layer.forward(x)
    assert not layer.forward(x, -1).any() and not layer.back(z[None], x, -1).any()
    assert torch.equal(layer.forward(x, 1), z)

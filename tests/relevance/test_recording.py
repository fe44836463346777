"""The recording of a pass: however a network is written, relevance is the same; and nothing else is left of it."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.relevance.networks import Res, pixels, randomised, sequential, small
from xai_lib.explainers import lrp
from xai_lib.relevance import AlphaBeta, Convolution, Dense, Epsilon, Gamma, Ledger, Recording, RelevanceError, ZBox

pytestmark = pytest.mark.usefixtures("one_thread")
X = pixels(3, 16)
TARGETS = torch.tensor([0, 4, 2])
COMPOSITES = [
    lrp.epsilon(1e-9), lrp.epsilon(0.2, relative=True, bias="ignore"), lrp.alpha_beta(1.0), lrp.alpha_beta(2.0, bias="ignore"),
    lrp.alpha_beta(1.7, bias="spread", zbox=(-5.0, 5.0)), lrp.epsilon_gamma_box(-5.0, 5.0), lrp.epsilon_alpha2_beta1_flat(),
]  # fmt: skip


def gap(found: Tensor, wanted: Tensor) -> float:
    assert float(wanted.abs().max()) > 0 and found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


def conv(a: int = 3, b: int = 4, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(a, b, k, **{"padding": k // 2, **options})


def norm(n: int = 4) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(n)


def dense(a: int = 4, b: int = 5) -> nn.Linear:
    return nn.Linear(a, b)


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def pooled(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def statement(x: Tensor) -> Tensor:
    x.relu_()
    return x


def added(x: Tensor, y: Tensor) -> Tensor:
    x.add_(y)
    return x


def plus(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


#: name -> (the usual way, another way, parts)
TWINS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[nn.Module]]] = {
    "activations": (
        lambda m, x: m[2](m[4](m[1](m[3](m[0](x)))).mean((2, 3))),
        lambda m, x: m[2](torch.relu(m[1](F.relu(m[0](x)))).mean([-1, -2])),
        [conv(), conv(4, 4), dense(), nn.ReLU(), nn.ReLU()],
    ),
    "activations in place": (
        lambda m, x: m[2](pooled(m[1](m[0](x).relu()).relu())),
        lambda m, x: m[2](pooled(m[3](m[1](statement(m[0](x)))))),
        [conv(), conv(4, 4), dense(), nn.ReLU(inplace=True)],
    ),
    "in place without a result": (
        lambda m, x: m[2](pooled(F.relu6(m[1](F.relu(m[0](x)))))),
        lambda m, x: (a := m[0](x), F.relu(a, inplace=True), b := m[1](a), b.clamp_(0, 6), m[2](pooled(b)))[-1],
        [conv(), conv(4, 4), dense()],
    ),
    "sums": (
        lambda m, x: m[3](pooled(m[4](m[1](a := m[0](x).relu()), m[2](a)).relu())),
        lambda m, x: m[3](pooled(torch.add(m[1](a := m[0](x).relu()), m[2](a)).relu())),
        [conv(), conv(4, 4), conv(4, 4), dense(), Sum()],
    ),
    "sums in place": (
        lambda m, x: m[3](pooled((m[2](m[1](a := m[0](x).relu())) + a).relu())),
        lambda m, x: m[3](pooled(plus(m[2](m[1](a := m[0](x).relu())), a).relu_())),
        [conv(), conv(4, 4), norm(), dense()],
    ),
    "sums as a statement": (
        lambda m, x: m[2](pooled((m[1](a := m[0](x).relu()) + a).relu())),
        lambda m, x: m[2](pooled(added(m[1](a := m[0](x).relu()), a).relu())),
        [conv(), conv(4, 4), dense()],
    ),
    "Python's sum of branches": (
        lambda m, x: m[3](pooled(m[0](x) + m[1](x) + m[2](x))),
        lambda m, x: m[3](pooled(sum([m[0](x), m[1](x), m[2](x)]))),
        [conv(), conv(), conv(), dense()],
    ),
    "concatenation": (
        lambda m, x: m[2](pooled(torch.cat([m[0](x).relu(), m[1](x).relu()], 1))),
        lambda m, x: m[2](pooled(torch.concat((m[0](x), m[1](x)), dim=1).relu())),
        [conv(), conv(), dense(8)],
    ),
    "views": (
        lambda m, x: m[1](torch.flatten(m[0](x).relu(), 1)),
        lambda m, x: m[1](m[0](x).relu().view(x.size(0), -1)),
        [conv(), dense(4 * 256)],
    ),
    "padding": (
        lambda m, x: m[1](pooled(m[0](x).relu())),
        lambda m, x: m[1](pooled(F.conv2d(F.pad(x, (2, 2, 1, 1)), m[0].weight, m[0].bias, stride=2).relu())),
        [nn.Conv2d(3, 4, (3, 5), 2, (1, 2)), dense()],
    ),
    "pooling": (
        lambda m, x: m[2](m[4](m[3](m[0](x).relu())).flatten(1)),
        lambda m, x: m[2](F.avg_pool2d(input=torch.max_pool2d(m[0](x).relu(), 2), kernel_size=8).squeeze(-1).squeeze(-1)),
        [conv(), nn.Identity(), dense(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)],
    ),
    "dropout": (
        lambda m, x: m[1](pooled(m[0](x).relu())),
        lambda m, x: m[1](m[3](pooled(m[2](F.dropout(m[0](x).relu(), 0.5, m.training))))),
        [conv(), dense(), nn.Dropout2d(0.3), nn.Dropout(0.5)],
    ),
    "channel shuffle": (
        lambda m, x: m[2](pooled(m[1](m[0](x).relu()[:, [0, 2, 1, 3]]))),
        lambda m, x: m[2](pooled(m[1](shuffled(m[0](x).relu())))),
        [conv(), conv(4, 4, groups=2), dense()],
    ),
    "chunks": (
        lambda m, x: m[3](pooled(torch.cat([m[1]((a := m[0](x).relu())[:, :2]), m[2](a[:, 2:])], 1))),
        lambda m, x: m[3](pooled(torch.cat([f(c) for f, c in zip(m[1:3], m[0](x).relu().chunk(2, 1), strict=True)], 1))),
        [conv(), conv(2, 2), conv(2, 2), dense()],
    ),
    "batch norm taken in": (
        lambda m, x: m[2](pooled(m[1](m[0](x)).relu())),
        lambda m, x: m[2](pooled(F.batch_norm(m[0](x), m[1].running_mean, m[1].running_var, m[1].weight, m[1].bias).relu())),
        [conv(bias=False), norm(), dense()],
    ),
    "scaling by numbers": (
        lambda m, x: m[1](pooled(m[0](x).relu() * 1.5)),
        lambda m, x: m[1](pooled(3 * m[0](x).relu() / 2)),
        [conv(), dense()],
    ),
}  # fmt: skip
twins = pytest.mark.parametrize("name", TWINS)


@twins
def test_a_network_written_in_another_way_has_the_same_relevance(name: str) -> None:
    usual, other, parts = TWINS[name]
    one, two = small(usual, *copy.deepcopy(parts)), small(other, *copy.deepcopy(parts))
    with torch.no_grad():
        assert gap(two(X), one(X)) < 1e-12 and gap(Recording(two, X).logits, one(X)) < 1e-12
    for composite in COMPOSITES:
        wanted = lrp.relevance(one, X, TARGETS, composite)
        assert gap(lrp.relevance(two, X, TARGETS, composite), wanted) < 1e-10, composite
    start = torch.randn(3, 3, 5, dtype=torch.float64)
    maps = [lrp.propagate(Recording(n, X), COMPOSITES[3], start) for n in (one, two)]
    assert gap(*maps) < 1e-10


def test_a_convolution_that_is_called_twice_is_two_layers() -> None:
    """One call is followed by a batch norm, the other is not."""
    one: Any = small(lambda m, x: m[3](pooled(m[1](m[2](m[1](m[0](x).relu())).relu()))), conv(), conv(4, 4), norm(), dense())
    two = copy.deepcopy(one)
    two.m.append(copy.deepcopy(two.m[1]))
    two.function = lambda m, x: m[3](pooled(m[4](m[2](m[1](m[0](x).relu())).relu())))
    for composite in COMPOSITES:
        assert gap(lrp.relevance(one, X, TARGETS, composite), lrp.relevance(two, X, TARGETS, composite)) < 1e-12
    assert [o.layer.name for o in Recording(one, X).linear if o.layer is not None] == ["m.0", "m.1", "m.1", "m.3"]


def test_a_batch_norm_in_a_layer_is_the_layer_with_other_weights() -> None:
    network = sequential(norms=True)
    fused, layers = sequential(norms=False), list[Any](network)
    for i, module in enumerate(layers):
        if isinstance(module, nn.BatchNorm2d):
            layers[i - 1] = nn.utils.fusion.fuse_conv_bn_eval(layers[i - 1], module)
    merged = [m for m in layers if not isinstance(m, nn.BatchNorm2d)]
    assert [type(m) for m in merged] == [type(m) for m in fused]
    for composite in COMPOSITES:
        wanted = lrp.relevance(nn.Sequential(*merged), X, TARGETS, composite)
        assert gap(lrp.relevance(network, X, TARGETS, composite), wanted) < 1e-10


def test_a_norm_over_another_axis_than_the_units_is_no_part_of_a_dense_layer() -> None:
    network: Any = small(lambda m, x: m[2](m[1](m[0](x.flatten(2))).flatten(1)), dense(256, 3), nn.BatchNorm1d(3), dense(9))
    recording = Recording(network, X)
    layers = [o.layer for o in recording.linear if isinstance(o.layer, Dense)]
    assert [layer.fused for layer in layers] == [False, False]
    assert torch.equal(layers[0].weight, network.m[0].weight) and "scale" in [o.kind for o in recording.operations]
    apart = small(lambda m, x: m[2](m[1](m[0](x.flatten(2)) * 1.0).flatten(1)), dense(256, 3), nn.BatchNorm1d(3), dense(9))
    for composite in (lrp.alpha_beta(2.0), lrp.epsilon(1e-9)):
        assert gap(lrp.relevance(network, X, 0, composite), lrp.relevance(apart, X, 0, composite)) < 1e-10


def test_a_population_is_its_candidates_one_by_one() -> None:
    for network in (sequential(norms=True), randomised(Res().double()).eval()):
        recording = Recording(network, X)
        start = lrp.start_of(recording, TARGETS).expand(4, -1, -1).clone()
        start[2:] *= -0.5
        families: list[tuple[Any, float]] = [(lrp.alpha_beta, 1.0), (lrp.epsilon, 0.01)]
        for make, low in families:
            for grouping in ("all", "resolution", "layer"):
                composite = make([low], groups=grouping, zbox=(-5.0, 5.0))
                n = max(lrp.groups_of(recording, grouping)) + 1
                values = low + torch.rand(4, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
                found = lrp.propagate(recording, composite, start, values)
                assert found.shape == (4, *X.shape)
                for one, value, mine in zip(start, values, found, strict=True):
                    alone = make(value.tolist(), groups=grouping, zbox=(-5.0, 5.0))
                    assert gap(mine, lrp.propagate(recording, alone, one[None])[0]) < 1e-12
                    assert gap(mine, lrp.propagate(Recording(network, X), composite, one[None], value[None])[0]) < 1e-12
        fixed = lrp.propagate(recording, lrp.alpha_beta(2.0), start)
        assert gap(fixed[0], lrp.relevance(network, X, TARGETS, lrp.alpha_beta(2.0))) < 1e-12


def test_a_parameter_reaches_its_own_group_and_no_other() -> None:
    network = sequential()
    recording = Recording(network, X)
    start, relevances = lrp.start_of(recording, TARGETS)[None], []
    base = torch.full((1, 5), 2.0, dtype=torch.float64)
    for layer in range(5):
        values = base.clone()
        values[0, layer] = 1.0
        at: list[Tensor] = []

        class Watched(Recording):
            def back(self, operation: Any, r: Tensor, at: list[Tensor] = at) -> list[Tensor]:
                if operation.kind == "linear":
                    at.append(r)
                return super().back(operation, r)

        lrp.propagate(Watched(network, X), lrp.alpha_beta([2.0] * 5, groups="layer"), start, values)
        relevances.append(at[::-1])
    for i in range(5):  # what arrives at a layer's output depends on the layers above it alone
        for j in range(5):
            assert torch.equal(relevances[i][j], relevances[(i + 1) % 5][j]) == (i <= j and (i + 1) % 5 <= j)


def test_groups_are_where_the_resolution_changes_and_the_head() -> None:
    recording = Recording(sequential(), X)
    assert lrp.groups_of(recording, "resolution") == [0, 0, 1, 2, 2]
    assert lrp.groups_of(recording, "layer") == [0, 1, 2, 3, 4] and lrp.groups_of(recording, "all") == [0] * 5
    parts = [conv(), conv(4, 4, stride=2), conv(4, 5, 1, padding=0)]
    ends = small(lambda m, x: m[2](m[1](m[0](x))).mean((2, 3)), *parts)  # a last convolution that gives the logits
    assert lrp.groups_of(Recording(ends, X), "resolution") == [0, 1, 2]
    with pytest.raises(RelevanceError, match="groups: expected all, resolution, layer, found 'layers'"):
        lrp.alpha_beta(2.0, groups="layers")  # type: ignore[arg-type]


def test_images_of_a_batch_do_not_meet() -> None:
    for network in (sequential(norms=True), randomised(Res().double()).eval()):
        for composite in COMPOSITES:
            together = lrp.relevance(network, X, TARGETS, composite)
            alone = [lrp.relevance(network, x[None], [t], composite) for x, t in zip(X, TARGETS.tolist(), strict=True)]
            assert gap(together, torch.cat(alone)) < 1e-10


def test_relevance_is_computed_in_the_inputs_dtype() -> None:
    double = randomised(Res().double()).eval()
    single = copy.deepcopy(double).float()
    double.load_state_dict(single.state_dict())
    for composite in COMPOSITES:
        wanted = lrp.relevance(double, X, TARGETS, composite)
        found = lrp.relevance(single, X, TARGETS, composite)
        assert found.dtype == torch.float64 and gap(found, wanted) < 1e-12
        low = lrp.relevance(single, X.float(), TARGETS, composite)
        assert low.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in single.parameters())


def test_an_earlier_recording_lends_its_weights() -> None:
    network, other = sequential(norms=True), pixels(2, 16, seed=7)
    first = Recording(network, X)
    second = Recording(network, other, earlier=first)
    assert all(a.layer is b.layer for a, b in zip(first.linear, second.linear, strict=True))
    for composite in COMPOSITES:
        start = lrp.start_of(second, torch.tensor([1, 2]))[None]
        assert gap(lrp.propagate(second, composite, start)[0], lrp.relevance(network, other, [1, 2], composite)) < 1e-12


def test_bounds_of_other_values_are_not_taken_for_those_before() -> None:
    network = sequential()
    recording = Recording(network, X)
    start = lrp.start_of(recording, TARGETS)[None]
    lows: list[Any] = []
    for k in range(20):  # bounds that are gone would leave their address to others
        composite = lrp.alpha_beta(2.0, zbox=(torch.full((1, 3, 1, 1), -4.0 - k), torch.full((1, 3, 1, 1), 4.0 + k)))
        found = lrp.propagate(recording, composite, start)[0]
        lows.append(weakref.ref(cast(ZBox, composite.first).low))
        del composite
        assert gap(found, lrp.relevance(network, X, TARGETS, lrp.alpha_beta(2.0, zbox=(-4.0 - k, 4.0 + k)))) < 1e-12
    assert all(low() is not None for low in lows)


def test_a_recording_is_freed_without_the_collector() -> None:
    network = randomised(Res().double()).eval()
    gc.collect()
    gc.disable()
    try:
        for composite in COMPOSITES:
            recording = Recording(network, X)
            lrp.propagate(recording, composite, torch.randn(2, 3, 5), ledger=Ledger())
            seen: list[Any] = [weakref.ref(recording), *(weakref.ref(o.output) for o in recording.operations)]
            del recording
            assert not any(s() is not None for s in seen)
    finally:
        gc.enable()


class Breaking(nn.Module):
    """A convolution that raises in its pass."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("broken in its pass")


class Refusing(AlphaBeta):
    def redistribute(self, *_: Any) -> Tensor:
        raise ValueError("broken on the way back")


@pytest.mark.parametrize("where", ["nowhere", "on the way", "on the way back"])
def test_the_network_is_left_as_it_was(where: str) -> None:
    network = sequential(norms=True)
    if where == "on the way":
        network.insert(5, Breaking())
    network.train()
    network[1].eval()
    parameters = list(network.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.full_like(parameters[1], 2.0)
    kept = network[0].register_forward_hook(lambda *_: None)
    before, state = described(network), copy.deepcopy(network.state_dict())
    composite = lrp.Composite("broken", Refusing() if where == "on the way back" else Gamma(), Epsilon(1e-6), ZBox(-5.0, 5.0))
    if where == "nowhere":
        lrp.relevance(network, X, TARGETS, composite)
        lrp.check_conservation(network, composite, X)
    else:
        with pytest.raises(ValueError, match=f"broken {'in its pass' if where == 'on the way' else where}"):
            lrp.relevance(network, X, TARGETS, composite)
    assert described(network) == before and kept.id in network[0]._forward_hooks
    assert all(torch.equal(a, b) for a, b in zip(state.values(), network.state_dict().values(), strict=True))
    assert torch.equal(parameters[1].grad, torch.full_like(parameters[1], 2.0))
    assert torch._C._len_torch_function_stack() == 0 and torch.is_grad_enabled()


def described(network: nn.Module) -> list[Any]:
    modules = [(m.training, sorted(m._forward_hooks), sorted(m._forward_pre_hooks), sorted(vars(m))) for m in network.modules()]
    return [modules, [(id(p), p._version, p.requires_grad, p.grad is None) for p in network.parameters()]]


def test_a_recording_outlives_a_rule_that_broke() -> None:
    recording = Recording(sequential(), X)
    start = lrp.start_of(recording, TARGETS)[None]
    wanted = lrp.propagate(recording, COMPOSITES[3], start)
    with pytest.raises(ValueError, match="broken on the way back"):
        lrp.propagate(recording, lrp.Composite("broken", Refusing()), start)
    assert torch.equal(lrp.propagate(recording, COMPOSITES[3], start), wanted)


def test_gradients_may_be_off_and_weights_frozen_outside() -> None:
    network = sequential()
    wanted = lrp.relevance(network, X, TARGETS, COMPOSITES[0])
    network.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(lrp.relevance(network, X, TARGETS, COMPOSITES[0]), wanted)
        recording = Recording(network, X)
        assert lrp.propagate(recording, COMPOSITES[0], torch.ones(2, 3, 5)).shape == (2, *X.shape)
    assert not wanted.requires_grad and repr(recording) == "Recording((3, 3, 16, 16), 5 layers)"


def test_layers_have_the_networks_names_and_shapes() -> None:
    recording = Recording(randomised(Res().double()).eval(), X)
    names = [o.layer.name for o in recording.linear if o.layer is not None]
    assert names[:4] == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3"] and names[-1] == "fc"
    assert "layer2.0.downsample.0" in names and [o.index for o in recording.linear] == list(range(len(names)))
    layer = recording.linear[2].layer
    assert isinstance(layer, Convolution) and layer.fused and layer.pad == (1, 1, 1, 1)
    before = recording.nbytes
    lrp.propagate(recording, COMPOSITES[3], torch.ones(1, 3, 5))
    assert recording.nbytes > before > 0

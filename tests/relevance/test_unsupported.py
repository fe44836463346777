"""Whatever no rule is known for is a clear error, which names the operation and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.relevance.networks import pixels, sequential, small
from xai_lib.errors import XaiError
from xai_lib.explainers import lrp, rap
from xai_lib.relevance import Recording, RelevanceError, UnsupportedNetwork

pytestmark = pytest.mark.usefixtures("one_thread")
X = pixels(2, 8)
END = nn.Linear(4, 5)


def conv(a: int = 3, b: int = 4) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, padding=1)


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def with_branch(function: Callable[[Tensor, Tensor], Tensor]) -> tuple[Callable[[Any, Tensor], Tensor], list[nn.Module]]:
    return lambda m, x: m[2](mean(function(m[0](x), m[1](x)))), [conv(), conv(), END]


def alone(function: Callable[[Tensor], Tensor]) -> tuple[Callable[[Any, Tensor], Tensor], list[nn.Module]]:
    return lambda m, x: m[1](mean(function(m[0](x)))), [conv(), END]


def written_in_part(x: Tensor) -> Tensor:
    x[:, :2].relu_()
    return x


NO_RULE = "Written, after layer 'm.0': no rule is known for "
ENDED = "Written, after layer 'm.1': "
CASES: dict[str, tuple[tuple[Callable[[Any, Tensor], Any], list[nn.Module]], str]] = {
    "softmax": ((lambda m, x: m[1](mean(m[0](x))).softmax(1), [conv(), END]), ENDED + "no rule is known for softmax"),
    "log softmax": ((lambda m, x: F.log_softmax(m[1](mean(m[0](x))), 1), [conv(), END]), ENDED + "no rule .* log_softmax"),
    "quotient of a number": (alone(lambda a: torch.div(torch.ones(1), a)), NO_RULE + "div"),
    "number to a power": (alone(lambda a: 2**a), NO_RULE + "__rpow__"),
    "exponential": (alone(torch.exp), NO_RULE + "exp"),
    "softmax as a sum": (with_branch(lambda a, b: a.softmax(1) + b), ENDED + "no rule is known for softmax"),
    "max and its places": (alone(lambda a: a.max(1).values[:, None].expand(-1, 4, -1, -1)), NO_RULE + "max"),
    "pool with places": (alone(lambda a: F.max_pool2d(a, 2, return_indices=True)[0]), NO_RULE + "max_pool2d_with_indices"),
    "dropout that is on": (alone(lambda a: F.dropout(a, 0.5)), NO_RULE + "dropout"),
    "part written over": (alone(written_in_part), "after layer 'm.0': a tensor is used of which a part was written over"),
    "mean over images": (alone(lambda a: a.mean(0)[None].expand(2, -1, -1, -1)), "a mean over images has no rule"),
    "mean over all": ((lambda m, x: m[0](x).mean().expand(2, 5), [conv()]), "after layer 'm.0': a mean over images has no rule"),
    "norm of the batch": (alone(nn.BatchNorm2d(4, track_running_stats=False).double()),
                          "after layer 'm.0': a batch norm without running statistics mixes the images of a batch"),
    "norm in training": (alone(lambda a: F.batch_norm(a, torch.zeros(4), torch.ones(4), training=True)),
                         "after layer 'm.0': a batch norm without running statistics"),
    "weights of the input": ((lambda m, x: F.linear(m[0](x).flatten(1), x.flatten(1)), [conv(3, 3)]),
                             "after layer 'm.0': a layer whose weights depend on the input"),
    "kernel of the input": (with_branch(lambda a, b: F.conv2d(a, b[:1].expand(4, -1, -1, -1))), ENDED + "a layer whose weights"),
    "signal without a rule": (with_branch(lambda a, b: a.exp() * b.sigmoid()), ENDED + "no rule is known for exp"),
    "no layers": ((lambda m, x: mean(x), []), "Written has no convolution or dense layer"),
    "maps as output": ((lambda m, x: m[0](x), [conv()]), r"expected logits \(N, classes\), found \(2, 4, 8, 8\)"),
    "two outputs": ((lambda m, x: [m[0](x)], [conv()]), "the network's output is no tensor that depends on its input"),
    "constant output": ((lambda m, x: torch.zeros(2, 5), [conv()]), "the network's output is no tensor that depends on"),
    "no gradient": ((lambda m, x: m[1](mean(m[0](x))).detach(), [conv(), END]), "the network's output is no tensor that depends"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operations_without_a_rule(name: str) -> None:
    (function, parts), message = CASES[name]
    network = small(function, *parts)
    by_lrp, by_rap = (lambda: lrp.relevance(network, X, 0, lrp.epsilon())), (lambda: rap.relevance(network, X, 0))
    for run in (lambda: Recording(network, X), by_lrp, by_rap):
        with pytest.raises(UnsupportedNetwork, match=message):
            run()
    assert torch._C._len_torch_function_stack() == 0 and all(p.requires_grad for p in network.parameters())


def test_what_a_norm_follows_may_be_used_before_it_but_is_then_a_layer_of_its_own() -> None:
    network = small(lambda m, x: m[2](mean((a := m[0](x)).relu() + m[1](a))), conv(), nn.BatchNorm2d(4), END)
    recording = Recording(network, X)
    assert "scale" in [o.kind for o in recording.operations]
    with torch.no_grad():
        torch.testing.assert_close(recording.logits, network(X))
    parts = conv(), nn.BatchNorm2d(4), END
    after = small(lambda m, x: m[2](mean(m[1](a := m[0](x)).relu() + a)), *parts)
    apart = small(lambda m, x: m[2](mean(m[1](m[0](x) * 1.0).relu() + m[0](x))), *parts)
    for composite in (lrp.epsilon(), lrp.alpha_beta(2.0, bias="ignore")):
        found = lrp.check_equivalence(after, apart, composite, X)
        assert found.logits < 1e-12 and float(found.maps.max()) < 1e-9
    one = small(lambda m, x: m[2](mean(m[1](F.pad(a := m[0](x), (1, 1, 1, 1)))) + mean(m[1](a))), *parts)
    two = small(lambda m, x: m[2](mean(m[1](F.pad(m[0](x), (1, 1, 1, 1)))) + mean(m[1](m[0](x) * 1.0))), *parts)
    for composite in (lrp.epsilon(), lrp.alpha_beta(2.0, bias="ignore")):
        wanted = lrp.relevance(two, X, 0, composite)
        torch.testing.assert_close(lrp.relevance(one, X, 0, composite), wanted, rtol=1e-9, atol=1e-12)


def test_a_second_pass_that_differs_from_the_first() -> None:
    passes: list[int] = []

    def changing(m: Any, x: Tensor) -> Tensor:
        passes.append(1)
        x = m[0](x)
        return m[1](mean(x.relu() if len(passes) % 2 else x))

    def growing(m: Any, x: Tensor) -> Tensor:
        passes.append(1)
        x = m[0](x)
        return m[1](mean(x if len(passes) % 2 else x.relu()))

    for function in (changing, growing):
        passes.clear()
        recording = Recording(small(function, conv(), END), X)
        with pytest.raises(UnsupportedNetwork, match="the network's second pass differs from its first"):
            lrp.propagate(recording, lrp.epsilon(), torch.ones(2, 2, 5))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([[1.0]], "inputs: expected .*(N, C, H, W).* found list"),
        (torch.zeros(0, 3, 16, 16), r"of one image or more, found \(0, 3, 16, 16\)"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.int64), r"inputs: expected floats .* found \(2, 3, 16, 16\) of torch.int64"),
        (torch.zeros(2), r"inputs: expected floats \(N, C, H, W\), .* found \(2,\) of torch.float32"),
        (torch.zeros(2, 16, 16), r"Sequential, before any layer: a convolution sees \(2, 16, 16\); expected \(N, C, H, W\)"),
    ],
)
def test_inputs_that_no_network_can_take(inputs: Any, message: str) -> None:
    for run in (lambda: lrp.relevance(sequential(), inputs, 0, lrp.epsilon()), lambda: rap.relevance(sequential(), inputs, 0)):
        with pytest.raises(RelevanceError, match=message):
            run()
    assert issubclass(RelevanceError, XaiError)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (5, r"targets: expected classes of 0..4, found \[5, 5\]"),
        ([0, -1], r"targets: expected classes of 0..4, found \[0, -1\]"),
        ([0, 1, 2], r"targets: expected a class or one of the 2 images each, found \[0, 1, 2\]"),
        ([[0, 1]], "targets: expected a class or one of the 2 images each"),
        (0.5, "targets: expected a class or one of the 2 images each, found 0.5"),
        ("tabby", "targets: expected a class or one of the 2 images each, found 'tabby'"),
        (None, "targets: expected a class or one of the 2 images each, found None"),
    ],
)
def test_targets_that_no_network_can_take(targets: Any, message: str) -> None:
    network, x = sequential(), pixels(2, 16)
    for run in (lambda: lrp.relevance(network, x, targets, lrp.epsilon()), lambda: rap.relevance(network, x, targets)):
        with pytest.raises(RelevanceError, match=message):
            run()


def test_parameters_and_starts_of_another_number() -> None:
    recording = Recording(sequential(), pixels(2, 16))
    start = torch.ones(3, 2, 5)
    composite = lrp.alpha_beta(2.0, groups="resolution")
    for values in (torch.ones(3, 2), torch.ones(2, 3), torch.ones(3), torch.ones(1, 3)):
        message = r"Sequential has 3 groups of layers \(groups='resolution'\); found parameters \(.*\) for 3 candidates"
        with pytest.raises(RelevanceError, match=message):
            lrp.propagate(recording, composite, start, values)
    with pytest.raises(RelevanceError, match=r"has 5 groups of layers \(groups='layer'\); found parameters \(1, 2\) for 1"):
        lrp.relevance(sequential(), pixels(2, 16), 0, lrp.alpha_beta([1.0, 2.0], groups="layer"))
    for wrong in (torch.ones(2, 5), torch.ones(1, 3, 5), torch.ones(1, 2, 4)):
        with pytest.raises(RelevanceError, match=r"start: expected \(P, N, classes\) = \(P, 2, 5\), found \("):
            lrp.propagate(recording, composite, wrong)


#: what once was refused: each conserves, whatever is asked for
SUPPORTED: dict[str, tuple[Callable[[Any, Tensor], Any], list[nn.Module]]] = {
    "layer norm": alone(nn.LayerNorm([4, 8, 8]).double()),
    "group norm": alone(nn.GroupNorm(2, 4).double()),
    "instance norm": alone(F.instance_norm),
    "product of matrices": with_branch(torch.matmul),
    "product of branches": with_branch(torch.mul),
    "product in place": with_branch(lambda a, b: a.mul_(b)),
    "square": alone(lambda a: a * a),
    "gate": with_branch(lambda a, b: a * b.sigmoid()),
    "quotient": with_branch(torch.div),
    "power": alone(lambda a: a**2),
    "constant": alone(lambda a: a + 1),
    "constant in place": alone(lambda a: a.add_(1.0)),
    "map added": alone(lambda a: torch.ones(4, 8, 8) + a),
    "broadcast sum": with_branch(lambda a, b: a + b.mean((2, 3), keepdim=True)),
    "weighted sum": with_branch(lambda a, b: torch.add(a, b, alpha=2)),
    "difference": with_branch(torch.sub),
    "negation": alone(torch.neg),
    "normalisation inside": (lambda m, x: m[1](mean(m[0](x - 0.5))), [conv(), END]),
    "transposed": alone(nn.ConvTranspose2d(4, 4, 3, padding=1).double()),
    "one dimension": alone(lambda a: F.conv1d(a.flatten(2), torch.eye(4)[..., None].double())[..., None]),
    "interpolate": alone(lambda a: F.interpolate(a, scale_factor=2.0)),
    "reflection": alone(lambda a: F.pad(a, (1, 1, 1, 1), mode="reflect")),
    "padding of ones": alone(lambda a: F.pad(a, (1, 1, 1, 1), value=1.0)),
    "learned slope": alone(nn.PReLU().double()),
    "maximum over axes": alone(lambda a: a.amax((2, 3), keepdim=True)),
    "sum over axes": alone(lambda a: a.sum(1, keepdim=True).expand(-1, 4, -1, -1)),
    "where": alone(lambda a: torch.where(a > 0, a, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", SUPPORTED)
def test_what_has_a_rule_conserves(name: str) -> None:
    function, parts = SUPPORTED[name]
    network = small(function, *parts)
    with torch.no_grad():
        torch.testing.assert_close(Recording(network, X).logits, network(X))
    for composite in (lrp.epsilon(1e-12), lrp.epsilon_plus(epsilon=1e-12)):
        found = lrp.check_conservation(network, composite, X)
        assert float(found.error.abs().max()) < 1e-7, composite

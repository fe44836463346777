"""Rules against zennit's own, through zennit's hooks; and ours as hooks of zennit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import zennit.composites
import zennit.rules
from torch import Tensor, nn
from zennit.composites import LayerMapComposite
from zennit.types import Activation, AvgPool, Convolution, Linear

from tests.relevance.networks import pixels, sequential
from xai_lib.explainers import lrp
from xai_lib.relevance import AlphaBeta, Epsilon, Flat, Gamma, Norm, Rule, ZBox

pytestmark = pytest.mark.usefixtures("one_thread")
LEAST = 1e-9
X = pixels(3, 16)
TARGETS = torch.tensor([0, 3, 4])
LOW, HIGH = -3.0 - torch.arange(3).view(1, 3, 1, 1).double(), 3.0 + torch.arange(3).view(1, 3, 1, 1).double()
DROP = {"keep": None, "ignore": ["bias"]}
biases = pytest.mark.parametrize("bias", ["keep", "ignore"])


def theirs(rule: Any, first: Any = None) -> zennit.core.Composite:
    layers: list[tuple[Any, Any]] = [(Linear, rule), (AvgPool, zennit.rules.Norm(LEAST)), (Activation, zennit.rules.Pass())]
    if first is None:
        return LayerMapComposite(layers)
    return zennit.composites.SpecialFirstLayerMapComposite(layers, [(Convolution, first)])


def relevance(network: nn.Module, composite: zennit.core.Composite) -> Tensor:
    """By zennit alone."""
    x = X.clone().requires_grad_()
    with composite.context(network) as hooked:
        logits = hooked(x)
        start = nn.functional.one_hot(TARGETS, logits.shape[1]) * logits.detach()
        (found,) = torch.autograd.grad(logits, x, start)
    return found


def gap(found: Tensor, wanted: Tensor) -> float:
    assert float(wanted.abs().max()) > 0
    return float((found - wanted).abs().max() / wanted.abs().max())


@biases
@pytest.mark.parametrize("relative", [False, True])
def test_epsilon(relative: bool, bias: Any) -> None:
    network = sequential()
    for e in (1e-6, 0.3):
        size = zennit.core.Stabilizer(e, norm_scale=relative)
        wanted = relevance(network, theirs(zennit.rules.Epsilon(size, zero_params=DROP[bias])))
        assert gap(lrp.relevance(network, X, TARGETS, lrp.epsilon(e, relative=relative, bias=bias)), wanted) < 1e-6


@biases
@pytest.mark.parametrize("alpha", [1.0, 1.75, 2.0])
def test_alpha_beta(alpha: float, bias: Any) -> None:
    network = sequential(1)
    own = lrp.alpha_beta(alpha, bias=bias, stabiliser=LEAST)
    found = lrp.relevance(network, X, TARGETS, own)
    wanted = relevance(network, theirs(zennit.rules.AlphaBeta(alpha, alpha - 1, LEAST, DROP[bias])))
    assert gap(found, wanted) < 1e-12
    if alpha == 1:
        assert gap(found, relevance(network, theirs(zennit.rules.ZPlus(LEAST, DROP[bias])))) < 1e-12
    without = lrp.relevance(network, X, TARGETS, lrp.alpha_beta(alpha, bias=bias))  # the stabiliser of none
    assert gap(without, wanted) < 1e-6


@pytest.mark.parametrize("gamma", [0.25, 100.0])
def test_gamma(gamma: float) -> None:
    network = sequential(2)
    rule = Gamma(gamma, "keep", LEAST)
    wanted = relevance(network, theirs(zennit.rules.Gamma(gamma, LEAST)))
    assert gap(lrp.relevance(network, X, TARGETS, lrp.Composite("gamma", rule)), wanted) < 1e-12
    bare = sequential(2, bias=False)  # zennit decides by the sign of z with its bias, even where the bias is set to zero
    for ours in (rule, Gamma(gamma, "ignore", LEAST)):
        wanted = relevance(bare, theirs(zennit.rules.Gamma(gamma, LEAST, ["bias"])))
        assert gap(lrp.relevance(bare, X, TARGETS, lrp.Composite("gamma", ours)), wanted) < 1e-12


@pytest.mark.parametrize("box", [(LOW, HIGH), (-4.0, 4.0)], ids=["by channel", "numbers"])
def test_zbox(box: tuple[Any, Any]) -> None:
    network = sequential(3)
    wanted = relevance(network, theirs(zennit.rules.AlphaBeta(2.0, 1.0, LEAST), zennit.rules.ZBox(*box, LEAST)))
    ours = lrp.Composite("zbox", AlphaBeta(2.0, "keep", LEAST), first=ZBox(box[0], box[1], LEAST))
    assert gap(lrp.relevance(network, X, TARGETS, ours), wanted) < 1e-12
    assert gap(lrp.relevance(network, X, TARGETS, lrp.alpha_beta(2.0, zbox=box)), wanted) < 1e-6


def test_the_named_composites_are_zennits() -> None:
    network, box = sequential(4), (-4.0, 4.0)
    for name in ("epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box"):
        kind = zennit.composites.COMPOSITES[name]
        options = {"low": box[0], "high": box[1]} if name == "epsilon_gamma_box" else {}
        found = lrp.relevance(network, X, TARGETS, lrp.COMPOSITES[name](*options.values()))
        assert gap(found, relevance(network, kind(stabilizer=1e-12, **options))) < 1e-8, name
        assert gap(found, relevance(network, kind(**options))) < 1e-2, name  # zennit's own stabiliser, 1e-6 everywhere


RULES = {
    "epsilon": Epsilon(0.1), "relative epsilon": Epsilon(0.1, "ignore", relative=True), "z+": AlphaBeta(1.0),
    "alpha2": AlphaBeta(2.0, "ignore"), "spread": AlphaBeta(1.5, "spread"), "gamma": Gamma(0.3),
    "gamma spread": Gamma(0.3, "spread"),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_our_rules_registered_by_zennit_do_the_same(name: str) -> None:
    network, rule = sequential(5), RULES[name]
    ours = lrp.Composite(name, rule, first=ZBox(LOW, HIGH))
    wanted = lrp.relevance(network, X, TARGETS, ours)
    assert gap(relevance(network, ours), wanted) < 1e-12
    mapped = zennit.composites.SpecialFirstLayerMapComposite(
        [(Linear, rule), (AvgPool, rule), (Activation, zennit.rules.Pass())], [(Convolution, ZBox(LOW, HIGH))]
    )
    assert gap(relevance(network, mapped), wanted) < 1e-12
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_flat_and_norm_registered_by_zennit() -> None:
    network = sequential(6)
    pairs: list[tuple[Rule, Any]] = [(Flat(), zennit.rules.Flat(0.0)), (Norm(), zennit.rules.Norm(0.0))]
    flat, norm = (
        [relevance(network, LayerMapComposite([(Convolution, each), (nn.Linear, zennit.rules.Epsilon(1e-9))])) for each in pair]
        for pair in pairs
    )
    assert gap(*flat) < 1e-12
    bare = sequential(6, bias=False)  # zennit's Norm on a layer keeps its bias
    assert gap(relevance(bare, theirs(Norm())), relevance(bare, theirs(zennit.rules.Norm(1e-12)))) < 1e-6
    assert norm[0].isfinite().all()


def test_a_composite_of_zennit_runs_as_it_comes() -> None:
    network = sequential(7)
    for composite in (zennit.composites.EpsilonPlus(), theirs(zennit.rules.Gamma())):
        before = copy.deepcopy(network.state_dict())
        found = lrp.relevance(network, X, TARGETS, composite)
        assert torch.equal(found, relevance(network, composite))
        assert all(torch.equal(a, b) for a, b in zip(before.values(), network.state_dict().values(), strict=True))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
        assert all(p.requires_grad and p.grad is None for p in network.parameters())

"""The eight networks of the papers in float64: what arrives at the pixels, and that the network is not touched."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
import zennit.composites
import zennit.layer
import zennit.rules
from torch import Tensor, nn
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, AvgPool, BatchNorm, Linear

from tests.relevance.networks import LARGE, MIXED, RELU, big, pixels
from xai_lib.explainers import lrp, rap
from xai_lib.relevance import Bias, Ledger, Recording, UnsupportedNetwork

pytestmark = pytest.mark.usefixtures("one_thread")
BOX = (-6.0, 6.0)


@dataclass
class Case:
    name: str
    network: nn.Module
    x: Tensor
    before: list[Any]
    recording: Recording
    targets: Tensor

    def relevance(self, composite: lrp.Composite, targets: Tensor | None = None, ledger: Ledger | None = None) -> Tensor:
        start = lrp.start_of(self.recording, self.targets if targets is None else targets)
        return lrp.propagate(self.recording, composite, start[None], ledger=ledger)[0]

    @property
    def second(self) -> Tensor:
        return self.recording.logits.topk(2).indices[:, 1]

    def logit(self, targets: Tensor | None = None) -> Tensor:
        return self.recording.logits.gather(1, (self.targets if targets is None else targets)[:, None])[:, 0]


def snapshot(network: nn.Module) -> list[Any]:
    """Every tensor (the sum of its bits, whether it was written to), every mode, hook and gradient."""
    state = [(n, t.data_ptr(), t._version, bits(t)) for n, t in network.state_dict(keep_vars=True).items()]
    modules = [(m.training, [*m._forward_hooks], [*m._forward_pre_hooks], sorted(vars(m))) for m in network.modules()]
    return [state, modules, [(p.requires_grad, p.grad is None) for p in network.parameters()]]


def bits(t: Tensor) -> int:
    return int(t.detach().contiguous().view(torch.int64).sum()) if t.dtype in (torch.float64, torch.int64) else int(t.sum())


@pytest.fixture(scope="module", params=[*MIXED, *RELU])
def case(request: pytest.FixtureRequest) -> Case:
    network, x = big(request.param), pixels(1 if request.param in LARGE else 2)
    next(network.parameters()).requires_grad_(False)
    network.train()
    next(iter(network.children())).eval()
    before = snapshot(network)
    recording = Recording(network, x)
    return Case(request.param, network, x, before, recording, recording.logits.argmax(1))


def total(relevance: Tensor) -> Tensor:
    return relevance.flatten(1).sum(1)


def gap(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_the_recorded_logits_are_the_networks(case: Case) -> None:
    modes = [m.training for m in case.network.modules()]
    with torch.no_grad():
        assert gap(case.recording.logits, case.network.eval()(case.x)) < 1e-12
    for module, training in zip(case.network.modules(), modes, strict=True):
        module.training = training
    assert float(case.logit().abs().min()) > 1e-3


def test_epsilon_pixels_and_biases_make_the_logit(case: Case) -> None:
    for targets, zbox in ((case.targets, None), (case.second, BOX))[: 1 if case.name in LARGE else 2]:
        ledger = Ledger()
        found = total(case.relevance(lrp.epsilon(1e-9, zbox=zbox), targets, ledger))
        assert ((found + ledger.biases - case.logit(targets)).abs() <= 1e-6 * case.logit(targets).abs()).all()
        assert torch.as_tensor(ledger.biases).abs().max() > 1e-3


def test_lrp_0_is_input_times_gradient(case: Case) -> None:
    """Where all activations are ReLU; a ReLU6 that is full has the gradient 0, and relevance passes it.

    (VGG19 and ResNet50 are as the others.)
    """
    if case.name in ("mobilenet_v2", "efficientnet_lite0", "vgg19", "resnet50"):
        return
    x = case.x.clone().requires_grad_()
    network = case.network if case.name in LARGE else copy.deepcopy(case.network)
    modes = [m.training for m in network.modules()]
    logits = network.eval()(x)
    (gradient,) = torch.autograd.grad(logits.gather(1, case.targets[:, None]).sum(), x)
    for module, training in zip(network.modules(), modes, strict=True):
        module.training = training
    assert gap(case.relevance(lrp.epsilon(1e-12)), gradient * case.x) < 1e-6


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alpha_beta_with_spread_biases_makes_the_logit(alpha: float, case: Case) -> None:
    targets, zbox = (case.targets, None) if alpha == 1 else (case.second, BOX)
    found = total(case.relevance(lrp.alpha_beta(alpha, bias="spread", zbox=zbox), targets))
    assert ((found - case.logit(targets)).abs() <= 1e-9 * case.logit(targets).abs()).all()


def test_rap_makes_the_logit_whatever_its_sign(case: Case) -> None:
    if case.name in MIXED:
        layer = {"squeezenet1_1": "does not end in a dense layer .its last layer is 'classifier.1'.",
                 "mobilenet_v2": "layer 'features.18.0' sees negative inputs",
                 "densenet121": "", "efficientnet_lite0": "layer 'conv_head' sees negative inputs"}[case.name]  # fmt: skip
        if layer:
            with pytest.raises(UnsupportedNetwork, match=f"RAP: .*{layer}"):
                rap.propagate(case.recording, case.targets)
            return
    for targets in (case.targets, case.recording.logits.argmin(1)):
        found = rap.propagate(case.recording, targets)
        logit = case.logit(targets)
        assert ((total(found) - logit).abs() <= 1e-10 * found.flatten(1).abs().sum(1)).all()
        assert found.isfinite().all() and (logit > 0).all() == (targets is case.targets)


def test_the_network_is_bit_for_bit_what_it_was(case: Case) -> None:
    composite = lrp.epsilon_gamma_box(*BOX)
    if case.name not in LARGE:
        found = lrp.relevance(case.network, case.x, case.targets, composite)
        assert found.dtype == torch.float64 and found.isfinite().all()
    assert snapshot(case.network) == case.before


@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
def test_alpha_beta_is_zennits(name: str) -> None:
    """VGG with dense layers of 64 units, which spare zennit its ten copies of a gigabyte."""
    network, x = big(name, 1, hidden=64), pixels(2, 48)
    for module in network.modules():  # the merge of zennit 0.5.1 leaves eps behind
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var += module.eps
            module.eps = 0.0
    canonizers = [ResNetCanonizer()] if name == "resnet18" else []
    for alpha, bias in ((1.0, "keep"), (2.0, "keep"), (2.0, "ignore")):
        drop = ["bias"] if bias == "ignore" else None
        pairs = [
            (Linear, zennit.rules.AlphaBeta(alpha, alpha - 1, 1e-9, drop)), (AvgPool, zennit.rules.Norm(1e-9)),
            (Activation, zennit.rules.Pass()), (BatchNorm, zennit.rules.Pass()), (zennit.layer.Sum, zennit.rules.Norm(1e-9)),
        ]  # fmt: skip
        wanted = lrp.relevance(network, x, [3, 700], zennit.composites.LayerMapComposite(pairs, canonizers=canonizers))
        ours = lrp.alpha_beta(alpha, bias=cast(Bias, bias), stabiliser=1e-9)
        assert gap(lrp.relevance(network, x, [3, 700], ours), wanted) < 1e-9

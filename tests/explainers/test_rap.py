"""RAP against its definition worked out unit by unit, its sum, its errors, and the explainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zennit.composites
import zennit.core
import zennit.rules
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import picture, tiny
from tests.relevance import slow
from tests.relevance.networks import Res, pixels, randomised, sequential, small
from xai_lib import explainers
from xai_lib.explainers import lrp, rap
from xai_lib.explanation import ExplanationError
from xai_lib.relevance import UnsupportedNetwork, ZBox

pytestmark = pytest.mark.usefixtures("one_thread")
X = pixels(2, 12)


def plain(norms: bool = False) -> nn.Module:
    """Two convolutions, three dense layers; with max pooling."""
    return randomised(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4) if norms else nn.Identity(), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(),
            nn.Linear(6, 5),
        ).double()
    ).eval()  # fmt: skip


def by_definition(network: Any, x: Tensor, targets: list[int], low: Tensor, high: Tensor) -> Tensor:
    """The steps of the docstring, layer by layer, from matrices; `low`, `high`: `(N,)`."""
    inputs = [x]
    with torch.no_grad():
        for module in network:
            inputs.append(module(inputs[-1]))
    last = network[-1]
    rows = [
        slow.rap_start(one.numpy(), last.weight[t].detach().numpy(), float(last.bias[t].detach()))
        for one, t in zip(inputs[-2], targets, strict=True)
    ]
    r = torch.from_numpy(np.stack(rows))
    for i in reversed(range(len(network) - 1)):
        module, a = network[i], inputs[i]
        if isinstance(module, nn.MaxPool2d):
            moving = a.clone().requires_grad_()
            (r,) = torch.autograd.grad(module(moving), moving, r)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            units = of(module, a.shape[1:])
            if i == 0:
                parts = [
                    slow.by_unit(slow.zbox(float(lo), float(hi)), units, a[n : n + 1], r[n : n + 1])
                    for n, (lo, hi) in enumerate(zip(low, high, strict=True))
                ]
                r = torch.cat(parts)
            else:
                r = slow.rap_shift(slow.by_unit(slow.criterion(isinstance(module, nn.Linear)), units, a, r), r)
        else:
            r = r.view_as(a)
    return r


def of(module: Any, shape: torch.Size) -> slow.Units:
    def mapped(x: Tensor) -> Tensor:
        if isinstance(module, nn.Linear):
            return F.linear(x, module.weight.detach())
        return F.conv2d(x, module.weight.detach(), None, module.stride, module.padding)

    return slow.units(mapped, mapped, shape)


def gap(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_rap_is_its_definition() -> None:
    network = plain()
    logits = network(X).detach()
    for targets in (logits.argmax(1).tolist(), logits.argmin(1).tolist(), [0, 3]):
        wanted = by_definition(network, X, targets, X.flatten(1).amin(1), X.flatten(1).amax(1))
        assert gap(rap.relevance(network, X, targets), wanted) < 1e-10
        boxed = by_definition(network, X, targets, torch.full((2,), -4.0), torch.full((2,), 5.0))
        assert gap(rap.relevance(network, X, targets, zbox=(-4.0, 5.0)), boxed) < 1e-10
        channels = torch.arange(3).view(1, 3, 1, 1).double()
        assert gap(rap.relevance(network, X, targets, zbox=(-4.0 - channels, 5.0 + channels)), boxed) > 1e-3


def test_a_batch_norm_is_taken_into_its_convolution() -> None:
    network: Any = plain(norms=True)
    merged = nn.utils.fusion.fuse_conv_bn_eval(network[0], network[1])
    fused = nn.Sequential(merged, *network[2:])
    assert gap(rap.relevance(network, X, 1), rap.relevance(fused, X, 1)) < 1e-12
    network[1].weight.data[0] *= -1  # which turns what is positive and what is negative
    merged = nn.utils.fusion.fuse_conv_bn_eval(network[0], network[1])
    assert gap(rap.relevance(network, X, 1), rap.relevance(nn.Sequential(merged, *network[2:]), X, 1)) < 1e-12


def test_the_rules_registered_by_zennit_do_the_same() -> None:
    network: Any = plain()
    box = X.amin((1, 2, 3), keepdim=True), X.amax((1, 2, 3), keepdim=True)
    layers: list[tuple[tuple[str, ...], zennit.core.Hook]] = [
        (("0",), ZBox(*box)), (("4",), rap.Criterion()), (("7", "9"), rap.Criterion(of_dense=True)), (("11",), rap.Start()),
        (("2", "5", "8", "10"), zennit.rules.Pass()),
    ]  # fmt: skip
    x = X.clone().requires_grad_()
    with zennit.composites.NameMapComposite(layers).context(network) as prepared:
        logits = prepared(x)
        (found,) = torch.autograd.grad(logits, x, F.one_hot(torch.tensor([0, 3]), 5).to(logits))
    assert gap(found, rap.relevance(network, X, [0, 3])) < 1e-12


def test_the_pixels_sum_to_the_logit_of_every_class() -> None:
    signs: set[float] = set()
    others = [sequential(1), sequential(2, norms=True), sequential(3, bias=False), randomised(Res().double()).eval()]
    for network, x in ((plain(), pixels(5, 12)), *((n, pixels(5, 16)) for n in others)):
        logits = network(x).detach()
        signs.update(logits.sign().flatten().tolist())
        for target in range(5):
            found = rap.relevance(network, x, target)
            total = found.flatten(1).sum(1)
            assert ((total - logits[:, target]).abs() <= 1e-10 * found.flatten(1).abs().sum(1)).all()
    assert signs == {-1, 1}


def test_shift_keeps_the_sum_and_leaves_units_without_relevance_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    criterion = torch.randn(2, 3, 4, 5, 5, generator=rng, dtype=torch.float64)
    criterion[criterion.abs() < 0.3] = 0
    above = torch.randn(2, 3, 7, generator=rng, dtype=torch.float64)
    found = rap.shifted(criterion.clone(), above)
    torch.testing.assert_close(found.flatten(2).sum(2), above.sum(2), rtol=0, atol=1e-12)
    assert torch.equal(found == 0, criterion == 0)
    for p in range(2):
        torch.testing.assert_close(found[p], slow.rap_shift(criterion[p], above[p]), rtol=0, atol=1e-12)
    assert not rap.shifted(torch.zeros(1, 1, 4), torch.ones(1, 1, 2)).any()


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (small(lambda m, x: mean(m[1](m[0](x).relu())), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)),
         "RAP: Written does not end in a dense layer .its last layer is 'm.1'.; RAP begins there, as in VGG and ResNet"),
        (small(lambda m, x: m[1](mean(m[0](x).relu())).relu(), nn.Conv2d(3, 4, 3), nn.Linear(4, 5)),
         "RAP: Written does not end in a dense layer"),
        (small(lambda m, x: m[2](mean(m[1](m[0](x)).relu())), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)),
         "RAP: layer 'm.1' sees negative inputs .-.*., for which RAP has no rule: .*; lrp.alpha_beta takes any"),
        (small(lambda m, x: m[1](mean(m[0](x))), nn.Conv2d(3, 4, 3), nn.Linear(4, 5)), "RAP: layer 'm.1' sees negative inputs"),
    ],
)  # fmt: skip
def test_networks_that_rap_cannot_explain(network: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedNetwork, match=message):
        rap.relevance(network, X, 0)
    assert lrp.relevance(network, X, 0, lrp.alpha_beta(2.0)).shape == X.shape


def test_images_of_a_batch_do_not_meet() -> None:
    network, x = sequential(4), pixels(3, 16)
    together = rap.relevance(network, x, [0, 1, 2])
    assert gap(together, torch.cat([rap.relevance(network, x[n : n + 1], n) for n in range(3)])) < 1e-10


def test_the_explainer_is_the_function_with_its_channels_summed() -> None:
    classifier, images = tiny(), torch.stack([picture(s) for s in range(2)])
    found = explainers.get("rap").explain(classifier, images, [2, 4])
    for n, target in enumerate((2, 4)):
        wanted = rap.relevance(classifier.network, classifier.normalise(images[n : n + 1]), target)[0]
        details = found.details[n]
        assert torch.equal(found.maps[n], wanted.sum(0)) and details["calls"] == 2 and found.signed
        assert details["pixels"] == pytest.approx(details["logit"], rel=1e-4, abs=1e-5)
        assert details["spread"] == pytest.approx(float(wanted.abs().sum() / wanted.sum().abs()), rel=1e-3)
        with torch.no_grad():
            assert details["logit"] == pytest.approx(float(classifier(images)[n, target]), rel=1e-4)
    with pytest.raises(ExplanationError, match="has no field bogus"):
        rap.Settings.from_json('{"bogus": 1}')

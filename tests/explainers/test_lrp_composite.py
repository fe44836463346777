"""The composite of paper 4 against its authors' loop, written out; zennit beside it; and their fault with broadcasting."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import zennit.core
import zennit.rules
from torch import Tensor, nn
from torchvision.models.vgg import VGG, cfgs, make_layers
from zennit.composites import NameMapComposite

from tests.networks import picture, tiny
from tests.relevance.networks import Res, pixels, randomised, sequential
from xai_lib import classifiers, explainers
from xai_lib.explainers import lrp, lrp_composite
from xai_lib.explainers.lrp_composite import by_depth, with_broadcast_fault
from xai_lib.explanation import ExplanationError
from xai_lib.relevance import Recording, RelevanceError

pytestmark = pytest.mark.usefixtures("one_thread")
X = pixels(1, 64)


@pytest.fixture(scope="module")
def vgg16() -> nn.Module:
    """VGG16's features for 64 pixels, where they end at 2 x 2, and small dense layers, 4 classes, float64."""
    with torch.random.fork_rng():
        network = VGG(make_layers(cfgs["D"]), num_classes=4, init_weights=False)
    network.avgpool = nn.AdaptiveAvgPool2d(2)
    network.classifier = nn.Sequential(
        nn.Linear(2048, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 4)
    )
    return randomised(network.double(), 3).eval()


def loop(network: Any, x: Tensor, start: Tensor, *, average: bool = True, box: tuple[float, float] | None = None) -> Tensor:
    """The authors' loop over modules 0 to 38, as section 6.2 of the paper's notes writes it; one image."""
    layers = [*network.features, network.avgpool]
    for module, shape in zip(network.classifier, [2, 0, 0, 1, 0, 0, 1], strict=True):
        layers.append(as_convolution(module, shape) if isinstance(module, nn.Linear) else module)
    activations = [x]
    for module in layers:
        activations.append(module(activations[-1]).detach())
    relevance = start.view(1, -1, 1, 1)
    for i in range(len(layers))[::-1]:
        module = layers[i]
        a = activations[i].detach().requires_grad_()
        if isinstance(module, nn.MaxPool2d):
            module = nn.AvgPool2d(2) if average else module
        elif not isinstance(module, nn.Conv2d):
            continue  # ReLU, dropout, and the adaptive pool that changes nothing: relevance passes
        gamma = 0.25 if i <= 16 else 0.0
        if i == 0 and box is not None:
            relevance = boxed(module, a, relevance, *box)
            continue
        if isinstance(module, nn.MaxPool2d):
            out = module(a)
            relevance = torch.autograd.grad(out, a, relevance)[0]
            continue
        z = grown(module, gamma)(a) + 1e-9
        if 17 <= i <= 30:
            z = z + 0.25 * z.square().mean().sqrt().detach()
        c = torch.autograd.grad((z * (relevance / z).detach()).sum(), a)[0]
        relevance = (a * c).detach()
    return relevance


def as_convolution(dense: nn.Linear, side: int) -> nn.Conv2d:
    side = side or 1
    found = nn.Conv2d(dense.in_features // side**2, dense.out_features, side).double()
    found.weight.data = dense.weight.data.view(found.weight.shape)
    found.bias = dense.bias
    return found


def grown(module: nn.Module, gamma: float) -> nn.Module:
    twin = copy.deepcopy(module)
    for parameter in twin.parameters():
        parameter.data += gamma * parameter.data.clamp(min=0)
    return twin


def boxed(module: nn.Module, a: Tensor, relevance: Tensor, low: float, high: float) -> Tensor:
    def signed(sign: int) -> nn.Module:
        twin = copy.deepcopy(module)
        twin.weight.data = twin.weight.data.clamp(min=0) if sign > 0 else twin.weight.data.clamp(max=0)
        twin.bias = None
        return twin

    plain, up, down = copy.deepcopy(module), signed(1), signed(-1)
    plain.bias = None
    lows, highs = (torch.full_like(a, v).requires_grad_() for v in (low, high))
    z = plain(a) - up(lows) - down(highs)
    found = torch.autograd.grad((z * (relevance / z).detach()).sum(), (a, lows, highs))
    return (a * found[0] + lows * found[1] + highs * found[2]).detach()


def start(network: nn.Module, x: Tensor, target: int) -> Tensor:
    logits = network(x).detach()
    return logits * nn.functional.one_hot(torch.tensor([target]), logits.shape[1])


def gap(found: Tensor, wanted: Tensor) -> float:
    assert float(wanted.abs().max()) > 0
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_the_authors_variant_is_their_loop(vgg16: nn.Module) -> None:
    x = X.sigmoid()  # their pixels are in 0..1
    wanted = loop(vgg16, x, start(vgg16, x, 2))
    for sign_aware in (True, False):
        composite = by_depth(max_pooling="average", sign_aware=sign_aware)
        assert gap(lrp.relevance(vgg16, x, 2, composite), wanted) < 1e-6


def test_ours_is_the_loop_with_the_box_and_the_winner(vgg16: nn.Module) -> None:
    wanted = loop(vgg16, X, start(vgg16, X, 1), average=False, box=(-4.0, 4.0))
    assert gap(lrp.relevance(vgg16, X, 1, by_depth((-4.0, 4.0))), wanted) < 1e-6


def test_the_rules_of_vgg16_and_of_others(vgg16: nn.Module) -> None:
    recording, composite = Recording(vgg16, X), by_depth((-4.0, 4.0))
    assert composite.counts(recording) == {"gamma": 6, "epsilon": 6, "0": 3, "z^B": 1}
    assert by_depth().counts(recording) == {"gamma": 7, "epsilon": 6, "0": 3}
    small = Recording(sequential(), pixels(1, 16))  # three convolutions, two dense layers
    assert by_depth().counts(small) == {"gamma": 2, "epsilon": 1, "0": 2}
    assert by_depth(share=0).counts(small) == {"epsilon": 3, "0": 2} and by_depth(share=1).counts(small) == {"gamma": 3, "0": 2}
    ends = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert by_depth().counts(Recording(ends.double(), pixels(1, 16))) == {"gamma": 1, "0": 1}  # its classifier is a convolution


def test_against_zennit(vgg16: nn.Module) -> None:
    """Zennit's epsilon takes the sign of z, its maximum hands all to the winner; its gamma is ours."""
    convolutions = [f"features.{i}" for i, m in enumerate(vgg16.features) if isinstance(m, nn.Conv2d)]  # type: ignore[arg-type]
    rms = zennit.core.Stabilizer(0.25, norm_scale=True)
    theirs = NameMapComposite([
        (convolutions[:1], zennit.rules.ZBox(-4.0, 4.0, 1e-12)), (convolutions[1:7], zennit.rules.Gamma(0.25, 1e-12)),
        (convolutions[7:], zennit.rules.Epsilon(rms)), (["avgpool"], zennit.rules.Norm(1e-12)),
        (["classifier.0", "classifier.3", "classifier.6"], zennit.rules.Epsilon(1e-9)),
    ])  # fmt: skip
    assert gap(lrp.relevance(vgg16, X, 3, by_depth((-4.0, 4.0))), lrp.relevance(vgg16, X, 3, theirs)) < 1e-6
    with pytest.raises(RelevanceError, match="counts the layers of a recorded pass"), by_depth().context(vgg16):
        pass


def test_epsilon_is_that_of_the_image_not_of_the_batch(vgg16: nn.Module) -> None:
    two = torch.cat([X, pixels(1, 64, seed=9) * 3])
    alone = torch.cat([lrp.relevance(vgg16, x[None], 0, by_depth()) for x in two])
    assert gap(lrp.relevance(vgg16, two, 0, by_depth()), alone) < 1e-9


def test_the_sign_of_z_matters_where_no_relu_follows(vgg16: nn.Module) -> None:
    x, network = pixels(2, 32), randomised(Res().double(), 1).eval()
    aware, plain = (lrp.relevance(network, x, 1, by_depth((-5.0, 5.0), sign_aware=s)) for s in (True, False))
    assert gap(plain, aware) > 0.01
    aware, plain = (lrp.relevance(vgg16, X, 1, by_depth((-5.0, 5.0), sign_aware=s)) for s in (True, False))
    assert gap(plain, aware) < 1e-6  # a unit behind a ReLU has no relevance where z is negative


@pytest.mark.parametrize("kind", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.AdaptiveMaxPool2d(4)], ids=str)
def test_max_pooling_as_average_over_its_own_windows(kind: nn.Module) -> None:
    first, last = nn.Conv2d(3, 4, 3), nn.LazyLinear(3)
    network = nn.Sequential(first, nn.ReLU(), kind, nn.Flatten(), last).double()
    x = pixels(1, 12)
    network(x)
    recording = Recording(network, x)
    a = first(x).relu().detach().requires_grad_()
    options = {k: getattr(kind, k) for k in ("kernel_size", "stride", "padding", "ceil_mode") if hasattr(kind, k)}
    average = nn.AvgPool2d(**options) if options else nn.AdaptiveAvgPool2d(4)
    out = kind(a).detach()
    above = out * last.weight[1].view(out.shape)  # LRP-0 of the dense layer, whose bias keeps its share
    pooled = average(a) + 1e-9
    wanted = a * torch.autograd.grad((pooled * (above / pooled).detach()).sum(), a)[0]
    seen: list[Tensor] = []

    class Spy(lrp_composite.PlainGamma):
        def redistribute(self, layer: Any, state: Any, relevance: Tensor, value: Any) -> Tensor:
            seen.append(relevance[0])
            return super().redistribute(layer, state, relevance, value)

    composite = by_depth(max_pooling="average")
    composite.convolution = Spy(0.25)
    lrp.propagate(recording, composite, lrp.start_of(recording, torch.tensor([1]))[None])
    assert gap(seen[0], wanted.detach()) < 1e-5


def test_dilated_max_pooling_has_no_average() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, dilation=2), nn.Flatten(), nn.LazyLinear(3)).double()
    x = pixels(1, 12)
    network(x)
    assert lrp.relevance(network, x, 1, by_depth()).any()
    with pytest.raises(RelevanceError, match="dilation has no average"):
        lrp.relevance(network, x, 1, by_depth(max_pooling="average"))


def test_the_authors_maps_are_not_of_a_class_and_ours_are(vgg16: nn.Module) -> None:
    """New weights for the classes that are not asked for: their map changes, ours does not."""
    other = copy.deepcopy(vgg16)
    last = other.classifier[6]
    last.weight.data[1:] = last.weight.data[1:].flip(1) * 1.5  # class 0 and its logit stay
    composite = by_depth((-4.0, 4.0))
    ours = [lrp.relevance(network, X, 0, composite) for network in (vgg16, other)]
    theirs = [with_broadcast_fault(network, X, 0, composite) for network in (vgg16, other)]
    assert gap(*ours) < 1e-6
    assert gap(*theirs) > 0.1
    logit = float(vgg16(X)[0, 0].detach())
    recording = Recording(vgg16, X)
    faulty = lrp_composite.broadcast_start(recording, torch.tensor([0]))
    torch.testing.assert_close(faulty, torch.full((1, 4), logit, dtype=torch.float64))  # every class gets what one should
    every = lrp.propagate(recording, composite, faulty[None])[0]
    assert gap(theirs[0], every) < 1e-12


def test_the_explainer_and_its_accounts() -> None:
    image, explainer = picture()[None], explainers.get("lrp_composite")
    found = explainer.explain(tiny(), image, 2)
    classifier = tiny()
    composite = lrp_composite.Settings().build(classifier)
    wanted = lrp.relevance(classifier.network, classifier.normalise(image), 2, composite).sum(1)
    torch.testing.assert_close(found.maps, wanted)
    details = found.details[0]
    assert details["rules"] == {"epsilon": 1, "0": 1, "z^B": 1}
    assert details["pixels"] == pytest.approx(float(found.maps.sum()), rel=1e-5)
    assert [name for name, _, _ in details["layers"]] == ["9", "3", "0"]
    assert details["layers"][0][1] == pytest.approx(details["logit"])
    assert sum(kept for _, _, kept in details["layers"]) == pytest.approx(details["biases"], rel=1e-5)
    assert lrp_composite.counts(classifier, image) == details["rules"]
    authors = lrp_composite.Settings(pixels="gamma", max_pooling="average")
    assert not torch.equal(explainer.explain(tiny(), image, 2, authors).maps, found.maps)
    wrongs = ({"pixels": "x"}, "pixels: expected box or gamma"), ({"share": 2}, "share: expected a number in 0..1")
    for wrong, message in wrongs:
        with pytest.raises(ExplanationError, match=message):
            lrp_composite.Settings(**wrong)  # type: ignore[arg-type]


def test_on_the_real_network_it_stays_finite() -> None:
    classifier = classifiers.load("efficientnet_lite0")
    found = explainers.get("lrp_composite").explain(classifier, picture(0, 224)[None])
    assert float(found.maps.abs().sum()) < 10 * abs(found.details[0]["logit"])

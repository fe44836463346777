"""Feature maps and their gradients against full differentiation through the untouched network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import alexnet

from tests.networks import picture, tiny
from xai_lib import classifiers, images
from xai_lib.classifiers import Classifier, ClassifierError
from xai_lib.explanation import ExplanationError
from xai_lib.feature_maps import enlarge, feature_maps, rescale
from xai_lib.images import View

PICTURES = torch.stack([picture(s) for s in range(3)])


def odds_by_hand(logits: Tensor) -> Tensor:
    """z_t less the logarithm of the sum of the other classes' exponentials, class by class."""
    others = [torch.cat([logits[:, :t], logits[:, t + 1 :]], 1).logsumexp(1) for t in range(logits.shape[1])]
    return logits - torch.stack(others, 1)


def whole_way(classifier: Classifier, pixels: Tensor, layer: str, score: str, targets: Tensor) -> tuple[Tensor, Tensor]:
    held: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        held.append(output)
        return output.clone()  # what follows may write into it

    handle = classifier.layer(layer).register_forward_hook(hook)
    logits = classifier(pixels)
    handle.remove()
    values = {"probability": logits.softmax(1), "logit": logits, "log_odds": odds_by_hand(logits)}[score]
    chosen = values.gather(1, targets).sum(0)
    return held[0].detach(), torch.stack([torch.autograd.grad(c, held[0], retain_graph=True)[0] for c in chosen])


@pytest.mark.parametrize("score", ["log_odds", "probability", "logit"])
def test_maps_and_gradients_are_those_of_full_differentiation(score: str) -> None:
    torch.manual_seed(0)
    squashed = Classifier(alexnet(weights=None), name="alexnet", view=View(224, 256))
    lite0 = classifiers.load("efficientnet_lite0")
    photographs = images.load("photos").select(["chelsea", "coffee"]).batch(lite0.view)
    cases = ((tiny(), PICTURES, "3"), (squashed, photographs, "features.10"), (lite0, photographs, "blocks"))
    for classifier, pixels, layer in cases:
        found = feature_maps(classifier, pixels, layer, 2, score)  # type: ignore[arg-type]
        activations, gradients = whole_way(classifier, pixels, layer, score, found.targets)
        assert torch.allclose(found.activations, activations, atol=1e-6)
        assert torch.allclose(found.gradients, gradients, rtol=1e-4, atol=1e-5 * float(gradients.abs().max()))
        assert torch.allclose(found.probabilities, classifier.probabilities(pixels), atol=1e-6)


def test_the_network_is_left_as_it_was_and_no_gradient_is_kept() -> None:
    classifier = tiny().train()
    found = feature_maps(classifier, PICTURES, targets=1)
    assert classifier.training and all(p.requires_grad and p.grad is None for p in classifier.parameters())
    assert not found.activations.requires_grad and not found.logits.requires_grad
    assert all(not m._forward_hooks for m in classifier.modules())


def test_classes_by_number_by_name_and_left_open() -> None:
    order = tiny().probabilities(PICTURES).argsort(1, descending=True)
    assert torch.equal(feature_maps(tiny(), PICTURES, targets=2).targets, order[:, :2])
    wanted = torch.stack([order[:, 3], torch.full((3,), -1)], 1)
    assert torch.equal(feature_maps(tiny(), PICTURES, targets=wanted).targets, torch.stack([order[:, 3], order[:, 0]], 1))
    assert torch.equal(feature_maps(tiny(), PICTURES, targets=torch.full((3, 3), -1)).targets, order[:, :3])
    assert feature_maps(tiny(), PICTURES).gradients.shape == (0, 3, 8, 8, 8)
    with pytest.raises(ExplanationError, match=r"expected classes \(3, T\), found shape \(3,\)"):
        feature_maps(tiny(), PICTURES, targets=torch.tensor([1, 2, 3]))
    with pytest.raises(ExplanationError, match="expected classes below 5"):
        feature_maps(tiny(), PICTURES, targets=torch.full((3, 1), 5))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(self.maps(x)).mean((2, 3))


class Aside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ignored = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + 0 * self.ignored(x).detach().mean()


def test_layers_without_maps_are_refused() -> None:
    working = "layers that work: 0, 1, 2, 3, 4, 5 "
    with pytest.raises(ClassifierError, match=rf"tiny: layer '9' gives \(1, 5\), not maps \(N, K, h, w\) above 1x1; {working}"):
        feature_maps(tiny(), PICTURES, "9")
    with pytest.raises(ClassifierError, match=r"tiny: layer '6' gives \(1, 8, 1, 1\), not maps \(N, K, h, w\) above 1x1"):
        feature_maps(tiny(), PICTURES, "6")
    aside = Classifier(Aside(), name="aside", view=View(32, 36))
    with pytest.raises(ClassifierError, match="aside: layer 'ignored' gives maps on which the scores do not depend"):
        feature_maps(aside, PICTURES, "ignored")
    with pytest.raises(ClassifierError, match="tiny has no layer 'nine'"):
        feature_maps(tiny(), PICTURES, "nine")
    with pytest.raises(ExplanationError, match="score: expected log_odds, probability, logit; found 'odds'"):
        feature_maps(tiny(), PICTURES, score="odds")  # type: ignore[arg-type]


def test_a_module_that_runs_twice_means_its_last_run_and_each_run_has_a_name() -> None:
    torch.manual_seed(0)
    twice = Classifier(Twice(), name="twice", view=View(32, 36))
    conv, inputs = twice.layer("maps"), twice.normalise(PICTURES)
    first = conv(inputs)
    assert torch.allclose(feature_maps(twice, PICTURES, "maps#1").activations, first, atol=1e-6)
    assert torch.allclose(feature_maps(twice, PICTURES, "maps").activations, conv(first), atol=1e-6)
    assert torch.equal(feature_maps(twice, PICTURES, "maps").activations, feature_maps(twice, PICTURES, "maps#2").activations)
    assert twice.feature_layer == "maps"
    with pytest.raises(ClassifierError, match="'maps' runs 2 times in a forward pass; 'maps#3' is none of them"):
        feature_maps(twice, PICTURES, "maps#3")


@pytest.mark.parametrize("layer", ["9", "3"])
def test_the_network_is_left_as_it_was_when_the_layer_is_refused_or_the_network_breaks(layer: str) -> None:
    classifier = tiny().train()
    last = classifier.layer("9")
    kept = last.register_forward_hook(lambda *_: 1 / 0) if layer == "3" else last.register_forward_hook(lambda *_: None)
    with pytest.raises(ClassifierError if layer == "9" else ZeroDivisionError):
        feature_maps(classifier, PICTURES, layer, 1)
    assert classifier.training and all(p.requires_grad and p.grad is None for p in classifier.parameters())
    assert [h for m in classifier.modules() for h in m._forward_hooks] == [kept.id]


def test_stretching_and_enlarging() -> None:
    maps = torch.stack([torch.arange(6.0).view(2, 3), torch.full((2, 3), 4.0)])
    stretched = rescale(maps)
    assert torch.allclose(stretched[0], torch.arange(6.0).view(2, 3) / 5) and float(stretched[1].abs().max()) == 0
    large = enlarge(torch.eye(4)[None, None], (32, 32))
    assert large.shape == (1, 1, 32, 32) and float(large.max()) > 1 and float(large.min()) < 0

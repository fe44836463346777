"""The fast copy answers as the network does, wherever batch norms are, and the network itself is left alone."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.networks import picture, tiny
from xai_lib import classifiers
from xai_lib.classifiers import Classifier
from xai_lib.images import View, load
from xai_lib.inference import FLOAT32, Plan, fast_network, plan_for


def lively(network: nn.Module) -> nn.Module:
    """Random weights with batch norms whose statistics matter."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.2
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
            module.weight.data = torch.rand(module.num_features, generator=generator) + 0.5
            module.bias.data = torch.randn(module.num_features, generator=generator) * 0.2
    return network


def norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "squeezenet1_1", "vgg11_bn"])
def test_the_copy_agrees_and_the_original_is_untouched(name: str) -> None:
    torch.manual_seed(0)
    network = lively(torchvision.models.get_model(name, weights=None, num_classes=10))
    classifier = Classifier(network, name=name, view=View(64, 72))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    images = torch.stack([picture(s, 64) for s in range(3)])
    with torch.no_grad():
        wanted = classifier(images)
    found = fast_network(classifier, FLOAT32).logits(classifier.normalise(images))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())
    left = norms(fast_network(classifier, FLOAT32).network)
    # DenseNet's first norms act on concatenations: only 59 of its 121 follow a convolution
    assert left == {"densenet121": 62}.get(name, 0)


def test_timms_norms_with_activation_are_folded() -> None:
    classifier = classifiers.load("efficientnet_lite0")
    fast = fast_network(classifier, FLOAT32)
    assert norms(classifier.network) == 49 and norms(fast.network) == 0
    images = picture(1, 224)[None]
    with torch.no_grad():
        torch.testing.assert_close(fast.logits(classifier.normalise(images)), classifier(images), rtol=0, atol=1e-4)


def test_a_network_that_cannot_be_folded_is_copied_as_it_is() -> None:
    class Twice(nn.Module):
        """The convolution's output is used beside the norm, which no pairing of modules shows."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.norm.running_mean = torch.tensor([1.0, -2.0, 3.0, 0.5])

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return (y + self.norm(y)).mean((2, 3))

    classifier = Classifier(Twice(), view=View(16, 18))
    images = picture(0, 16)[None]
    with torch.no_grad():
        torch.testing.assert_close(fast_network(classifier, FLOAT32).logits(classifier.normalise(images)), classifier(images))


def test_the_copy_follows_a_changed_weight() -> None:
    classifier = tiny()
    images = classifier.normalise(picture()[None])
    first = fast_network(classifier, FLOAT32).logits(images)
    assert fast_network(classifier, FLOAT32).network is fast_network(classifier, FLOAT32).network
    with torch.no_grad():
        classifier.network[-1].bias += 1
    torch.testing.assert_close(fast_network(classifier, FLOAT32).logits(images), first + 1)


def test_plans_are_decided_by_capability() -> None:
    plan = plan_for("cpu")
    assert plan == plan_for("cpu")
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert plan.dtype == ("bfloat16" if fast else "float32")
    assert {"dtype", "inner_batch", "reason", "layout"} <= set(plan.declaration())


def test_bfloat16_stays_near() -> None:
    classifier = classifiers.load("efficientnet_lite0")
    images = load("photos").select(["coffee", "flower"]).batch(classifier.view)
    rough = fast_network(classifier, Plan("bfloat16", 4, "asked for")).logits(classifier.normalise(images))
    with torch.no_grad():
        exact = classifier(images)
    assert rough.dtype == torch.float32 and 0 < float((rough - exact).abs().max()) < 0.05 * float(exact.abs().max())
    assert torch.equal(rough.argmax(1), exact.argmax(1))

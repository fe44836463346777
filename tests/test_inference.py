"""The fast copy answers as the network does, wherever batch norms are, and the network itself is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.awkward import NETWORKS, Convolutional, Tutorial, awkward, classifier_of
from tests.networks import picture, tiny
from xai_lib import classifiers
from xai_lib.classifiers import Classifier, ClassifierError
from xai_lib.classifiers.fingerprint import contents_of
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


# ---------------------------------------------------------------------------------------------------------------------
# Networks of strangers


def direct(classifier: Classifier, images: Tensor) -> Tensor:
    """Logits of the untouched network, one contiguous image at a time."""
    with torch.no_grad():
        found = torch.cat([classifier.core(classifier.normalise(image[None].contiguous())) for image in images])
    return found if found.dtype == torch.float64 else found.float()


IMAGES = torch.stack([picture(s) for s in range(7)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_copy_of_any_network_answers_as_the_network_does(name: str, dtype: str) -> None:
    classifier = awkward(name)
    if name != "made under inference mode":
        classifier(IMAGES)  # with gradients: whoever keeps tensors of its graph holds one now
    wanted, before = direct(classifier, IMAGES), contents_of(classifier.core)
    images = classifier.normalise(IMAGES)
    for first in (None, images):  # without and with the image in hand
        fast = fast_network(classifier, Plan(dtype, 4, "asked for"), first)
        found = torch.cat([fast.logits(part) for part in images.split(4)])
        assert found.dtype == wanted.dtype and {"dtype", "layout", "batch norm"} <= set(fast.declaration())
        spread = (wanted - wanted.mean(1, keepdim=True)).abs().amax(1, keepdim=True)
        rough = torch.bfloat16 in (fast.dtype, classifier.dtype)
        slack = 0.2 if rough else {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.03}[fast.dtype]
        assert bool(((found - wanted).abs() <= slack * spread).all())
    if name != "keeps a tensor":
        assert contents_of(classifier.core) == before


FOLDED = {
    "plain": 2, "alias": 2, "DataParallel": 2, "dictionary": 2, "norm with activation": 2, "norm without weights": 2,
    "synchronised norm": 2, "fine differences": 2, "quantised": 0, "tied weights": 1, "half": 2, "double": 2,
    "hook on a norm": 1, "hook before a norm": 1, "hook on a convolution": 1, "forward of an instance": 1, "frozen norm": 1,
    "weight norm": 1, "weight norm, old": 1, "spectral norm": 1, "output read twice": 1, "weight read": 1, "norm read": 1,
    "pair used twice": 1, "lock": 0, "keeps a tensor": 2, "scripted": 0, "traced": 0, "layout": 2, "tutorial, view(-1)": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_norms_are_folded_where_that_is_proven(name: str) -> None:
    classifier = awkward(name)
    fast = fast_network(classifier, FLOAT32)
    assert fast.route.folded == FOLDED[name]
    if name == "lock":
        assert fast.network is classifier.core and fast.declaration()["batch norm"].startswith("as it is")
    if name in ("layout", "tutorial, view(-1)"):
        assert fast.declaration()["layout"] == "channels first"


def test_a_norm_in_training_mode_is_not_folded_and_not_changed() -> None:
    class Stubborn(nn.BatchNorm2d):
        """Keeps to its statistics of the batch whatever the mode."""

        def train(self, mode: bool = True) -> Stubborn:
            return super().train(True)

    network = Convolutional()
    network.norm1 = Stubborn(8, momentum=0.0)
    classifier = classifier_of(network)
    assert fast_network(classifier, FLOAT32).route.folded <= 1
    assert network.norm1.training and not network.norm1.running_mean.any()


def test_a_network_whose_rows_feel_each_other_runs_one_image_at_a_time() -> None:
    network = Convolutional()
    network.norm1 = nn.BatchNorm2d(8, track_running_stats=False)
    classifier = classifier_of(network)
    fast = fast_network(classifier, FLOAT32)
    assert fast.network is network and fast.route.alone
    torch.testing.assert_close(fast.logits(classifier.normalise(IMAGES[:4])), direct(classifier, IMAGES[:4]))


def test_a_compiled_network_is_taken_as_it_was_written() -> None:
    network = Convolutional()
    classifier = classifier_of(torch.compile(network))  # type: ignore[arg-type]
    found = fast_network(classifier, FLOAT32).logits(classifier.normalise(IMAGES[:2]))
    torch.testing.assert_close(found, direct(classifier, IMAGES[:2]))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels: int) -> None:
    classifier = classifier_of(Tutorial(True, channels), channels)
    images = IMAGES.mean(1, keepdim=True).repeat(1, channels, 1, 1) * torch.linspace(0.5, 1, channels).view(-1, 1, 1)
    fast = fast_network(classifier, FLOAT32, classifier.normalise(images))
    torch.testing.assert_close(fast.logits(classifier.normalise(images[:4])), direct(classifier, images[:4]))


# ---------------------------------------------------------------------------------------------------------------------
# A network that has changed


def _forward(network: Convolutional) -> None:
    inner = network.forward
    network.forward = lambda x: -inner(x)  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "through data": lambda n: n.fc.weight.data.neg_(),
    "copied into data": lambda n: n.fc.weight.data.copy_(n.fc.weight.data.flip(0)),
    "a buffer": lambda n: n.norm1.running_mean.data.add_(2),
    "an attribute of a layer": lambda n: setattr(n.norm1, "eps", 3.0),
    "a replaced module": lambda n: setattr(n, "fc", nn.Sequential(n.fc, nn.Tanh())),
    "an added module": lambda n: n.norm2.register_module("act", nn.Tanh()),
    "forward of the instance": _forward,
    "a hook": lambda n: n.fc.register_forward_hook(lambda _m, _i, output: -output),
    "a hook on a folded norm": lambda n: n.norm1.register_forward_hook(lambda _m, _i, output: -output),
    "a replaced parameter": lambda n: setattr(n.fc, "bias", nn.Parameter(torch.arange(5.0))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_network_gets_the_answer_of_a_fresh_classifier(name: str) -> None:
    classifier = awkward("plain")
    images = classifier.normalise(IMAGES[:4])
    kept = fast_network(classifier, FLOAT32, images)
    assert fast_network(classifier, FLOAT32, images).network is kept.network
    CHANGES[name](classifier.network)
    torch.testing.assert_close(fast_network(classifier, FLOAT32, images).logits(images), direct(classifier, IMAGES[:4]))


class Scaled(Convolutional):
    scale = 1.0
    extra: list[nn.Module] = []  # noqa: RUF012

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale * GLOBAL["scale"]


GLOBAL = {"scale": 1.0}


def test_attributes_and_even_what_no_digest_sees() -> None:
    torch.manual_seed(0)
    classifier = classifier_of(Scaled())
    images = classifier.normalise(IMAGES[:4])
    first = fast_network(classifier, FLOAT32, images).logits(images)
    classifier.network.scale = 2
    torch.testing.assert_close(fast_network(classifier, FLOAT32, images).logits(images), 2 * first)
    try:
        GLOBAL["scale"] = 5.0  # of the module, not of the network
        torch.testing.assert_close(fast_network(classifier, FLOAT32, images).logits(images), 10 * first)
    finally:
        GLOBAL["scale"] = 1.0


def test_nan_is_refused_in_words() -> None:
    class Divides(Convolutional):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / (x - x.mean((2, 3), keepdim=True)).abs().sum((1, 2, 3))[:, None] * 0

    classifier = classifier_of(Divides())
    flat = classifier.normalise(torch.full((1, 3, 32, 32), 0.5))
    with pytest.raises(ClassifierError, match="gives NaN for an image in which parts are removed"):
        fast_network(classifier, FLOAT32).logits(flat)

"""Integrated gradients and SHAP on networks of strangers: complete, or refused in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.awkward import Convolutional, Tutorial, awkward, classifier_of
from tests.explainers.test_masks_on_any_network import Columns
from tests.networks import picture
from xai_lib.classifiers import Classifier
from xai_lib.explainers.integrated_gradients import IntegratedGradients
from xai_lib.explainers.integrated_gradients import Settings as Steps
from xai_lib.explainers.shap import Settings, Shap
from xai_lib.explanation import ExplanationError
from xai_lib.layer_inputs import check_complete

IMAGE = picture(0)
WORKS: dict[str, Callable[[], Classifier]] = {
    name: lambda name=name: awkward(name)  # type: ignore[misc]
    for name in ("tutorial, view(-1)", "tutorial, view(size)", "keeps a tensor", "lock", "dictionary", "half", "double",
                 "DataParallel", "weight norm, old", "weak reference", "pair used twice")
} | {
    "mask": lambda: classifier_of(Masked()),
    "one channel": lambda: classifier_of(Tutorial(True, 1), 1),
    "five channels": lambda: classifier_of(Tutorial(True, 5), 5),
    "one label": lambda: classifier_of(Columns(1), output="sigmoid"),
    "three labels, squashed": lambda: classifier_of(Columns(3, torch.sigmoid), output="sigmoid"),
    "probabilities": lambda: classifier_of(Columns(5, lambda z: z.softmax(1)), output="probabilities"),
}  # fmt: skip


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return make()


def image_for(classifier: Classifier, seed: int = 0) -> Tensor:
    return torch.cat([picture(seed), picture(seed + 1)])[: classifier.channels]


@pytest.mark.parametrize("name", WORKS)
def test_integrated_gradients_are_complete(name: str) -> None:
    classifier = seeded(WORKS[name])
    image = image_for(classifier)
    detail = IntegratedGradients().explain(classifier, image[None], 0, Steps(steps=64)).details[0]
    with torch.no_grad():
        both = torch.cat([classifier.core(classifier.normalise(x[None])) for x in (image, torch.zeros_like(image))]).double()
    high, low = (both[:, 0] if classifier.independent else both.softmax(1)[:, 0].logit()).tolist()
    slack = 0.03 if classifier.dtype == torch.float16 else 1e-3
    assert detail["score"] - detail["baseline_score"] == pytest.approx(high - low, abs=slack)
    assert abs(detail["completeness"]) < 0.1 * abs(high - low) + slack


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("layer", ["auto", "pixels"])
def test_shap_is_complete(name: str, layer: str) -> None:
    classifier = seeded(WORKS[name])
    background = torch.stack([image_for(classifier, s) for s in range(10, 16)])
    settings = Settings(samples=120, background=6, layer=layer)
    found = Shap(background).explain(classifier, image_for(classifier)[None], 0, settings)
    detail = found.details[0]
    slack = 0.02 if classifier.dtype == torch.float16 else 1e-3
    assert abs(detail["gap"]) < 0.15 * abs(detail["logit"] - detail["expected"]) + slack and bool(found.maps.any())


def test_the_default_background_of_one_channel_is_grey_and_of_five_is_asked_for() -> None:
    one, five = (seeded(lambda n=n: classifier_of(Tutorial(True, n), n)) for n in (1, 5))
    settings = Settings(samples=4, background=4)
    assert Shap().explain(one, image_for(one)[None], 0, settings).maps.shape == (1, 32, 32)
    words = r"the image has 5; give your own, .* Shap\(background\) with a tensor \(B, 5, H, W\)"
    with pytest.raises(ExplanationError, match=words):
        Shap().explain(five, image_for(five)[None], 0, settings)


class Blind(Convolutional):
    """A frozen backbone in no_grad."""

    def maps(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().maps(x)


class Integers(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 64).to(torch.int32).float())


class Roots(Convolutional):
    """The root of what is 0 in most places has an infinite gradient there, and 0 times that is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x.relu() * 0).sqrt().mean((2, 3)).repeat(1, 3)[:, :8] + self.maps(x).mean((2, 3)))


class HalfBlind(Convolutional):
    """Two streams, one of them without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            other = super().forward(x)
        return other * 3 + super().forward(x)


class Masked(Convolutional):
    """A ReLU written as a product with a mask, which has no gradient and needs none."""

    def maps(self, x: Tensor) -> Tensor:
        y = super().maps(x) - 0.2
        return y * (y > 0)


def test_what_needs_no_gradient_is_not_missed() -> None:
    """Masks, indices and detached values that are not used; the account is said to be far off, so that it is looked for."""

    class Sorted(Masked):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = x.detach()
            y = self.maps(x).mean((2, 3))
            return self.fc(y.gather(1, y.argsort(1)))

    for network in (Sorted(), Convolutional(), Tutorial(), HalfBlind()):
        classifier = classifier_of(network)
        classifier.requires_grad_(False)

        def score(x: Tensor, classifier: Classifier = classifier) -> Tensor:
            return classifier.log_odds(classifier(x))[:, 0]

        if isinstance(network, HalfBlind):
            with pytest.raises(ExplanationError, match="runs without gradients"):
                check_complete(classifier, score, IMAGE[None], gap=1.0, change=0.0)
        else:
            check_complete(classifier, score, IMAGE[None], gap=1.0, change=0.0)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no_grad": (Blind, "do not depend differentiably on the input"),
    "integers": (Integers, "do not depend differentiably on the input"),
    "half of it": (HalfBlind, r"a part of the network runs without gradients .* sum of the map is off by"),
    "NaN": (Roots, "gradients of the score are NaN or infinite"),
}


@pytest.mark.parametrize("method", ["integrated_gradients", "shap", "shap at the pixels"])
@pytest.mark.parametrize("name", [*REFUSED, "quantised", "made under inference mode"])
def test_scores_without_gradients_are_refused_in_words(name: str, method: str) -> None:
    make, words = REFUSED.get(name, (None, "do not depend differentiably on the input"))
    classifier = seeded(lambda: classifier_of(make()) if make else awkward(name))
    explain: Any = IntegratedGradients().explain if method == "integrated_gradients" else Shap().explain
    settings: Any = Steps(steps=4)
    if "shap" in method:
        settings = Settings(samples=4, background=4, layer="pixels" if "pixels" in method else "auto")
    if method == "shap" and name in ("integers", "NaN"):  # the layer that it finds lies behind what has no gradient
        assert bool(explain(classifier, IMAGE[None], 0, settings).maps.any())
        return
    with pytest.raises(ExplanationError, match=words):
        explain(classifier, IMAGE[None], 0, settings)
    assert all(p.requires_grad for p in classifier.parameters() if not p.is_inference())


@pytest.mark.parametrize(("layer", "found"), [("fc", r"gets \(8,\)"), ("pool", r"gets \(8, 1, 1\)")])
def test_shap_refuses_layers_without_maps(layer: str, found: str) -> None:
    class Pooled(Convolutional):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.pool(self.maps(x).mean((2, 3), keepdim=True)).flatten(1))

    with pytest.raises(ExplanationError, match=found + r", no maps \(C, h, w\) above 1x1"):
        Shap().explain(classifier_of(Pooled()), IMAGE[None], 0, Settings(samples=4, background=4, layer=layer))


def test_scripted_networks_are_explained_at_the_pixels() -> None:
    classifier, plain = seeded(lambda: awkward("scripted")), seeded(lambda: awkward("plain"))
    settings = Settings(samples=10, background=4)
    found = Shap().explain(classifier, IMAGE[None], 0, settings)
    assert found.details[0]["layer"] == "pixels"
    wanted = Shap().explain(plain, IMAGE[None], 0, Settings(samples=10, background=4, layer="pixels"))
    torch.testing.assert_close(found.maps, wanted.maps, rtol=1e-3, atol=1e-5)
    with pytest.raises(ExplanationError, match='is scripted and takes no hook; .* layer="pixels"'):
        Shap().explain(classifier, IMAGE[None], 0, Settings(samples=10, layer="conv2"))


def test_the_place_follows_a_changed_network() -> None:
    network = Convolutional()
    classifier = classifier_of(network)
    settings = Settings(samples=4, background=4)
    before = Shap().explain(classifier, IMAGE[None], 0, settings).details[0]
    network.conv1 = nn.Conv2d(3, 8, 3, 1, 1)
    after = Shap().explain(classifier, IMAGE[None], 0, settings).details[0]
    assert before["shape"] != after["shape"] and after["shape"][1:] in {(16, 16), (32, 32)}

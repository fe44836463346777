"""The methods that remove superpixels ask for probabilities alone, so they work on every network that gives some."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.awkward import Convolutional, Tutorial, awkward, classifier_of
from tests.networks import picture
from xai_lib import explainers
from xai_lib.classifiers import Classifier
from xai_lib.explainers import elime, greedy, lime, random_search
from xai_lib.superpixels import fill_of, in_colours, masked_images, segment

SETTINGS: dict[str, Any] = {
    "elime": elime.Settings(calls=24, segmentation="slic"),
    "greedy_deletion": greedy.Settings(calls=24, segmentation="slic"),
    "greedy_insertion": greedy.Settings(calls=24, segmentation="slic"),
    "random_search": random_search.Settings(calls=24, segmentation="slic"),
    "lime": lime.Settings(samples=24, segmentation="slic"),
    "lime_stratified": lime.Settings(samples=24, segmentation="slic"),
}


class Columns(nn.Module):
    """A network's first columns, behind a function."""

    def __init__(self, n: int, function: Callable[[Tensor], Tensor] = lambda z: z) -> None:
        super().__init__()
        self.inner, self.n, self.function = Convolutional(), n, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner(x)[:, : self.n])


CLASSIFIERS: dict[str, Callable[[], Classifier]] = {
    name: lambda name=name: awkward(name)  # type: ignore[misc]
    for name in ("tutorial, view(-1)", "tutorial, view(size)", "keeps a tensor", "lock", "weak reference", "dictionary",
                 "scripted", "quantised", "made under inference mode", "half", "bfloat16", "double", "DataParallel",
                 "weight norm, old")
} | {
    "one channel": lambda: classifier_of(Tutorial(True, 1), 1),
    "five channels": lambda: classifier_of(Tutorial(True, 5), 5),
    "one label": lambda: classifier_of(Columns(1), output="sigmoid"),
    "one label, squashed": lambda: classifier_of(Columns(1, torch.sigmoid), output="sigmoid"),
    "three labels": lambda: classifier_of(Columns(3), output="sigmoid"),
    "probabilities": lambda: classifier_of(Columns(5, lambda z: z.softmax(1)), output="probabilities"),
}  # fmt: skip


def image_for(classifier: Classifier) -> Tensor:
    """A picture with as many channels, none the copy of another."""
    wide = torch.cat([picture(3), picture(4)])
    return wide[: classifier.channels]


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_answer_is_that_of_the_untouched_network(name: str, method: str) -> None:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        classifier = CLASSIFIERS[name]()
    image = image_for(classifier)
    found = explainers.get(method).explain(classifier, image[None], 0, SETTINGS[method])
    details = found.details[0]
    with torch.no_grad():
        logits = classifier.core(classifier.normalise(masked_images(image, details["segments"], details["kept"][None])))
        exact = classifier.probabilities_of(logits)[0, 0]
    assert details["probability"] == pytest.approx(float(exact), abs=1e-6)
    assert found.maps.shape == (1, 32, 32) and bool(found.maps.isfinite().all())
    again = explainers.get(method).explain(classifier, image[None], 0, SETTINGS[method])
    assert torch.equal(found.maps, again.maps)


@pytest.mark.parametrize("fill", ["black", "mean"])
@pytest.mark.parametrize("channels", [1, 5])
def test_lime_on_other_channels_equals_its_formula(channels: int, fill: Any) -> None:
    from tests.explainers.test_rivals import slow_lime

    torch.manual_seed(0)
    classifier = classifier_of(Tutorial(True, channels), channels)
    image = image_for(classifier)
    segments = segment(image, "slic")
    d = int(segments.max()) + 1
    settings = lime.Settings(samples=60, segmentation="slic", fill=fill)
    found = lime.Lime().weights(classifier, image, segments, 2, settings, np.random.default_rng(5))
    state = np.random.RandomState(int(np.random.default_rng(5).integers(2**31)))
    state.randint(0, high=1000)
    masks = state.randint(0, 2, 60 * d).reshape(60, d).astype(bool)
    masks[0] = True
    answers = classifier.probabilities(masked_images(image, segments, masks, fill))[:, 2].double().numpy()
    np.testing.assert_allclose(found, slow_lime(masks, answers), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["elime", "greedy_deletion", "random_search", "lime_stratified"])
def test_a_network_that_changed_is_explained_as_it_is_now(method: str) -> None:
    """Two logits, brightness of the left and of the right half: with the weights negated the other half is to be kept."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(2, 2, bias=False)
            self.f.weight.data = torch.tensor([[8.0, -8.0], [-8.0, 8.0]])

        def forward(self, x: Tensor) -> Tensor:
            return self.f(torch.stack([x[..., :16].mean((1, 2, 3)), x[..., 16:].mean((1, 2, 3))], 1))

    def made() -> Classifier:
        return Classifier(Halves(), mean=(0.0,) * 3, std=(1.0,) * 3)

    explainer, image = explainers.get(method), picture(0)[None]
    classifier = made()
    before = explainer.explain(classifier, image, 0, SETTINGS[method]).maps
    assert float(before[..., :16].mean()) > float(before[..., 16:].mean())
    classifier.network.f.weight.data.neg_()
    fresh = made()
    fresh.network.f.weight.data.neg_()
    found = explainer.explain(classifier, image, 0, SETTINGS[method])
    wanted = explainer.explain(fresh, image, 0, SETTINGS[method])
    assert torch.equal(found.maps, wanted.maps) and found.details[0]["probability"] == wanted.details[0]["probability"]
    assert float(found.maps[..., :16].mean()) < float(found.maps[..., 16:].mean())


def test_segments_of_any_number_of_channels_follow_the_image() -> None:
    """Four squares that differ in one of the channels alone are four superpixels or more, none across an edge."""
    for channels in (1, 2, 3, 4, 7):
        image = torch.full((channels, 64, 64), 0.5)
        image[-1, :32, :32], image[-1, :32, 32:], image[-1, 32:, :32], image[-1, 32:, 32:] = 0.0, 0.4, 0.7, 1.0
        colours = in_colours(image)
        assert colours.shape == (3, 64, 64) and 0 <= float(colours.min()) <= float(colours.max()) <= 1
        segments = segment(image, "quickshift")
        values = [image[-1][segments == k] for k in range(int(segments.max()) + 1)]
        assert len(values) >= 4 and sum(float(v.max() - v.min()) > 0 for v in values) == 0
    assert torch.equal(in_colours(picture(0)), picture(0))


def test_the_mean_fill_of_five_channels_is_each_superpixels_mean() -> None:
    image, segments = torch.rand(5, 6, 6), torch.arange(36).view(6, 6) // 12
    filled = fill_of(image, segments, "mean")
    for k in range(3):
        inside = segments == k
        torch.testing.assert_close(filled[:, inside], image[:, inside].mean(1, keepdim=True).expand(-1, 12))

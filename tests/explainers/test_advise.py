"""ADVISE: its maps against Algorithm 1 written slowly, both modes, degenerate units, and the real network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.networks import picture, tiny
from tests.slow_density import slow_density
from xai_lib import classifiers, explainers, images
from xai_lib.classifiers import Classifier, ClassifierError
from xai_lib.explainers import advise
from xai_lib.explanation import ExplanationError
from xai_lib.images import View


@pytest.fixture(scope="module")
def real() -> tuple[Classifier, Tensor]:
    classifier = classifiers.load("efficientnet_lite0")
    return classifier, images.load("photos").select(["chelsea"]).batch(classifier.view)[0]


def slow_groups(classifier: Classifier, image: Tensor, layer: nn.Module, score: str) -> dict[int, np.ndarray]:
    """Algorithm 1 of one image by full automatic differentiation and loops: the first class's map of every group."""
    held: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _i, output: held.append(output))
    probabilities = classifier(image[None]).softmax(1)[0]
    handle.remove()
    p = probabilities.max()
    gradient = torch.autograd.grad(p if score == "probability" else (p / (1 - p)).log(), held[0])[0][0].detach().numpy()
    maps = held[0][0].detach().numpy()
    found: dict[int, np.ndarray] = {}
    for k, unit in enumerate(maps):
        density = slow_density(unit.flatten())
        peaks = 0
        if density is not None and not np.isnan(density[0]).any():
            d = density[0]
            peaks = sum(d[i - 1] < d[i] > d[i + 1] for i in range(1, len(d) - 1))
        found[peaks] = found.get(peaks, 0) + gradient[k].mean() * unit
    return {p: np.maximum(e, 0) for p, e in sorted(found.items()) if (e > 0).any()}


@pytest.mark.parametrize("score", ["log_odds", "probability"])
def test_groups_are_those_of_algorithm_1(score: str) -> None:
    classifier = tiny(3)
    for seed in range(3):
        image = picture(seed)
        wanted = slow_groups(classifier, image, classifier.network[5], score)
        found = advise.groups(classifier, image, settings=advise.Settings(score="" if score == "log_odds" else score))
        assert found.layer == "5" and found.peaks == list(wanted)
        for low, slow in zip(found.low[0], wanted.values(), strict=True):
            np.testing.assert_allclose(low, slow, rtol=1e-4, atol=1e-7)


def test_what_a_real_explanation_holds(real: tuple[Classifier, Tensor]) -> None:
    classifier, image = real
    found = advise.groups(classifier, image)
    g, k = len(found.peaks), found.scores.numel()
    assert k == 1280 and found.samples.shape == (k, 49) and found.activations.shape == (k, 7, 7)
    assert g >= 2 and found.peaks == sorted(set(found.peaks)) and set(found.peaks) <= set(found.scores.tolist())
    assert found.maps.shape == found.second_maps.shape == (g, 224, 224) and found.low.shape == (2, g, 7, 7)
    top = classifier.top(image[None], 2)[0]
    assert found.targets == (top[0].index, top[1].index)
    # the groups' sums before the ReLU are the sum over all units: Grad-CAM's
    peaks, sums = advise.group_maps(found.activations, found.alphas, found.scores, relu=False)
    assert torch.allclose(sums[0].sum(0), torch.einsum("k,khw->hw", found.alphas[0], found.activations), atol=1e-6)
    assert len(peaks) >= g
    explanation = explainers.get("advise").explain(classifier, image[None])
    details = explanation.details[0]
    avx = [s.avx for s in details["avx"]]
    assert details["reported"] == int(np.nanargmax(avx)) and len(avx) == g
    assert torch.allclose(explanation.maps[0], details["groups"].maps[details["reported"]].clamp(min=0))


def test_the_text_cannot_work_before_global_pooling_and_takes_the_layer_before(real: tuple[Classifier, Tensor]) -> None:
    classifier, image = real
    there = advise.groups(classifier, image, settings=advise.Settings("as_paper", layer=classifier.feature_layer))
    assert float(there.gradients[0].std((-2, -1)).max()) < 1e-6 * float(there.gradients[0].abs().max())
    assert there.scores.unique().tolist() == [0]  # no unit differs from another
    found = advise.groups(classifier, image, settings=advise.Settings("as_paper"))
    assert found.layer == "blocks" and len(found.scores.unique()) > 1
    spread = found.samples.amax(1) - found.samples.amin(1)
    assert torch.allclose(spread[spread > 0], torch.ones(1)) and float(found.samples.min()) == 0


def test_where_gradients_vary_the_text_takes_the_last_features() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, 3))
    classifier = Classifier(network, name="flat", view=View(32, 36), class_names=list("abc"))
    assert advise.groups(classifier, picture(1), settings=advise.Settings("as_paper")).layer == "1"


def test_a_network_whose_last_convolution_is_its_first_layer_has_nothing_before_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    classifier = Classifier(network, name="shallow", view=View(32, 36), class_names=list("abc"))
    with pytest.raises(ExplanationError, match="shallow: at '1' gradients are constant over space"):
        advise.groups(classifier, picture(1), settings=advise.Settings("as_paper"))


class Dead(nn.Module):
    """Units that are all zero, constant, NaN and infinite beside one that lives."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.head = nn.Conv2d(3, 5, 3, 2), nn.Linear(5, 4)
        with torch.no_grad():
            self.maps.weight[:4] = 0
            self.maps.bias[:4] = torch.tensor([0.0, 0.5, 3.0, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x).mean((2, 3)))


def test_units_without_a_density_count_no_peaks_and_raise_nothing() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Dead(), name="dead", view=View(32, 36), class_names=list("abcd"), feature_layer="maps")
    found = advise.groups(classifier, picture(2))
    assert found.scores[:4].tolist() == [0, 1, 0, 0] and found.density.density.isnan().any(1)[:4].tolist()[2]
    with torch.no_grad():
        classifier.network.maps.weight.zero_()
        classifier.network.maps.bias.zero_()
    nothing = explainers.get("advise").explain(classifier, picture(2)[None])
    assert nothing.details[0]["reported"] is None and float(nothing.maps.abs().max()) == 0


def test_the_second_class_is_the_best_of_the_others() -> None:
    classifier, image = tiny(1), picture(0)
    order = classifier.probabilities(image[None])[0].argsort(descending=True).tolist()
    assert advise.groups(classifier, image).targets == (order[0], order[1])
    assert advise.groups(classifier, image, order[0]).targets == (order[0], order[1])
    assert advise.groups(classifier, image, order[3]).targets == (order[3], order[0])


def test_settings_that_do_not_exist_are_named() -> None:
    with pytest.raises(ExplanationError, match="mode: as_code or as_paper"):
        advise.Settings(mode="as_text")  # type: ignore[arg-type]
    with pytest.raises(ClassifierError, match="tiny has no layer 'blocks'"):
        advise.groups(tiny(), picture(0), settings=advise.Settings(layer="blocks"))

"""Integrated gradients: completeness, the integral by hand, and the baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.networks import picture, tiny
from xai_lib import explainers
from xai_lib.classifiers import Classifier
from xai_lib.explainers.integrated_gradients import Settings, baseline
from xai_lib.explanation import ExplanationError
from xai_lib.images import View

PICTURES = torch.stack([picture(s) for s in range(2)])
explainer = explainers.get("integrated_gradients")


def linear() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    return Classifier(network, name="linear", view=View(32, 36))


def values(classifier: Classifier, images: Tensor, target: int, score: str) -> Tensor:
    """The score from its definition, differentiable, `(N,)`."""
    logits = classifier(images)
    if score == "logit":
        return logits[:, target]
    probability = logits.double().softmax(1)[:, target]
    return probability if score == "probability" else probability.logit()


def test_a_linear_network_is_explained_by_its_weights() -> None:
    classifier = linear()
    weights = classifier.network[1].weight[2].detach().view(3, 32, 32) / classifier.std[0]
    for steps in (1, 5):
        found = explainer.explain(classifier, PICTURES, 2, Settings(steps=steps, score="logit"))
        assert torch.allclose(found.maps, (PICTURES * weights).sum(1), atol=1e-6)
        assert all(abs(d["completeness"]) < 1e-5 for d in found.details)


@pytest.mark.parametrize("score", ["log_odds", "probability", "logit"])
def test_the_map_sums_to_what_the_image_scores_above_the_baseline(score: Any) -> None:
    classifier = tiny()
    few, many = (explainer.explain(classifier, PICTURES, 3, Settings(steps=n, score=score)) for n in (4, 300))
    for image, map_, coarse, detail in zip(PICTURES, many.maps, few.details, many.details, strict=True):
        with torch.no_grad():
            pair = torch.stack([image, torch.zeros_like(image)])
            high, low = values(classifier, pair, 3, score).tolist()
            assert (detail["logit"], detail["baseline_logit"]) == pytest.approx(classifier(pair)[:, 3].tolist(), abs=1e-5)
        assert (detail["score"], detail["baseline_score"]) == pytest.approx((high, low), abs=1e-5)
        assert detail["completeness"] == pytest.approx(float(map_.double().sum()) - (high - low), abs=1e-5)
        assert abs(detail["completeness"]) < 5e-3 * abs(high - low) and abs(coarse["completeness"]) < 1
        assert detail["calls"] == 602
    assert many.signed and float(many.maps.min()) < 0 and many.network_calls == 2 * 602


@pytest.mark.parametrize("kind", ["black", "mean", "white"])
@pytest.mark.parametrize("score", ["log_odds", "probability", "logit"])
def test_the_integral_by_hand(kind: Any, score: Any) -> None:
    classifier, image = tiny(), PICTURES[0]
    start = baseline(image, kind)
    places, weights = np.polynomial.legendre.leggauss(7)
    wanted = torch.zeros(32, 32, dtype=torch.float64)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        x = (start + place * (image - start))[None].float().requires_grad_()
        slope = torch.autograd.grad(values(classifier, x, 1, score)[0], x)[0][0]
        wanted += weight * (slope * (image - start)).double().sum(0)
    found = explainer.explain(classifier, image[None], 1, Settings(steps=7, baseline=kind, score=score))
    assert torch.allclose(found.maps[0].double(), wanted, atol=1e-5)


def test_riemann_comes_to_the_same() -> None:
    classifier, image, n = tiny(), PICTURES[1], 400
    x = (image * ((torch.arange(n) + 0.5) / n).view(-1, 1, 1, 1)).requires_grad_()
    slopes = torch.autograd.grad(values(classifier, x, 0, "log_odds").sum(), x)[0]
    found = explainer.explain(classifier, image[None], 0, Settings(steps=200)).maps[0]
    wanted = (slopes.mean(0) * image).sum(0)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02


def test_the_passes_into_which_steps_are_split_do_not_matter() -> None:
    whole = explainer.explain(tiny(), PICTURES, 0, Settings(steps=10, internal_batch=10)).maps
    for batch in (1, 3, 64):
        assert torch.allclose(explainer.explain(tiny(), PICTURES, 0, Settings(10, "black", batch)).maps, whole, atol=1e-6)


def test_an_image_that_is_its_own_baseline_has_no_relevance() -> None:
    found = explainer.explain(tiny(), torch.ones(1, 3, 32, 32), 0, Settings(steps=3, baseline="white"))
    assert not found.maps.any() and found.details[0]["completeness"] == 0
    grey = torch.tensor([0.2, 0.5, 0.7]).view(3, 1, 1).expand(3, 4, 4)
    assert torch.allclose(baseline(grey, "mean"), grey)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: expected an integer of at least 1, found 0"),
        ({"steps": 2.5}, "steps: expected an integer of at least 1, found 2.5"),
        ({"internal_batch": 0}, "internal_batch: expected an integer of at least 1, found 0"),
        ({"score": "odds"}, "score: expected log_odds, probability, logit; found 'odds'"),
        ({"baseline": "grey"}, "baseline: expected black, mean, white, found 'grey'"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExplanationError, match=message):
        Settings(**changes)


def test_a_network_that_is_sure_of_itself_is_explained_all_the_same() -> None:
    """Two classes: z_1 - z_0 decides, whatever the margin; in float32 the probability is 1 and its gradient 0."""
    sure = linear()
    sure.network[1].weight.data *= 300
    two = Classifier(nn.Sequential(sure.network, Columns(2)), view=View(32, 36))
    target = int(two(PICTURES[:1]).argmax())
    found = explainer.explain(two, PICTURES[:1], target, Settings(steps=3))
    weights = sure.network[1].weight.detach().view(4, 3, 32, 32) / two.std[0]
    wanted = (PICTURES[0] * (weights[target] - weights[1 - target])).sum(0)
    assert float(two.probabilities(PICTURES[:1])[0, target]) == 1
    torch.testing.assert_close(found.maps[0], wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


class Columns(nn.Module):
    """The first columns of logits."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.n]

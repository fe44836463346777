"""Integrated gradients: completeness, the integral by hand, and the baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

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


def test_a_linear_network_is_explained_by_its_weights() -> None:
    classifier = linear()
    weights = classifier.network[1].weight[2].detach().view(3, 32, 32) / classifier.std[0]
    for steps in (1, 5):
        found = explainer.explain(classifier, PICTURES, 2, Settings(steps=steps))
        assert torch.allclose(found.maps, (PICTURES * weights).sum(1), atol=1e-6)
        assert all(abs(d["completeness"]) < 1e-5 for d in found.details)


def test_the_map_sums_to_what_the_image_scores_above_the_baseline() -> None:
    classifier = tiny()
    few, many = (explainer.explain(classifier, PICTURES, 3, Settings(steps=n)) for n in (4, 300))
    for image, map_, coarse, detail in zip(PICTURES, many.maps, few.details, many.details, strict=True):
        with torch.no_grad():
            logit, black = (float(classifier(x[None])[0, 3]) for x in (image, torch.zeros_like(image)))
        assert (detail["logit"], detail["baseline_logit"]) == pytest.approx((logit, black), abs=1e-5)
        assert detail["completeness"] == pytest.approx(float(map_.double().sum()) - (logit - black), abs=1e-5)
        assert abs(detail["completeness"]) < 5e-3 * abs(logit - black) and abs(coarse["completeness"]) < 1
        assert detail["calls"] == 602
    assert many.signed and float(many.maps.min()) < 0 and many.network_calls == 2 * 602


@pytest.mark.parametrize("kind", ["black", "mean", "white"])
def test_the_integral_by_hand(kind: Any) -> None:
    classifier, image = tiny(), PICTURES[0]
    start = baseline(image, kind)
    places, weights = np.polynomial.legendre.leggauss(7)
    wanted = torch.zeros(32, 32, dtype=torch.float64)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        x = (start + place * (image - start))[None].float().requires_grad_()
        slope = torch.autograd.grad(classifier(x)[0, 1], x)[0][0]
        wanted += weight * (slope * (image - start)).double().sum(0)
    found = explainer.explain(classifier, image[None], 1, Settings(steps=7, baseline=kind))
    assert torch.allclose(found.maps[0].double(), wanted, atol=1e-5)


def test_riemann_comes_to_the_same() -> None:
    classifier, image, n = tiny(), PICTURES[1], 400
    x = (image * ((torch.arange(n) + 0.5) / n).view(-1, 1, 1, 1)).requires_grad_()
    slopes = torch.autograd.grad(classifier(x)[:, 0].sum(), x)[0]
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
        ({"baseline": "grey"}, "baseline: expected black, mean, white, found 'grey'"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExplanationError, match=message):
        Settings(**changes)

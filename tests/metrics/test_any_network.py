"""Metrics that run a network, on networks of other layouts, channels, formats and kinds of output than the usual."""

from __future__ import annotations

import warnings
from typing import Any

import piq
import pytest
import torch
from torch import Tensor

from tests.awkward import Tutorial, awkward, classifier_of
from tests.explainers.test_masks_on_any_network import Columns
from tests.networks import picture
from xai_lib.classifiers import Classifier
from xai_lib.metrics import avx
from xai_lib.metrics.avx import MetricError
from xai_lib.metrics.faithfulness import drops, pixel_flipping, subsets, symmetric_relevance_gain
from xai_lib.metrics.map_properties import low_level
from xai_lib.metrics.similarity import Reference

NAMES = ["tutorial, view(-1)", "tutorial, view(size)", "keeps a tensor", "lock", "layout", "dictionary", "half", "double",
         "quantised"]  # fmt: skip
IMAGES = torch.stack([picture(s) for s in range(2)])
TARGETS = torch.tensor([0, 3])


def quiet(name: str) -> Classifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return awkward(name)


def one_by_one(classifier: Classifier, inputs: Tensor) -> Tensor:
    """Logits of the untouched network, a contiguous image at a time."""
    with torch.no_grad():
        return torch.cat([classifier.core(x[None].contiguous()) for x in inputs]).double()


@pytest.mark.parametrize("name", NAMES)
def test_drops_and_flipping_equal_the_definition(name: str) -> None:
    import numpy as np

    classifier = quiet(name)
    inputs = classifier.normalise(IMAGES)
    slack = {"half": 0.01, "quantised": 0.02}.get(name, 1e-5)
    indices = subsets((3, 32, 32), 5, 200, rng=np.random.default_rng(0))
    found = drops(classifier.core, inputs, TARGETS, indices, baseline=0.0)
    maps = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    curves = pixel_flipping(classifier.core, inputs, TARGETS, maps, steps=4, cells=4, baseline=0.0)
    for n, target in enumerate(TARGETS.tolist()):
        changed = torch.stack([inputs[n].flatten().clone().index_fill_(0, i, 0).view(3, 32, 32) for i in indices])
        whole = one_by_one(classifier, inputs[n : n + 1])[:, target]
        wanted = whole - one_by_one(classifier, changed)[:, target]
        torch.testing.assert_close(found[n].double(), wanted, rtol=0, atol=slack)
        order = maps[n].view(4, 8, 4, 8).sum((1, 3), dtype=torch.float64).flatten().argsort(descending=True)
        steps = []
        for k in range(5):
            gone = torch.zeros(16).index_fill_(0, order[: 4 * k], 1).view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
            steps.append(torch.where(gone.bool(), 0, inputs[n]))
        wanted = one_by_one(classifier, torch.stack(steps)).softmax(1)[:, target]
        torch.testing.assert_close(curves[n].double(), wanted, rtol=0, atol=slack)


def test_flipping_of_independent_labels_is_that_of_their_own_probability() -> None:
    torch.manual_seed(0)
    classifier = classifier_of(Columns(1), output="sigmoid")
    inputs, maps = classifier.normalise(IMAGES), torch.ones(2, 32, 32)
    call: dict[str, Any] = {"steps": 2, "cells": 2, "probabilities": classifier.probabilities_of}
    curves = pixel_flipping(classifier.core, inputs, torch.zeros(2, dtype=torch.long), maps, **call)
    torch.testing.assert_close(curves[:, 0], one_by_one(classifier, inputs)[:, 0].sigmoid().float())
    gain = symmetric_relevance_gain(classifier.core, inputs, torch.zeros(2, dtype=torch.long), maps, **call)
    assert torch.equal(gain, torch.zeros(2))


@pytest.mark.parametrize("name", NAMES)
def test_avx_takes_its_probabilities_from_the_network(name: str) -> None:
    classifier = quiet(name)
    maps = torch.stack([torch.linspace(0, 1, 32).expand(32, 32), torch.ones(32, 32)])
    found = avx.evaluate(classifier, IMAGES[0], maps, maps.flip(2), [0, 1], definition="paper")
    picture_ = (IMAGES[0] * 255).round()
    shown = torch.cat([picture_[None], avx.masked_pictures(picture_, maps)]) / 255
    p = classifier.probabilities_of(one_by_one(classifier, classifier.normalise(shown)))[:, 0].tolist()
    slack = {"half": 0.02, "quantised": 0.02}.get(name, 1e-4)
    for scores, after in zip(found, p[1:], strict=True):
        assert scores.before["average_drop"] == pytest.approx(avx.average_drop(p[0], after), abs=slack)


def test_avx_on_one_channel() -> None:
    torch.manual_seed(0)
    classifier = classifier_of(Tutorial(True, 1), 1)
    image = torch.nn.functional.interpolate(IMAGES[:1, :1], 32)[0]
    half = (torch.arange(32) < 16).float().expand(32, 32)
    full, part = avx.evaluate(classifier, image, torch.stack([torch.ones(32, 32), half]), None, [0])
    assert (full.ssim, full.fsim, full.mse, full.average_drop) == pytest.approx((1, 1, 0, 0), abs=1e-6)
    picture_ = (image * 255).round()
    assert part.before["mse"] == pytest.approx(float((picture_ * (1 - half)).square().mean()) / 255**2)
    assert 0 < part.before["fsim"] < 1 and 0 < part.before["ssim"] < 1


def test_one_output_has_no_second_class() -> None:
    classifier = classifier_of(Columns(1), output="sigmoid")
    maps = torch.ones(1, 32, 32)
    assert avx.evaluate(classifier, IMAGES[0], maps, None, [0])[0].hit
    with pytest.raises(MetricError, match="compares the maps of two classes, and this network has one output; pass None"):
        avx.evaluate(classifier, IMAGES[0], maps, maps, [0, 1])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_similarity_of_other_channels(channels: int) -> None:
    """One channel: piq's own grey FSIM; more: their mean. SSIM: piq's, away from the edges that it leaves out."""
    rng = torch.Generator().manual_seed(0)
    rough = torch.rand(2, channels, 12, 12, generator=rng) * 255
    one, two = torch.nn.functional.interpolate(rough, 96, mode="bicubic").clamp(0, 255).unsqueeze(1)
    reference = Reference(one[0])
    grey = [x.mean(1, keepdim=True) for x in (two, one)]
    assert float(reference.fsim(two)) == pytest.approx(float(piq.fsim(*grey, data_range=255, chromatic=False)), abs=1e-4)
    torch.testing.assert_close(reference.fsim(two, chroma=True), reference.fsim(two))
    assert float(reference.mse(two)) == pytest.approx(float((one - two).square().mean()) / 255**2)
    each = [float(Reference(one[0, k : k + 1]).ssim(two[:, k : k + 1])) for k in range(channels)]
    assert float(reference.ssim(two)) == pytest.approx(sum(each) / channels)
    if channels == 1:
        torch.testing.assert_close(reference.ssim(two, volume=True), reference.ssim(two))


def test_low_level_of_one_channel_is_that_of_grey() -> None:
    grey = IMAGES.mean(1, keepdim=True)
    for one, three in zip(low_level(grey), low_level(grey.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(one, three)

"""The protocol of ADVISE: hand cases, known optima, both definitions, penalties, and torchcam's own average drop."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchcam.methods import GradCAM
from torchcam.metrics import ClassificationMetric

from tests.networks import picture, tiny
from xai_lib import classifiers, images
from xai_lib.classifiers import Classifier
from xai_lib.metrics import avx
from xai_lib.metrics.similarity import Reference

Real = tuple[Classifier, Tensor, tuple[int, int]]


@pytest.fixture(scope="module")
def real() -> Real:
    classifier = classifiers.load("efficientnet_lite0")
    image = images.load("photos").select(["chelsea"]).batch(classifier.view)[0]
    first, second = (p.index for p in classifier.top(image[None], 2)[0])
    return classifier, image, (first, second)


def blob(size: int, width: float, down: float = 0.5) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    return torch.exp(-((y - down) ** 2 + (x - 0.5) ** 2) / (2 * width**2))


def test_penalty_a_by_hand_makes_drop_and_error_better() -> None:
    values = (0.8, 0.1, 0.4, 0.2)
    assert avx.harmonic(*values) == pytest.approx(4 / (1 / 0.2 + 1 / 0.1 + 1 / 0.4 + 1 / 0.8)) == pytest.approx(0.213, abs=5e-4)
    found = avx.penalised(values, hit=False, sensitivity=0.3, change=0.5)
    assert (found.average_drop, found.ssim, found.fsim, found.mse) == (0.4, 0.05, 0.2, 0.1)
    assert found.avx == pytest.approx(0.144, abs=5e-4) and found.before["avx"] == pytest.approx(0.213, abs=5e-4)
    assert found.before == {"average_drop": 0.8, "ssim": 0.1, "fsim": 0.4, "mse": 0.2, "avx": found.before["avx"]}


@pytest.mark.parametrize("sensitivity", [0.56, -0.56, 1.0, math.nan])
def test_penalty_b_gives_the_worst_values_and_a_hit_none(sensitivity: float) -> None:
    values = (0.2, 0.6, 0.7, 0.1)
    worst = avx.penalised(values, hit=False, sensitivity=sensitivity, change=0.1)
    assert (worst.average_drop, worst.ssim, worst.fsim, worst.mse, worst.avx) == (1, 0, 0, 1, 0) and not worst.passes
    assert worst.class_sensitivity == (0 if math.isnan(sensitivity) else sensitivity)
    kept = avx.penalised(values, hit=True, sensitivity=sensitivity, change=0.1)
    assert kept.avx == avx.harmonic(*values) and kept.ssim == 0.6


def test_the_bounds_of_the_check_belong_to_it() -> None:
    for sensitivity in (0.55, -0.55, 0.0):
        assert avx.penalised((0.5,) * 4, hit=False, sensitivity=sensitivity, change=0.0).passes


def test_pieces_by_hand() -> None:
    assert avx.average_drop(0.8, 0.2) == pytest.approx(0.75) and avx.average_drop(0.2, 0.8) == 0 == avx.average_drop(0, 0)
    assert avx.harmonic(0, 1, 1, 0) == 1 and avx.harmonic(1, 1, 1, 0) == 0 == avx.harmonic(0, 0, 1, 0)
    one = torch.tensor([[1.0, 2], [3, 4]])
    assert avx.class_sensitivity(one, 2 * one + 1) == pytest.approx(1) and avx.class_sensitivity(one, -one) == pytest.approx(-1)
    assert math.isnan(avx.class_sensitivity(one, torch.ones(2, 2)))
    shown = avx.masked_pictures(torch.full((3, 1, 4), 201.0), torch.tensor([[[-0.1, 0.49, 0.5, 1.2]]]))
    assert shown[0, 0].tolist() == [[0, 0, 201, 201]]
    soft = avx.masked_pictures(torch.full((3, 1, 4), 201.0), torch.tensor([[[-0.1, 0.5, 0.25, 1.2]]]), "soft")
    assert soft[0, 0].tolist() == [[0, 100, 50, 201]]
    for mask in ("binary", "soft"):
        unknown = avx.masked_pictures(torch.full((3, 1, 2), 201.0), torch.tensor([[[math.nan, 1]]]), mask)  # type: ignore[arg-type]
        assert unknown[0, 0].tolist() == [[0, 201]]


@pytest.mark.parametrize("definition", ["code", "paper"])
@pytest.mark.parametrize("mask", ["binary", "soft"])
def test_known_optima(real: Real, definition: avx.Definition, mask: avx.Mask) -> None:
    classifier, image, targets = real
    maps = torch.stack([torch.ones(224, 224), torch.zeros(224, 224)])
    full, black = avx.evaluate(classifier, image, maps, None, targets, definition=definition, mask=mask)
    assert full.hit and full.average_drop < 1e-6 and full.ssim == 1 and full.mse == 0
    assert full.fsim == pytest.approx(1, abs=1e-9) and full.avx == pytest.approx(1, abs=1e-6)
    assert not black.hit and black.avx == 0 and black.before["fsim"] == 0 and black.before["average_drop"] > 0.9
    json.dumps(dataclasses.asdict(full))


def test_scores_are_put_together_from_the_parts(real: Real) -> None:
    classifier, image, targets = real
    one, two = torch.stack([blob(224, 0.2), blob(224, 0.1)]), torch.stack([blob(224, 0.2, 0.8), blob(224, 0.1, 0.1)])
    picture_ = (image * 255).round()
    for definition in ("code", "paper"):
        found = avx.evaluate(classifier, image, one, two, targets, definition=definition)  # type: ignore[arg-type]
        for scores, first, second in zip(found, one, two, strict=True):
            shown = picture_ * (first >= 0.5)
            before, after = classifier.probabilities(torch.stack([picture_, shown]) / 255)
            rest = after.max() if definition == "code" else after[targets[0]]
            reference = Reference(picture_)
            drop = float((before[targets[0]] - rest) / before[targets[0]])
            assert scores.before["average_drop"] == pytest.approx(drop, abs=1e-5)
            assert scores.before["ssim"] == float(reference.ssim(shown[None], definition == "code"))
            assert scores.before["fsim"] == float(reference.fsim(shown[None], definition == "code"))
            pearson = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1]
            assert scores.class_sensitivity == pytest.approx(float(pearson), abs=1e-6)
            assert scores.hit == (targets[0] in after.topk(5).indices)
    alone = [avx.evaluate(classifier, image, one[i : i + 1], two[i : i + 1], targets, definition="paper")[0] for i in range(2)]
    assert alone == found


def test_average_drop_is_torchcams(real: Real) -> None:
    """On the same map, soft; its metric multiplies the network's input, here the picture before normalisation."""
    classifier, image, targets = real
    rounded = (image * 255).round() / 255

    with GradCAM(classifier, f"network.{classifier.feature_layer}") as extractor:
        metric = ClassificationMetric(extractor, lambda logits: logits.softmax(1))
        metric.update(rounded[None], targets[0])
        low = extractor(targets[0], classifier(rounded[None]))[0].detach()
    saliency = interpolate(low[None], (224, 224), mode="bilinear", align_corners=False)[0, 0]
    found = avx.evaluate(classifier, image, saliency[None], None, targets, definition="paper", mask="soft")[0]
    assert found.before["average_drop"] == pytest.approx(float(metric.summary()["avg_drop"]), abs=5e-3)  # 256 levels


def test_the_floor_is_where_it_was_measured(real: Real) -> None:
    """Means over photographs; measured elsewhere on ten others, with MATLAB's definitions: black .955 (largest probability),
    .998 (class), SSIM .011, MSE .243; centred Gaussian SSIM .272, FSIMc .575, MSE .184, AVX .421."""
    classifier, _, _ = real
    found: dict[str, list[dict[str, float]]] = {"black": [], "gaussian": [], "class": []}
    maps = torch.stack([torch.zeros(224, 224), blob(224, 0.25)])
    for image in images.load("photos").batch(classifier.view):
        target = classifier.top(image[None], 1)[0][0].index
        by_code = avx.evaluate(classifier, image, maps, None, (target,))
        by_text = avx.evaluate(classifier, image, maps[:1], None, (target,), definition="paper")
        for name, scores in zip(found, [*by_code, *by_text], strict=True):
            found[name].append(scores.before)
    mean = {name: {k: sum(v[k] for v in values) / len(values) for k in values[0]} for name, values in found.items()}
    assert 0.9 < mean["black"]["average_drop"] < 0.98 and 0.98 < mean["class"]["average_drop"] <= 1
    assert mean["black"]["ssim"] < 0.05 and 0.15 < mean["black"]["mse"] < 0.35 and mean["black"]["fsim"] == 0
    assert 0.2 < mean["gaussian"]["ssim"] < 0.35 and 0.45 < mean["gaussian"]["fsim"] < 0.7
    assert 0.1 < mean["gaussian"]["mse"] < 0.3 and 0.3 < mean["gaussian"]["avx"] < 0.6


def test_what_cannot_be_judged_is_refused() -> None:
    maps = torch.rand(2, 32, 32)
    with pytest.raises(avx.MetricError, match=r"image: expected \(3, H, W\), found \(1, 3, 32, 32\)"):
        avx.evaluate(tiny(), picture()[None], maps, None, (0, 1))
    with pytest.raises(avx.MetricError, match=r"maps: expected \(G, 32, 32\), one map a row, found \(32, 32\)"):
        avx.evaluate(tiny(), picture(), maps[0], None, (0, 1))
    with pytest.raises(avx.MetricError, match=r"second_maps: expected \(2, 32, 32\), one map a row, found \(1, 32, 32\)"):
        avx.evaluate(tiny(), picture(), maps, maps[:1], (0, 1))
    with pytest.raises(avx.MetricError, match=r"image: expected values 0\.\.1, not yet normalised, found 0\.\..*255"):
        avx.evaluate(tiny(), (picture() > 0.5) * 255.0, maps, None, (0, 1))
    for targets in ((), (tiny().classes,), (-1, 0)):
        with pytest.raises(avx.MetricError, match=f"targets: expected classes below {tiny().classes}, the explained one first"):
            avx.evaluate(tiny(), picture(), maps, None, targets)
    with pytest.raises(avx.MetricError, match="definition: code or paper; mask: binary or soft; found 'text' and 'hard'"):
        avx.evaluate(tiny(), picture(), maps, maps, (0, 1), definition="text", mask="hard")  # type: ignore[arg-type]

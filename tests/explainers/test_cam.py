"""Class activation maps against torchcam run the ordinary way, and against their formulas in loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchcam.methods import GradCAM, LayerCAM, ScoreCAM

from tests.networks import picture, tiny
from xai_lib import classifiers, explainers, images
from xai_lib.classifiers import Classifier
from xai_lib.explainers import cam
from xai_lib.explanation import ExplanationError
from xai_lib.feature_maps import enlarge, feature_maps, rescale

PICTURES = torch.stack([picture(s) for s in range(3)])
TARGETS = torch.tensor([[0, 1], [2, 3], [4, 0]])


@pytest.fixture(scope="module")
def real() -> tuple[Classifier, Tensor]:
    classifier = classifiers.load("efficientnet_lite0")
    return classifier, images.load("photos").select(["chelsea", "coffee"]).batch(classifier.view)


def theirs(kind: type, classifier: Classifier, pixels: Tensor, layer: str, targets: list[int]) -> Tensor:
    with kind(classifier, f"network.{layer}") as extractor:
        scores = classifier(pixels)
        return extractor(targets, scores, normalized=False)[0]


@pytest.mark.parametrize(("name", "kind"), [("grad_cam", GradCAM), ("layer_cam", LayerCAM)])
def test_torchcam_run_the_ordinary_way_gives_the_same(name: str, kind: type, real: tuple[Classifier, Tensor]) -> None:
    logit = cam.Settings(score="logit")
    for classifier, pixels, targets in ((tiny(), PICTURES, TARGETS), (real[0], real[1], torch.tensor([[281, 285], [967, 504]]))):
        found = cam.shared(classifier, pixels, targets, [name], logit)[name]
        for t, column in enumerate(targets.unbind(1)):
            wanted = theirs(kind, classifier, pixels, classifier.feature_layer, column.tolist())
            assert torch.allclose(found[t], wanted.detach(), rtol=1e-4, atol=1e-6 * float(wanted.max()))


def test_grad_cam_plus_plus_is_its_formula_and_torchcams_is_not() -> None:
    a, g = torch.rand(1, 4, 3, 3, dtype=torch.float64), torch.randn(1, 4, 3, 3, dtype=torch.float64)
    wanted = np.zeros((3, 3))
    for k in range(4):
        weight = 0.0
        for i, j in np.ndindex(3, 3):
            gij = float(g[0, k, i, j])
            alpha = gij**2 / (2 * gij**2 + float(a[0, k].sum()) * gij**3)
            weight += alpha * max(gij, 0)
        wanted += weight * a[0, k].numpy()
    np.testing.assert_allclose(cam.gradient_cam("grad_cam_pp", a, g)[0], np.maximum(wanted, 0), rtol=1e-10)
    flat = torch.zeros_like(g)
    assert float(cam.gradient_cam("grad_cam_pp", a, flat).abs().max()) == 0


def test_fem_is_its_formula() -> None:
    a = torch.rand(2, 5, 4, 4) ** 3
    for n in range(2):
        wanted = np.zeros((4, 4))
        for k in range(5):
            unit = a[n, k].double().numpy()
            wanted += np.where(unit > unit.mean() + 2 * unit.std(), unit.mean(), 0)
        np.testing.assert_allclose(cam.fem(a)[n], wanted, rtol=1e-5)
    assert float(cam.fem(torch.ones(1, 2, 3, 3)).max()) == 0


def test_score_cam_is_torchcams_for_every_class_at_once(real: tuple[Classifier, Tensor]) -> None:
    for classifier, pixels in ((tiny(2), PICTURES[:1]),):
        targets = torch.arange(5)
        found = cam.score_cam(classifier, pixels[0], targets)
        for t in range(5):
            with ScoreCAM(classifier, f"network.{classifier.feature_layer}") as extractor, torch.no_grad():
                classifier(pixels)
                wanted = extractor(t, normalized=False)[0][0]
            assert torch.allclose(found[t], wanted, rtol=1e-3, atol=1e-5)


def test_score_cam_on_the_real_network_with_a_layer_of_few_units(real: tuple[Classifier, Tensor]) -> None:
    classifier, pixels = real
    layer = "blocks.3"  # 80 units
    found = cam.score_cam(classifier, pixels[0], torch.tensor([282]), cam.Settings(layer=layer))
    with ScoreCAM(classifier, f"network.{layer}") as extractor, torch.no_grad():
        classifier(pixels[:1])
        wanted = extractor(282, normalized=False)[0]
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_units_that_are_constant_are_sent_once() -> None:
    units = torch.stack([torch.zeros(2, 2), torch.eye(2), torch.zeros(2, 2), torch.ones(2, 2)])
    masks, place = cam._distinct(units)
    assert len(masks) == 3 and torch.equal(masks[place], units)


def test_maps_of_the_contract_are_the_low_ones_stretched_and_enlarged(real: tuple[Classifier, Tensor]) -> None:
    classifier, pixels = real
    for name in ("grad_cam", "grad_cam_pp", "layer_cam", "fem"):
        found = explainers.get(name).explain(classifier, pixels)
        low = torch.stack([d["low"] for d in found.details])
        assert low.shape == (2, 7, 7) and float(low.min()) >= 0 and float(low.flatten(1).amax(1).min()) > 0
        assert torch.allclose(found.maps, enlarge(rescale(low), (224, 224)).clamp(min=0))


def test_one_pass_serves_all_and_maps_may_be_handed_over(real: tuple[Classifier, Tensor]) -> None:
    classifier, pixels = real
    targets = torch.tensor([[281, 285], [967, 504]])
    found = cam.shared(classifier, pixels, targets)
    held = feature_maps(classifier, pixels, targets=targets)
    again = cam.shared(classifier, pixels, targets, maps=held)
    assert set(found) == set(cam.SHARED) and all(torch.equal(found[m], again[m]) for m in found)
    raw = cam.shared(classifier, pixels, targets, ["grad_cam"], maps=held, relu=False)["grad_cam"]
    assert float(raw.min()) < 0 and torch.allclose(raw.relu(), found["grad_cam"])
    assert torch.equal(found["fem"][0], found["fem"][1])


def test_what_does_not_share_is_named() -> None:
    with pytest.raises(ExplanationError, match="score_cam: no method that shares one pass; those are grad_cam"):
        cam.shared(tiny(), PICTURES, TARGETS, ["score_cam"])
    with pytest.raises(ExplanationError, match="probability or logit"):
        cam.Settings(score="odds")  # type: ignore[arg-type]

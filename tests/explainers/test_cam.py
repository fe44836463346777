"""Class activation maps against torchcam run the ordinary way, and against their formulas in loops."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchcam.methods import GradCAM, GradCAMpp, LayerCAM, ScoreCAM
from torchvision.models import alexnet

from tests.networks import picture, tiny
from xai_lib import classifiers, explainers, images
from xai_lib.classifiers import Classifier
from xai_lib.errors import XaiError
from xai_lib.explainers import cam
from xai_lib.explanation import ExplanationError
from xai_lib.feature_maps import enlarge, feature_maps, rescale
from xai_lib.images import View

PICTURES = torch.stack([picture(s) for s in range(3)])
TARGETS = torch.tensor([[0, 1], [2, 3], [4, 0]])
LOGIT = cam.Settings(score="logit")


@pytest.fixture(scope="module")
def real() -> tuple[Classifier, Tensor]:
    classifier = classifiers.load("efficientnet_lite0")
    return classifier, images.load("photos").select(["chelsea", "coffee"]).batch(classifier.view)


def theirs(kind: type, classifier: Classifier, pixels: Tensor, layer: str, targets: Any) -> Tensor:
    with kind(classifier, f"network.{layer}") as extractor:
        scores = classifier(pixels)
        return extractor(targets, scores, normalized=False)[0].detach()


def close(found: Tensor, wanted: Tensor, share: float = 1e-5) -> bool:
    return torch.allclose(found, wanted, rtol=10 * share, atol=share * float(wanted.abs().max()))


@pytest.mark.parametrize(("name", "kind"), [("grad_cam", GradCAM), ("layer_cam", LayerCAM)])
def test_torchcam_run_the_ordinary_way_gives_the_same(name: str, kind: type, real: tuple[Classifier, Tensor]) -> None:
    classes = torch.tensor([[281, 285], [967, 504]])
    small, large = (tiny(), PICTURES, TARGETS), (*real, classes)
    for classifier, pixels, targets, layer in ((*small, ""), (*small, "0"), (*large, ""), (*large, "blocks.4")):
        found = cam.shared(classifier, pixels, targets, [name], cam.Settings(layer, "logit"))[name]
        for t, column in enumerate(targets.unbind(1)):
            assert close(found[t], theirs(kind, classifier, pixels, layer or classifier.feature_layer, column.tolist()))


def test_a_relu_in_place_behind_the_layer_changes_nothing() -> None:
    torch.manual_seed(0)
    network = alexnet(weights=None).eval()
    apart = copy.deepcopy(network)
    for module in apart.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    writes, keeps = (Classifier(n, name="alexnet", view=View(64, 72)) for n in (network, apart))
    pixels, targets = torch.stack([picture(s, 64) for s in range(2)]), torch.tensor([[3], [5]])
    settings = cam.Settings("features.10", "logit")
    for name, kind in (("grad_cam", GradCAM), ("layer_cam", LayerCAM)):
        found = cam.shared(writes, pixels, targets, [name], settings, relu=False)[name][0]
        assert torch.equal(found, cam.shared(keeps, pixels, targets, [name], settings, relu=False)[name][0])
        assert close(found.relu(), theirs(kind, keeps, pixels, "features.10", [3, 5]))
    before = cam.shared(writes, pixels, targets, ["grad_cam"], settings)["grad_cam"][0]
    overwritten = theirs(GradCAM, writes, pixels, "features.10", [3, 5])  # torchcam reads what the ReLU has written
    assert not close(before, overwritten) and close(theirs(GradCAM, keeps, pixels, "features.11", [3, 5]), overwritten)


def grad_cam_in_loops(a: Tensor, g: Tensor) -> np.ndarray:
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight = sum(float(g[k, i, j]) for i, j in np.ndindex(*a.shape[1:])) / a[k].numel()
        total += weight * a[k].double().numpy()
    return total


def grad_cam_pp_in_loops(a: Tensor, g: Tensor) -> np.ndarray:
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight, whole = 0.0, float(a[k].double().sum())
        for i, j in np.ndindex(*a.shape[1:]):
            one = float(g[k, i, j])
            below = 2 * one**2 + whole * one**3
            weight += one**2 / below * max(one, 0) if below else 0
        total += weight * a[k].double().numpy()
    return total


def layer_cam_in_loops(a: Tensor, g: Tensor) -> np.ndarray:
    total = np.zeros(a.shape[1:])
    for k, i, j in np.ndindex(*a.shape):
        total[i, j] += max(float(g[k, i, j]), 0) * float(a[k, i, j])
    return total


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("score", ["probability", "logit"])
@pytest.mark.parametrize(
    ("name", "loops"),
    [("grad_cam", grad_cam_in_loops), ("grad_cam_pp", grad_cam_pp_in_loops), ("layer_cam", layer_cam_in_loops)],
)
def test_gradient_methods_are_their_formulas(name: str, loops: Any, score: Any, relu: bool) -> None:
    for layer in ("0", "5"):  # with negative values and gradients that differ from place to place; after a ReLU
        maps = feature_maps(tiny(), PICTURES, layer, TARGETS, score)
        found = cam.shared(tiny(), PICTURES, TARGETS, [name], cam.Settings(layer, score), relu=relu)[name]
        for t, n in np.ndindex(2, 3):
            wanted = loops(maps.activations[n], maps.gradients[t, n])
            assert close(found[t, n].double(), torch.from_numpy(np.maximum(wanted, 0) if relu else wanted))


def test_grad_cam_pp_follows_from_the_three_derivatives_of_the_exponential() -> None:
    torch.manual_seed(1)
    a, w = torch.rand(1, 2, 2, 2, dtype=torch.float64), torch.randn(1, 2, 2, 2, dtype=torch.float64)
    derivatives = np.zeros((3, *a.shape[1:]))
    for place in np.ndindex(*a.shape[1:]):
        x = a[0][place].clone().requires_grad_()
        others = (a * w).sum() - a[0][place] * w[0][place]
        value = (others + x * w[0][place]).exp()
        for order in range(3):
            (value,) = torch.autograd.grad(value, x, create_graph=True)
            derivatives[order][place] = value.item()
    first, second, third = derivatives
    weights = [(second[k] / (2 * second[k] + float(a[0, k].sum()) * third[k]) * first[k].clip(0)).sum() for k in range(2)]
    wanted = sum(w * a[0, k].numpy() for k, w in enumerate(weights)) / float((a * w).sum().exp())  # the common factor
    np.testing.assert_allclose(cam.gradient_cam("grad_cam_pp", a, w)[0], wanted.clip(0), rtol=1e-10)


def test_grad_cam_pp_of_torchcam_lacks_the_division(real: tuple[Classifier, Tensor]) -> None:
    """Why torchcam's own weights are not used: they are the sums of the cubed positive gradients."""
    for classifier, pixels, targets in ((tiny(), PICTURES, [0, 2, 4]), (*real, [281, 967])):
        maps = feature_maps(classifier, pixels, targets=torch.tensor(targets)[:, None], score="logit")
        weights = maps.gradients[0].relu().pow(3).sum((-2, -1))
        cubes = torch.einsum("nk,nkhw->nhw", weights, maps.activations).relu()
        assert close(theirs(GradCAMpp, classifier, pixels, classifier.feature_layer, targets), cubes)


def test_gradients_that_vanish_give_an_empty_map() -> None:
    a = torch.rand(1, 4, 3, 3)
    for name in ("grad_cam", "grad_cam_pp", "layer_cam"):
        assert float(cam.gradient_cam(name, a, torch.zeros_like(a)).abs().max()) == 0
    assert torch.isfinite(cam.gradient_cam("grad_cam_pp", a, torch.full_like(a, 1e-30))).all()


def test_fem_is_its_formula() -> None:
    for a in (torch.rand(2, 5, 4, 4) ** 3, torch.randn(2, 5, 6, 5)):
        for n in range(2):
            wanted = np.zeros(a.shape[2:])
            for k in range(5):
                unit = a[n, k].double().numpy()
                wanted += np.where(unit > unit.mean() + 2 * unit.std(), unit.mean(), 0)
            np.testing.assert_allclose(cam.fem(a, relu=False)[n], wanted, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(cam.fem(a)[n], wanted.clip(0), rtol=1e-4, atol=1e-6)
    one = torch.zeros(1, 2, 3, 3)
    one[0, 0, 1, 1], one[0, 1] = 9, 4  # mean 1, deviation 2.83; a constant unit
    assert torch.equal(cam.fem(one)[0], torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))


def score_cam_in_loops(classifier: Classifier, image: Tensor, target: int, confidence: str) -> np.ndarray:
    def score(pixels: Tensor) -> float:
        logits = classifier(pixels[None])[0]
        return float((logits.softmax(0) if confidence == "probability" else logits)[target])

    units = feature_maps(classifier, image[None]).activations[0]
    whole, gains = score(image), []
    for unit in units:
        low, high = float(unit.min()), float(unit.max())
        mask = (unit - low) / (high - low) if high > low else torch.zeros_like(unit)
        large = interpolate(mask[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
        gains.append(score(image * large) - whole)
    weights = np.exp(gains) / np.exp(gains).sum()
    return np.maximum(sum(w * unit.double().numpy() for w, unit in zip(weights, units, strict=True)), 0)


@pytest.mark.parametrize("confidence", ["logit", "probability"])
def test_score_cam_is_its_formula_and_torchcams_for_every_class_at_once(confidence: Any) -> None:
    classifier, image = tiny(2), PICTURES[0]
    found = cam.score_cam(classifier, image, torch.arange(5), cam.Settings(confidence=confidence))
    for t in range(5):
        with torch.no_grad():
            wanted = score_cam_in_loops(classifier, image, t, confidence)
            assert close(found[t].double(), torch.from_numpy(wanted), 1e-4)
            if confidence == "logit":
                assert close(found[t], theirs(ScoreCAM, classifier, image[None], classifier.feature_layer, t)[0], 1e-4)


def test_score_cam_on_the_real_network_with_a_layer_of_few_units(real: tuple[Classifier, Tensor]) -> None:
    classifier, pixels = real
    found = cam.score_cam(classifier, pixels[0], torch.tensor([282, 967]), cam.Settings("blocks.1"))  # 24 units
    with torch.no_grad():
        wanted = theirs(ScoreCAM, classifier, pixels[:1], "blocks.1", 282)
    assert close(found[:1], wanted, 1e-3) and not close(found[1:], wanted, 1e-3)
    signed = cam.score_cam(classifier, pixels[0], torch.tensor([282]), cam.Settings("blocks.1"), relu=False)
    assert float(signed.min()) < 0 and close(signed.relu(), found[:1], 1e-3)  # one class a call, and two: other rounding


def test_units_that_are_constant_are_sent_once_and_counted_once() -> None:
    units = torch.stack([torch.zeros(2, 2), torch.eye(2), torch.zeros(2, 2), torch.ones(2, 2)])
    masks, place = cam._distinct(units)
    assert len(masks) == 3 and torch.equal(masks[place], units)
    classifier = tiny(2)
    classifier.layer("4").bias.data[:3] = -1e3  # three of eight units never active: six images and the whole one
    found = explainers.get("score_cam").explain(classifier, PICTURES[:1], 0)
    assert found.network_calls == found.details[0]["calls"] == 7
    with torch.no_grad():
        assert close(found.details[0]["low"], theirs(ScoreCAM, classifier, PICTURES[:1], classifier.feature_layer, 0)[0], 1e-4)


@pytest.mark.parametrize(("name", "calls"), [("grad_cam", 2), ("grad_cam_pp", 2), ("layer_cam", 2), ("fem", 1)])
def test_maps_of_the_contract_are_the_low_ones_stretched_and_enlarged(
    name: str, calls: int, real: tuple[Classifier, Tensor]
) -> None:
    classifier, pixels = real
    found = explainers.get(name).explain(classifier, pixels, [281, 967])
    low = torch.stack([d["low"] for d in found.details])
    assert low.shape == (2, 7, 7) and float(low.min()) >= 0 and float(low.flatten(1).amax(1).min()) > 0
    assert torch.equal(found.maps, enlarge(rescale(low), (224, 224)).clamp(min=0))
    assert [d["calls"] for d in found.details] == [calls] * 2 and found.network_calls == 2 * calls
    assert {d["layer"] for d in found.details} == {classifier.feature_layer}
    assert close(low, cam.shared(classifier, pixels, torch.tensor([[281], [967]]), [name])[name][0])


def test_one_pass_serves_all_and_maps_may_be_handed_over(real: tuple[Classifier, Tensor]) -> None:
    classifier, pixels = real
    counter = itertools.count()  # a hook that fills a list would be another network after every pass
    counted = classifier.network.register_forward_hook(lambda *_: [next(counter)][1:] or None)
    assert classifier.feature_layer  # found by trial runs, once
    before = next(counter)
    targets = torch.tensor([[281, 285], [967, 504]])
    found = cam.shared(classifier, pixels, targets)
    assert next(counter) == before + 2, "one pass"
    held = feature_maps(classifier, pixels, targets=targets)
    again = cam.shared(classifier, pixels, targets, maps=held)
    assert next(counter) == before + 4, "and one more"
    counted.remove()
    assert set(found) == set(cam.SHARED) and all(torch.equal(found[m], again[m]) for m in found)
    assert all(m.shape == (2, 2, 7, 7) for m in found.values())
    raw = cam.shared(classifier, pixels, targets, ["grad_cam"], maps=held, relu=False)["grad_cam"]
    assert float(raw.min()) < 0 and torch.equal(raw.relu(), found["grad_cam"])
    assert torch.equal(found["fem"][0], found["fem"][1])
    for other in (targets.flip(1), targets[:, :1]):
        with pytest.raises(ExplanationError, match=r"expected the gradients of classes .* found \[\[281, 285\], \[967, 504\]\]"):
            cam.shared(classifier, pixels, other, maps=held)
    left_open = cam.shared(classifier, pixels, targets.clamp(max=-1), ["grad_cam"], maps=held)
    assert torch.equal(left_open["grad_cam"], found["grad_cam"])


@pytest.mark.parametrize("name", [*cam.SHARED, "score_cam"])
def test_layers_without_maps_are_refused(name: str) -> None:
    explainer = explainers.get(name)
    messages = {"9": r"gives \(1, 5\), not maps", "6": r"gives \(1, 8, 1, 1\), not maps", "nine": "tiny has no layer 'nine'"}
    for layer, message in messages.items():
        with pytest.raises(XaiError, match=message):
            explainer.explain(tiny(), PICTURES, 0, cam.Settings(layer))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ExplanationError, match="score_cam: no method that shares one pass; those are grad_cam"):
        cam.shared(tiny(), PICTURES, TARGETS, ["score_cam"])
    with pytest.raises(ExplanationError, match="fem: no method that needs gradients alone; those are grad_cam, grad_cam_pp"):
        cam.gradient_cam("fem", torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3))
    with pytest.raises(ExplanationError, match="expected log_odds, probability, logit"):
        cam.Settings(score="odds")  # type: ignore[arg-type]
    for targets in (torch.tensor([0, 5]), torch.tensor([-1]), torch.tensor([[0]]), torch.tensor([], dtype=torch.long)):
        with pytest.raises(ExplanationError, match=r"targets: expected classes \(T,\) of 0..4, found"):
            cam.score_cam(tiny(), PICTURES[0], targets)

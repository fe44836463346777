"""Expected gradients: by hand where the answer is known, completeness, the layer's own space, and the package beside ours."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from tests.networks import picture, tiny
from xai_lib import images
from xai_lib.classifiers import Classifier
from xai_lib.explainers import shap
from xai_lib.explanation import ExplanationError
from xai_lib.images import View
from xai_lib.layer_inputs import LayerInput, find

pytestmark = pytest.mark.usefixtures("one_thread")
X = picture(5)
BACKGROUND = torch.stack([picture(s) for s in range(20, 32)])


def explained(classifier: Classifier, image: Tensor = X, target: int = 0, seed: int = 0, **settings: Any) -> Any:
    return shap.Shap(BACKGROUND).explain(classifier, image[None], target, shap.Settings(**settings), seed)


def smooth(seed: int = 0) -> Classifier:
    """Two convolutions with a smooth activation each, 3 classes, for pictures of 32 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 3),
        )  # fmt: skip
        network[-1].weight.data *= 8
    return Classifier(network, name="smooth", view=View(32, 36))


def test_a_linear_score_is_exact() -> None:
    rng = torch.Generator().manual_seed(0)
    weights, point, background = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((7,), (7,), (5, 7)))
    found = shap.expected_gradients(lambda x: x @ weights + 3, point, background, samples=20)
    torch.testing.assert_close(found.values, weights * (point - background.mean(0)))  # 20 samples: each background four times
    assert found.score == pytest.approx(float(point @ weights) + 3)
    assert found.expected == pytest.approx(float((background @ weights).mean()) + 3) and abs(found.gap) < 1e-12


def test_a_product_has_the_shapley_values_of_its_definition() -> None:
    """f = a b at (2, 3) against 0: the path's integral gives each factor half, as Shapley's formula does."""
    found = shap.expected_gradients(
        lambda x: x[:, 0] * x[:, 1], torch.tensor([2.0, 3.0]), torch.zeros(1, 2), samples=4000, batch=500
    )
    torch.testing.assert_close(found.values, torch.tensor([3.0, 3.0]), rtol=1e-3, atol=0)


def test_against_a_slow_double_sum() -> None:
    classifier = smooth()
    layer = LayerInput(classifier, "2")
    (h,), _ = layer.of(X[None])
    behind = copy.deepcopy(nn.Sequential(*list(classifier.network)[2:])).double()  # type: ignore[call-overload]
    backgrounds, _ = layer.of(BACKGROUND)
    slow = torch.zeros_like(h, dtype=torch.float64)
    for start in backgrounds.double():
        for alpha in (np.arange(100) + 0.5) / 100:
            x = (start + alpha * (h.double() - start)).requires_grad_()
            slow += torch.autograd.grad(behind(x[None])[0, 1], x)[0] * (h.double() - start)
    slow /= 100 * len(backgrounds)
    found = explained(smooth(), target=1, samples=1200, layer="2").details[0]["low"]
    assert float((found - slow.sum(0)).abs().max()) < 0.01 * float(slow.sum(0).abs().max())


@pytest.mark.parametrize("stratified", [True, False])
def test_the_completeness_gap_falls_with_samples(stratified: bool) -> None:
    def gaps(samples: int) -> float:
        runs = [explained(smooth(), seed=s, samples=samples, stratified=stratified).details[0] for s in range(4)]
        assert all(d["gap"] == pytest.approx(d["sum"] - (d["logit"] - d["expected"]), abs=1e-6) for d in runs)
        return float(np.mean([d["relative_gap"] for d in runs]))

    few, many = gaps(12), gaps(200)
    assert many < 0.1 and many < few


def test_stratified_draws_are_spread_and_each_alone_is_uniform() -> None:
    for samples, backgrounds in ((200, 50), (10, 50), (37, 5), (1, 1)):
        indices, alphas = shap.paths(samples, backgrounds, np.random.default_rng(0))
        counts = np.bincount(indices, minlength=backgrounds)
        assert counts.max() - counts.min() <= 1 and len(alphas) == samples
        assert (alphas >= 0).all() and (alphas < 1).all()
    indices, alphas = shap.paths(200, 50, np.random.default_rng(0))
    for each in range(50):
        assert sorted((alphas[indices == each] * 4).astype(int)) == [0, 1, 2, 3]
    assert sorted((alphas * 200).astype(int)) == [*range(200)]
    firsts = [shap.paths(7, 3, np.random.default_rng(s))[1][0] for s in range(2000)]
    assert np.mean(firsts) == pytest.approx(0.5, abs=0.02) and np.var(firsts) == pytest.approx(1 / 12, abs=0.005)
    with pytest.raises(ExplanationError, match="found 0 and 3"):
        shap.paths(0, 3, np.random.default_rng(0))


def test_the_map_is_the_sum_over_channels_stretched_with_its_sum_kept() -> None:
    found = explained(tiny(), samples=40)
    low = found.details[0]["low"]
    assert found.details[0]["layer"] == "3" and low.shape == (16, 16) and found.maps.shape == (1, 32, 32)
    assert float(low.sum()) == pytest.approx(found.details[0]["sum"], rel=1e-4)
    assert float(found.maps.sum()) == pytest.approx(found.details[0]["sum"], rel=1e-4)


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_the_inner_batch_is_rounding_alone(batch: int) -> None:
    one, other = (explained(tiny(), samples=30, batch=b).maps for b in (20, batch))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def vgg(layers: str = "D") -> Classifier:
    from torchvision.models.vgg import VGG, cfgs, make_layers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(VGG(make_layers(cfgs[layers]), num_classes=4, init_weights=False), name="vgg", view=View(32, 32))


def test_layers_are_found() -> None:
    network = vgg()
    found = [find(network, layer, (64, 64)) for layer in ("auto", "stride2", "stride4", "pixels")]
    assert [place.name for place in found] == ["features.7", "features.7", "features.10", "pixels"]
    assert [place.shape for place in found] == [(128, 32, 32), (128, 32, 32), (128, 16, 16), (3, 64, 64)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        resnet = Classifier(torchvision.models.resnet18(weights=None), name="resnet18", view=View(64, 64))
        norms = Classifier(torchvision.models.vgg16_bn(weights=None, num_classes=4), name="vgg16_bn")
    assert [find(resnet, layer, (64, 64)).name for layer in ("auto", "stride4")] == ["maxpool", "layer1"]
    assert find(norms, "auto", (64, 64)).name == "features.13"  # the second pooling: its seventh module is another one
    with pytest.raises(ExplanationError, match="depend on more than the input of 'layer1.0.conv1'"):
        find(resnet, "layer1.0.conv1", (64, 64))
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), name="flat", view=View(32, 32))
    place = find(flat, "auto", (32, 32))
    assert place.name == "pixels" and "no layer at stride 2" in place.reason


def test_an_activation_in_place_is_another_tensor() -> None:
    parts = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, 2, 1), nn.Flatten(), nn.Linear(256, 2)
    network = nn.Sequential(*parts)
    classifier = Classifier(network, name="in place", view=View(32, 32))
    assert find(classifier, "auto", (32, 32)).name == "2"
    held, logits = LayerInput(classifier, "2").of(X[None])
    assert (held >= 0).all()
    torch.testing.assert_close(LayerInput(classifier, "2").logits(BACKGROUND[:1], held), logits)


def test_backgrounds() -> None:
    view = View(64, 72)
    chelsea = view.apply(images.load("photos")["chelsea"].pixels)
    def drawing(image: Tensor, seed: int) -> Tensor:
        return shap.default_background(image, 63, np.random.default_rng(seed), view)  # of ten photographs, seven crops each

    assert drawing(chelsea, 0).shape == (63, 3, 64, 64)
    assert torch.equal(drawing(chelsea, 0), drawing(chelsea, 9))  # one photograph is left out, so that all others are drawn
    assert not torch.equal(drawing(picture(0, 64), 0), drawing(picture(0, 64), 9))
    brighter = (chelsea * 1.02).clamp(max=1)  # another decoder's
    assert torch.equal(drawing(brighter, 0), drawing(chelsea, 0))
    drawn = [shap.default_background(chelsea, 5, np.random.default_rng(s), view) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert float(drawn[0].min()) >= 0 and float(drawn[0].max()) <= 1
    own = torch.cat([X[None], BACKGROUND])
    a, b = (shap.Shap(given).explain(tiny(), X[None], 0, shap.Settings(samples=5)).maps for given in (own, BACKGROUND))
    assert torch.equal(a, b)  # the explained one is left out
    for given, message in ((X[None], "no picture but the explained one"), (BACKGROUND[:, :, :8], "expected pictures of")):
        with pytest.raises(ExplanationError, match=message):
            shap.Shap(given).explain(tiny(), X[None], 0)


def test_a_png_with_four_channels_is_explained(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "four.png")
    four = images.load(tmp_path / "four.png").batch(View(32, 36))
    found = shap.Shap().explain(tiny(), four, settings=shap.Settings(samples=4))
    assert found.maps.shape == (1, 32, 32) and found.maps.any()


def test_settings_are_checked() -> None:
    wrongs = ({"samples": 0}, "samples: expected an integer"), ({"backend": "x"}, "backend: expected ours or shap")
    for wrong, message in wrongs:
        with pytest.raises(ExplanationError, match=message):
            shap.Settings(**wrong)  # type: ignore[arg-type]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(shap.ShapMissing, match='backend="shap" needs the package shap .*take backend="ours"'):
        explained(tiny(), backend="shap")


def test_the_package_agrees_on_pixels_and_leaves_no_trace() -> None:
    pytest.importorskip("shap")
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    theirs = explained(smooth(), samples=1500, layer="pixels", backend="shap", batch=100)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()
    again = explained(smooth(), samples=1500, layer="pixels", backend="shap", batch=100)
    assert torch.equal(theirs.maps, again.maps)
    ours = explained(smooth(), samples=1500, layer="pixels", batch=100)
    gap = float((ours.maps - theirs.maps).norm() / ours.maps.norm())
    assert gap < 0.15, gap
    assert theirs.details[0]["relative_gap"] < 0.2


def test_the_package_does_not_take_off_the_background_of_an_inner_layer() -> None:
    """Gradient times activation at the interpolated image: a linear network shows it, where nothing depends on the path."""
    pytest.importorskip("shap")
    network = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 2, 2, bias=False), nn.Flatten(), nn.Linear(256, 2, bias=False))
    classifier = Classifier(network, name="linear", view=View(32, 32))
    found = {b: explained(classifier, samples=400, layer="1", backend=b, batch=100).details[0] for b in ("ours", "shap")}
    change = found["ours"]["logit"] - found["ours"]["expected"]
    assert found["ours"]["sum"] == pytest.approx(change, abs=1e-4)
    midway = (found["shap"]["logit"] + found["shap"]["expected"]) / 2  # the mean logit of the interpolated images
    assert abs(found["shap"]["sum"] - midway) < 0.2 * abs(midway - change)

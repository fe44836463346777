"""What every registered explainer promises: one test a promise, all methods; a new method adds one line to `SMALL`."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.networks import picture, planted, tiny
from xai_lib import classifiers, explainers, images
from xai_lib.classifiers import Classifier
from xai_lib.errors import XaiError
from xai_lib.explanation import Explainer, Explanation, ExplanationError, Settings, UnknownExplainer
from xai_lib.images import View

SMALL: dict[str, dict[str, Any]] = {
    "advise": {},
    "elime": {"calls": 40, "segmentation": "slic"},
    "evo_lrp": {"generations": 2, "population": 4, "runs": 10, "subset": 50},
    "fem": {},
    "grad_cam": {},
    "grad_cam_pp": {"score": "logit"},
    "greedy_deletion": {"calls": 40, "segmentation": "slic"},
    "greedy_insertion": {"calls": 40, "segmentation": "slic"},
    "integrated_gradients": {"steps": 8},
    "layer_cam": {},
    "lime": {"samples": 40, "segmentation": "slic"},
    "lime_stratified": {"samples": 40, "segmentation": "slic"},
    "lrp": {},
    "lrp_composite": {},
    "random_search": {"calls": 40, "segmentation": "slic"},
    "rap": {},
    "score_cam": {},
    "shap": {"samples": 6, "background": 4},
}
REAL = {"score_cam": {"layer": "blocks.1"}}  #: on the real network, what keeps a method short: 24 units instead of 1280
REFUSED = {"rap": "RAP: layer 'conv_head' sees negative inputs"}  #: methods that cannot explain the real network, and why
every = pytest.mark.parametrize("name", sorted(SMALL))
PICTURES = torch.stack([picture(s) for s in range(3)])


def small(name: str) -> tuple[Explainer, Settings]:
    explainer = explainers.get(name)
    return explainer, explainer.settings_class(**SMALL[name])


def test_every_method_is_listed_here() -> None:
    assert explainers.names() == sorted(SMALL)


@every
def test_shapes_types_and_counts(name: str) -> None:
    explainer, settings = small(name)
    found = explainer.explain(tiny(), PICTURES, settings=settings)
    assert isinstance(found, Explanation) and found.method == name
    assert found.maps.shape == (3, 32, 32) and found.maps.dtype == torch.float32
    assert found.targets.shape == (3,) and torch.equal(found.targets, tiny().probabilities(PICTURES).argmax(1))
    assert torch.isfinite(found.maps).all() and (found.signed or (found.maps >= 0).all())
    assert found.seconds > 0 and len(found.details) == 3
    assert found.network_calls == 3 + sum(d["calls"] for d in found.details)
    assert found._repr_png_().startswith(b"\x89PNG")


@every
def test_targets_as_int_sequence_or_tensor(name: str) -> None:
    explainer, settings = small(name)
    results = [explainer.explain(tiny(), PICTURES, t, settings) for t in (1, [1, 1, 1], torch.tensor([1, 1, 1]))]
    for other in results[1:]:
        assert_same(results[0], other)
    assert results[0].targets.tolist() == [1, 1, 1]
    with pytest.raises(ExplanationError, match="targets: class 5 is not among the 5 of tiny"):
        explainer.explain(tiny(), PICTURES, 5, settings)


@every
def test_order_and_number_of_images_do_not_matter(name: str) -> None:
    explainer, settings = small(name)
    together = explainer.explain(tiny(), PICTURES, settings=settings, seed=3)
    turned = explainer.explain(tiny(), PICTURES.flip(0), settings=settings, seed=3)
    alone = [explainer.explain(tiny(), image[None], settings=settings, seed=3) for image in PICTURES]
    assert torch.equal(together.maps, turned.maps.flip(0))
    assert torch.equal(together.maps, torch.cat([e.maps for e in alone]))


@every
def test_the_seed_reaches_every_source_of_chance_and_no_global_one_is_touched(name: str) -> None:
    explainer, settings = small(name)
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = explainer.explain(tiny(), PICTURES, settings=settings, seed=1)
    now = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(states[0], now[0]) and states[1:] == now[1:]
    np.random.seed(8)
    torch.manual_seed(8)
    assert_same(first, explainer.explain(tiny(), PICTURES, settings=settings, seed=1))


@pytest.mark.parametrize("name", ["elime", "lime", "lime_stratified", "random_search"])
def test_another_seed_takes_another_path(name: str) -> None:
    explainer, settings = small(name)
    one, two = (explainer.explain(tiny(), PICTURES, settings=settings, seed=s) for s in (1, 2))
    assert not torch.equal(one.maps, two.maps)


class Failing(nn.Module):
    """Works a few times, then raises in the middle of an explanation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.left = tiny().network, 2

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the network broke")
        return self.inner(x)


@every
@pytest.mark.parametrize("failing", [False, True])
def test_the_network_is_left_as_it_was(name: str, failing: bool) -> None:
    explainer, settings = small(name)
    network = Failing() if failing else tiny().network
    classifier = Classifier(network, class_names=list("abcde"), view=View(32, 36))
    classifier.train()
    list(network.modules())[2].eval()
    parameter = next(network.parameters())
    parameter.grad = torch.full_like(parameter, 2.0)
    parameter.requires_grad_(False)
    kept = network.register_forward_hook(lambda *_: None)
    before = snapshot(classifier)
    if failing:
        with pytest.raises(RuntimeError, match="the network broke"):
            explainer.explain(classifier, PICTURES, 0, settings)
    else:
        explainer.explain(classifier, PICTURES, 0, settings)
    after = snapshot(classifier)
    assert before[1:] == after[1:] and all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert kept.id in network._forward_hooks and torch.equal(parameter.grad, torch.full_like(parameter, 2.0))


def snapshot(classifier: Classifier) -> tuple[Any, ...]:
    state = [v.clone() for v in classifier.state_dict().values()]
    modes = [m.training for m in classifier.modules()]
    hooks = [sorted(m._forward_hooks) + sorted(m._forward_pre_hooks) for m in classifier.modules()]
    grads = [(p.requires_grad, p.grad is None) for p in classifier.parameters()]
    return state, modes, hooks, grads


@every
def test_settings_survive_json_and_refuse_what_they_do_not_know(name: str) -> None:
    explainer, settings = small(name)
    assert type(settings).from_json(settings.to_json()) == settings
    with pytest.raises(ExplanationError, match="has no field bogus; its fields: "):
        type(settings).from_json('{"bogus": 1}')
    with pytest.raises(ExplanationError, match=f"{name} expects settings of type Settings, found dict"):
        explainer.explain(tiny(), PICTURES, 0, {"calls": 3})  # type: ignore[arg-type]


@every
def test_thread_count_does_not_matter(name: str) -> None:
    explainer, settings = small(name)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(explainer.explain(tiny(), PICTURES, 0, settings))
    finally:
        torch.set_num_threads(threads)
    assert_same(*results)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 8, 8), r"expected shape \(N, 3, H, W\) with N, H, W > 0, found \(3, 8, 8\); add the batch axis"),
        (torch.rand(1, 1, 8, 8), r"found \(1, 1, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), r"found \(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"found torch.uint8; divide bytes by 255"),
        (torch.full((1, 3, 8, 8), 2.0), r"expected values in 0..1, found 2..2; pass pictures before normalisation"),
        (torch.full((1, 3, 8, 8), float("nan")), "found NaN or infinite values"),
        (np.zeros((1, 3, 8, 8)), "expected a tensor .* found ndarray"),
    ],
)
def test_images_that_no_method_can_take(images: Any, message: str) -> None:
    with pytest.raises(ExplanationError, match=message):
        explainers.get("elime").explain(tiny(), images)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 1], "expected 3, one an image, found 2"),
        (-1, "class -1 is not among the 5"),
        (torch.tensor([0.5, 1, 1]), "expected integers, found a tensor of torch.float32"),
        ("tabby", "expected an int, a sequence or a tensor of ints, found 'tabby'"),
        (1.5, "found 1.5"),
    ],
)
def test_targets_that_no_method_can_take(targets: Any, message: str) -> None:
    with pytest.raises(ExplanationError, match=message):
        explainers.get("elime").explain(tiny(), PICTURES, targets)


def test_unknown_methods_name_the_nearest() -> None:
    with pytest.raises(UnknownExplainer, match="no explainer is called 'e-lime'; nearest: .*elime"):
        explainers.get("e-lime")


@pytest.fixture(scope="module")
def real() -> tuple[Classifier, Tensor]:
    classifier = classifiers.load("efficientnet_lite0")
    return classifier, images.load("photos").select(["coffee", "flower"]).batch(classifier.view)


@every
def test_on_the_real_network(name: str, real: tuple[Classifier, Tensor]) -> None:
    classifier, photographs = real
    explainer = explainers.get(name)
    settings = explainer.settings_class(**SMALL[name] | REAL.get(name, {}))
    if name in REFUSED:
        with pytest.raises(XaiError, match=REFUSED[name]):
            explainer.explain(classifier, photographs, settings=settings)
        return
    found = explainer.explain(classifier, photographs, settings=settings)
    assert found.targets.tolist() == [967, 985] and found.maps.shape == (2, 224, 224)
    again = explainer.explain(classifier, photographs.flip(0), settings=settings)
    assert torch.equal(found.maps, again.maps.flip(0))
    assert not any(m._forward_hooks for m in classifier.modules())


def test_a_picture_of_one_superpixel_is_no_special_case() -> None:
    classifier, white, _ = planted()
    for name in sorted(n for n, settings in SMALL.items() if "segmentation" in settings):
        explainer = explainers.get(name)
        changes = {k: v for k, v in SMALL[name].items() if k != "segmentation"}
        found = explainer.explain(classifier, white[None], 1, explainer.settings_class(**changes))
        assert found.maps.unique().numel() == 1, name


def assert_same(a: Explanation, b: Explanation) -> None:
    assert torch.equal(a.maps, b.maps) and torch.equal(a.targets, b.targets)
    assert a.network_calls == b.network_calls
    for x, y in zip(a.details, b.details, strict=True):
        assert x["calls"] == y["calls"]
        if "kept" in x:  # what chooses superpixels
            assert np.array_equal(x["kept"], y["kept"]) and x["probability"] == y["probability"]

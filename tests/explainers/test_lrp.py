"""LRP's composites, what they conserve, how much they hear of the last layers, and the explainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zennit.composites
from torch import Tensor, nn

from tests.networks import picture, tiny
from tests.relevance.networks import big, pixels, randomised, sequential
from xai_lib import classifiers, explainers
from xai_lib.explainers import lrp
from xai_lib.explanation import ExplanationError
from xai_lib.images import View
from xai_lib.relevance import AlphaBeta, Epsilon, Gamma, Recording, RelevanceError, ZBox

pytestmark = pytest.mark.usefixtures("one_thread")
X = pixels(2, 16)
BOX = (-5.0, 5.0)
ANY: Any = "any"
COMPOSITES = {
    "epsilon": lrp.epsilon(1e-9), "epsilon ignore": lrp.epsilon(0.1, bias="ignore"), "z+": lrp.alpha_beta(1.0),
    "alpha2 spread": lrp.alpha_beta(2.0, bias="spread", zbox=BOX), "plus": lrp.epsilon_plus(), "box": lrp.epsilon_gamma_box(*BOX),
    "flat": lrp.epsilon_plus_flat(), "alpha2 flat": lrp.epsilon_alpha2_beta1_flat(), "alpha2": lrp.epsilon_alpha2_beta1(),
}  # fmt: skip


def deep(layers: int = 10, seed: int = 0) -> nn.Module:
    """Convolutions and ReLUs, many of them."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Conv2d(16 if i else 3, 16, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*parts, nn.Flatten(), nn.Linear(16 * 256, 32), nn.ReLU(), nn.Linear(32, 10))
    return randomised(network.double(), seed).eval()


def test_each_layer_has_the_rule_of_the_composite() -> None:
    recording = Recording(sequential(), X)
    gamma, epsilon, first, last = Gamma(), Epsilon(), ZBox(*BOX), AlphaBeta(1.0)
    composite = lrp.Composite("mine", gamma, epsilon, first, last)
    assert [composite.rule(o, recording) for o in recording.linear] == [first, gamma, gamma, epsilon, last]
    assert [o.kind for o in recording.operations if composite.rule(o, recording) is first] == ["linear"]
    pools = [composite.rule(o, recording) for o in recording.operations if o.kind == "pool"]
    assert pools == [gamma] and repr(composite) == "Composite('mine')"
    plain = lrp.Composite("plain", gamma)
    assert all(plain.rule(o, recording) is gamma for o in recording.operations)


def test_the_named_composites_are_the_rules_they_name() -> None:
    zennits = {n for n in zennit.composites.COMPOSITES if n.startswith("epsilon_")}
    assert set(lrp.COMPOSITES) == {"alpha_beta", "epsilon"} | zennits
    for name, convolution, dense, first in (
        ("epsilon_plus", AlphaBeta(1.0), Epsilon(1e-6), None), ("epsilon_alpha2_beta1", AlphaBeta(2.0), Epsilon(1e-6), None),
        ("epsilon_gamma_box", Gamma(0.25), Epsilon(1e-6), ZBox(*BOX)), ("alpha_beta", AlphaBeta(2.0), AlphaBeta(2.0), None),
        ("epsilon", Epsilon(1e-9), Epsilon(1e-9), None),
    ):  # fmt: skip
        composite = lrp.COMPOSITES[name](*BOX) if first else lrp.COMPOSITES[name]()
        mine = lrp.Composite("by hand", convolution, dense, first)
        assert composite.name == name
        assert torch.equal(lrp.relevance(sequential(), X, 1, composite), lrp.relevance(sequential(), X, 1, mine))


@pytest.mark.parametrize("name", COMPOSITES)
def test_conservation_is_pixels_and_biases_against_the_logit(name: str) -> None:
    network, composite, targets = sequential(3), COMPOSITES[name], torch.tensor([4, 1])
    found = lrp.check_conservation(network, composite, X, targets)
    logit = network(X).detach().gather(1, targets[:, None])[:, 0]
    pixels = lrp.relevance(network, X, targets, composite).flatten(1).sum(1)
    torch.testing.assert_close(found.logit, logit, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.pixels, pixels, rtol=1e-12, atol=0)
    assert torch.equal(found.error, (found.pixels + found.biases - found.logit) / found.logit.abs())
    if name in ("epsilon", "alpha2 spread"):
        assert float(found.error.abs().max()) < (1e-6 if name == "epsilon" else 1e-12)
    if name in ("epsilon ignore", "alpha2 spread"):
        assert not found.biases.any()
    largest = lrp.check_conservation(network, composite, X)
    assert torch.equal(largest.logit, lrp.check_conservation(network, composite, X, network(X).argmax(1)).logit)


def test_what_the_biases_keep_is_what_networks_without_biases_do_not_lose() -> None:
    with_biases, without = sequential(5), sequential(5, bias=False)
    for composite in (lrp.epsilon(1e-9), lrp.epsilon_plus(epsilon=1e-9)):
        assert lrp.check_conservation(with_biases, composite, X).biases.abs().min() > 1e-3
        none = lrp.check_conservation(without, composite, X)
        assert not none.biases.any() and float(none.error.abs().max()) < 1e-6


def test_conservation_of_a_composite_of_zennit() -> None:
    network = big("vgg16", hidden=32)
    x = pixels(1, 32)
    for composite in (zennit.composites.EpsilonPlus(), zennit.composites.EpsilonAlpha2Beta1()):
        found = lrp.check_conservation(network, composite, x)
        moving = x.clone().requires_grad_()
        with composite.context(network) as hooked:
            logits = hooked(moving)
            best = int(logits.argmax(1))
            (wanted,) = torch.autograd.grad(logits, moving, nn.functional.one_hot(torch.tensor([best]), 1000) * logits.detach())
        assert torch.equal(found.pixels, wanted.flatten(1).sum(1)) and not found.biases.any()
        assert float(found.logit) == pytest.approx(float(logits[0, best].detach()), rel=1e-12)
        assert float(found.error) == pytest.approx(float((found.pixels - found.logit) / found.logit.abs()), rel=1e-12)
        assert abs(float(found.error)) > 1e-3  # its biases keep their shares, and are not counted


def test_z_plus_hears_nothing_of_the_last_layers_of_a_deep_network() -> None:
    network, x = deep(), pixels(1, 16)
    three = lrp.alpha_beta(1.0), lrp.epsilon(1e-9), lrp.alpha_beta(2.0)
    plus, epsilon, alpha2 = (lrp.convergence(network, c, x) for c in three)
    assert min(plus) > 0.9
    assert max(epsilon) < 0.7 and max(alpha2) < min(plus)
    assert lrp.convergence(network, lrp.epsilon(1e-9), x) == epsilon
    assert lrp.convergence(network, lrp.epsilon(1e-9), x, seed=1) != epsilon


def test_convergence_is_the_median_cosine_of_pairs() -> None:
    network, composite = sequential(8), lrp.epsilon_plus()
    rng = torch.Generator().manual_seed(4)
    noise = torch.randn(3, 2, 5, generator=rng, dtype=torch.float64)
    classes = torch.randperm(5, generator=rng)[:3].tolist()
    recording = Recording(network, X)
    maps = [lrp.propagate(recording, composite, r[None])[0] for r in noise]
    one_hot = torch.eye(5, dtype=torch.float64)
    single = [lrp.propagate(recording, composite, one_hot[[c, c]][None])[0] for c in classes]

    def median(found: list[Tensor]) -> float:
        cosines = [
            abs(float(nn.functional.cosine_similarity(found[a][n].flatten(), found[b][n].flatten(), dim=0, eps=1e-300)))
            for a in range(3) for b in range(a) for n in range(2)
        ]  # fmt: skip
        return float(torch.tensor(cosines, dtype=torch.float64).median())

    found = lrp.convergence(network, composite, X, vectors=3, seed=4)
    assert found == pytest.approx((median(maps), median(single)), rel=1e-9)


def test_groups_of_vgg16_are_five_blocks_and_the_head() -> None:
    network = big("vgg16", hidden=8)
    recording = Recording(network, pixels(1, 32))
    blocks = [0] * 2 + [1] * 2 + [2] * 3 + [3] * 3 + [4] * 3
    assert lrp.groups_of(recording, "resolution") == [*blocks, 5, 5, 5]
    assert lrp.groups_of(recording, "layer") == list(range(16)) and lrp.groups_of(recording, "all") == [0] * 16


def test_bounds_are_black_and_white_after_normalisation() -> None:
    classifier = tiny()
    low, high = lrp.bounds(classifier)
    assert torch.equal(low, classifier.normalise(torch.zeros(1, 3, 1, 1))) and low.shape == (1, 3, 1, 1)
    assert torch.equal(high, classifier.normalise(torch.ones(1, 3, 1, 1))) and bool((low < high).all())


RECORDING = Recording(sequential(), X)
START = RECORDING.logits[None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lrp.alpha_beta(0.5), "alpha: expected a number of at least 1"),
        (lambda: lrp.alpha_beta([1.0, 0.5], groups="layer"), "alpha: expected a number of at least 1 .* found .*0.5"),
        (lambda: lrp.alpha_beta([], groups="layer"), "alpha_beta: expected a number or one a group of layers, found ..$"),
        (lambda: lrp.epsilon("small"), "epsilon: expected a number or one a group of layers, found 'small'"),
        (lambda: lrp.alpha_beta(2.0, zbox=(1.0,)), r"zbox: expected a pair of bounds .low, high., found .1.0,."),
        (lambda: lrp.propagate(RECORDING, lrp.alpha_beta(), START, torch.tensor([[0.5]])), "at least 1 .* found .*0.5"),
        (lambda: lrp.propagate(RECORDING, lrp.epsilon(), START, torch.tensor([[-0.5]])), "epsilon: .* above 0"),
        (lambda: lrp.alpha_beta(2.0, bias=ANY), "bias: expected keep, ignore, spread, found 'any'"),
        (lambda: lrp.alpha_beta(2.0, zbox=(1.0, -1.0)), "zbox: a lower bound lies above its upper bound"),
        (lambda: lrp.epsilon(0.0), "epsilon: expected a number above 0"),
        (lambda: lrp.epsilon([0.1, -0.1], groups="layer"), "epsilon: expected a number above 0"),
        (lambda: lrp.epsilon(0.1, bias="spread"), 'epsilon: bias="spread" diverges'),
        (lambda: lrp.epsilon_gamma_box(0.0, 1.0, gamma=-1.0), "gamma: expected a number >= 0, found -1.0"),
        (lambda: lrp.epsilon_plus(epsilon=-1.0), "epsilon: expected a number above 0"),
        (lambda: lrp.relevance(sequential(), X, 0, "epsilon"), "composite: expected one of .* found 'epsilon'"),
        (lambda: lrp.relevance(sequential(), X, 0, lrp.alpha_beta(2.0, zbox=(torch.zeros(4, 1, 1), 1.0))), "does not broadcast"),
    ],
)
def test_composites_that_cannot_be_made(make: Any, message: str) -> None:
    with pytest.raises(RelevanceError, match=message):
        make()


def test_zennits_dense_rule_of_spread_composites_is_kept() -> None:
    """Epsilon cannot spread; the convolutions' biases are spread, those of dense layers kept and counted."""
    found = lrp.check_conservation(sequential(6), lrp.epsilon_plus(epsilon=1e-9, bias="spread"), X)
    assert float(found.error.abs().max()) < 1e-6 and bool(found.biases.any())


@pytest.mark.parametrize("composite", sorted(lrp.COMPOSITES))
def test_the_explainer_is_the_function_with_its_channels_summed(composite: str) -> None:
    classifier, images = tiny(2), torch.stack([picture(s) for s in range(2)])
    settings = lrp.Settings(composite, bias="ignore" if composite == "epsilon" else "spread")
    found = explainers.get("lrp").explain(classifier, images, [1, 3], settings)
    low, high = lrp.bounds(classifier)
    options: dict[str, Any] = {"bias": settings.bias}
    if composite in ("alpha_beta", "epsilon"):
        options["zbox"] = low, high
    mine = lrp.epsilon_gamma_box(low, high, bias="spread") if "box" in composite else lrp.COMPOSITES[composite](**options)
    for n, target in enumerate((1, 3)):
        wanted = lrp.relevance(classifier.network, classifier.normalise(images[n : n + 1]), target, mine)[0]
        assert torch.equal(found.maps[n], wanted.sum(0))
        details = found.details[n]
        with torch.no_grad():
            assert details["logit"] == pytest.approx(float(classifier(images)[n, target]), rel=1e-4)
        assert details["pixels"] == pytest.approx(float(wanted.sum()), rel=1e-3, abs=1e-5) and details["calls"] == 2
        if composite == "alpha_beta":
            assert details["pixels"] == pytest.approx(details["logit"], rel=1e-4) and details["biases"] == 0


def test_settings_reach_the_composite() -> None:
    classifier = tiny()
    for name, value, parameter in (("alpha_beta", 3.0, "alpha"), ("epsilon", 0.5, "epsilon"), ("epsilon_plus", 0.5, "epsilon")):
        composite = lrp.Settings(name, value).build(classifier)
        rule = composite.dense
        assert (rule.parameter, rule.value, rule.bias) == (parameter, value, "keep")
        assert (composite.first is None) == (name == "epsilon_plus")
    assert lrp.Settings("epsilon", pixels=False).build(classifier).first is None
    assert isinstance(lrp.Settings("epsilon_gamma_box").build(classifier).first, ZBox)
    with pytest.raises(ExplanationError, match="no composite is called 'epsilon_pluss'; nearest: .*epsilon_plus"):
        lrp.Settings("epsilon_pluss")


def test_the_real_network_in_float32_conserves() -> None:
    classifier = classifiers.load("efficientnet_lite0")
    images = torch.stack([picture(s, 96) for s in range(2)])
    found = explainers.get("lrp").explain(classifier, images, settings=lrp.Settings("alpha_beta", 2.0, "spread"))
    for details in found.details:
        assert details["pixels"] == pytest.approx(details["logit"], rel=5e-3)


def grey(expanded: bool) -> nn.Module:
    """One channel; or a network of three channels of equal weights, to which it is expanded in `forward`."""
    layers = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))
    randomised(layers, 3)
    if not expanded:
        return layers

    class Expanding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Conv2d(3, 6, 3), layers[1:]
            self.first.weight.data = layers[0].weight.data.expand(-1, 3, -1, -1) / 3  # type: ignore[operator]
            self.first.bias.data = layers[0].bias.data  # type: ignore[union-attr, assignment]

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.first(x.expand(-1, 3, -1, -1)))

    return Expanding()


@pytest.mark.parametrize("method", ["lrp", "lrp_composite", "rap", "evo_lrp"])
def test_networks_of_one_channel(method: str) -> None:
    """By itself and expanded to three channels the network is the same function, and so is its map."""
    options: dict[str, Any] = {"mean": (0.5,), "std": (0.25,)}
    one, three = (classifiers.Classifier(grey(e), view=View(24, 24), **options) for e in (False, True))
    images = torch.stack([picture(s, 24).mean(0, keepdim=True) for s in range(2)])
    low, high = lrp.bounds(one)
    assert low.shape == high.shape == (1, 1, 1, 1) and (float(low), float(high)) == (-2.0, 2.0)
    explainer = explainers.get(method)
    settings = explainer.settings_class(values=(2.0,)) if method == "evo_lrp" else None  # type: ignore[call-arg]
    found = [explainer.explain(c, images, [1, 3], settings).maps for c in (one, three)]
    assert found[0].shape == (2, 24, 24) and bool(found[0].abs().sum())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5 * float(found[0].abs().max()))


def test_equal_functions_have_equal_maps_and_others_do_not() -> None:
    class Twin(nn.Module):
        def __init__(self, way: Any) -> None:
            super().__init__()
            self.conv, self.end, self.way = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), way

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.way(self.conv(x)).mean((2, 3)))

    silu, product = (randomised(Twin(w).double(), 1) for w in (nn.functional.silu, lambda y: y * torch.sigmoid(y)))
    for composite in COMPOSITES.values():
        found = lrp.check_equivalence(silu, product, composite, X)
        assert found.logits < 1e-14 and found.maps.shape == (2,) and float(found.maps.max()) < 1e-10
    other = randomised(Twin(nn.functional.relu).double(), 1)
    found = lrp.check_equivalence(silu, other, COMPOSITES["epsilon"], X, targets=[0, 1])
    assert found.logits > 1e-3 and float(found.maps.min()) > 1e-3
    one, two = lrp.relevance(silu, X, [0, 1], COMPOSITES["epsilon"]), lrp.relevance(other, X, [0, 1], COMPOSITES["epsilon"])
    wanted = (one - two).abs().amax((1, 2, 3)) / one.abs().amax((1, 2, 3))
    torch.testing.assert_close(found.maps, wanted)
    with pytest.raises(RelevanceError, match=r"logits \(2, 5\) and \(2, 10\); expected two networks with the same classes"):
        lrp.check_equivalence(silu, nn.Sequential(nn.Flatten(), nn.Linear(768, 10)).double(), COMPOSITES["epsilon"], X)


@pytest.mark.parametrize("method", ["lrp", "lrp_composite", "rap", "evo_lrp"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_other_precision(method: str, dtype: torch.dtype) -> None:
    """Against the same weights in float64."""
    low = classifiers.Classifier(big_eyed().to(dtype), view=View(24, 24))
    high = classifiers.Classifier(big_eyed().to(dtype).double(), view=View(24, 24))
    images = torch.stack([picture(s, 24) for s in range(2)])
    explainer = explainers.get(method)
    settings = explainer.settings_class(values=(2.0,)) if method == "evo_lrp" else None  # type: ignore[call-arg]
    found, wanted = (explainer.explain(c, images, [1, 3], settings).maps.double() for c in (low, high))
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float64: 1e-9}[dtype]
    assert float((found - wanted).abs().max() / wanted.abs().max()) < tolerance


def big_eyed() -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    )
    return randomised(layers, 3)

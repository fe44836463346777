"""Randomisation checks: quantus's numbers, explainers that must pass or fail, and the original left untouched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from scipy.stats import rankdata
from torch import Tensor, nn

from tests.networks import picture, tiny
from xai_lib import explainers, explanation
from xai_lib.classifiers import Classifier
from xai_lib.explanation import Explainer
from xai_lib.images import View
from xai_lib.metrics import sanity

PICTURES = torch.stack([picture(s) for s in range(3)])


@pytest.fixture(scope="module")
def known() -> Iterator[dict[str, Explainer]]:
    """One explainer that does not look at the network, and one that is the network's gradient."""
    before = dict(explanation._registry)

    class Edges(Explainer):
        name, title, source, needs, cost, signed = "edges", "", "", "", "", False

        def explain_image(self, classifier: Classifier, image: Tensor, *_: Any) -> tuple[Tensor, int, dict[str, Any]]:
            return nn.functional.pad(image.mean(0).diff(dim=1).abs(), (0, 1)), 0, {"calls": 0}

    class Gradient(Explainer):
        name, title, source, needs, cost, signed = "gradient", "", "", "", "", True

        def explain_image(
            self, classifier: Classifier, image: Tensor, target: int, *_: Any
        ) -> tuple[Tensor, int, dict[str, Any]]:
            x = image[None].clone().requires_grad_()
            return torch.autograd.grad(classifier(x)[0, target], x)[0][0].sum(0), 1, {"calls": 1}

    yield {"edges": Edges(), "gradient": Gradient()}
    explanation._registry.clear()
    explanation._registry.update(before)


def test_what_ignores_the_network_keeps_its_map_and_what_reads_it_does_not(known: dict[str, Explainer]) -> None:
    kept = sanity.cascading_randomisation(tiny(), known["edges"], PICTURES)
    assert [s.layer for s in kept] == ["9", "4", "3", "1", "0"]
    assert all(np.allclose(s.correlation, 1) and np.allclose(s.ssim, 1) for s in kept)
    lost = sanity.cascading_randomisation(tiny(), known["gradient"], PICTURES)
    assert all(np.abs(s.correlation).max() < 0.95 for s in lost[1:])
    assert abs(np.mean([s.correlation for s in lost[-1:]])) < 0.5
    assert (sanity.efficient_mprt(tiny(), known["edges"], PICTURES).rise == 0).all()


def test_the_original_is_untouched_and_the_seed_decides(known: dict[str, Explainer]) -> None:
    classifier = tiny()
    before = {k: v.clone() for k, v in classifier.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = sanity.cascading_randomisation(classifier, known["gradient"], PICTURES, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    again = sanity.cascading_randomisation(classifier, known["gradient"], PICTURES, seed=1)
    other = sanity.cascading_randomisation(classifier, known["gradient"], PICTURES, seed=2)
    assert all(np.array_equal(a.correlation, b.correlation) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[-1].correlation, other[-1].correlation)
    assert all(torch.equal(before[k], v) for k, v in classifier.state_dict().items())


def test_orders_and_selected_layers(known: dict[str, Explainer]) -> None:
    classifier = tiny()
    names = [n for n, _ in sanity.randomised(classifier, order="bottom_up")]
    assert names == sanity.weighted_layers(classifier) == ["0", "1", "3", "4", "9"]
    *_, (_, top) = sanity.randomised(classifier, 3)
    *_, (_, bottom) = sanity.randomised(classifier, 3, "bottom_up")
    assert all(torch.equal(a, b) for a, b in zip(top.state_dict().values(), bottom.state_dict().values(), strict=True))
    for name, changed in sanity.randomised(classifier, 3, "independent"):
        kept = [n for n in names if n != name]
        for n in kept:
            for a, b in zip(classifier.layer(n).state_dict().values(), changed.layer(n).state_dict().values(), strict=True):
                assert torch.equal(a, b)
    norm = next(c for n, c in sanity.randomised(classifier, 3, "independent") if n == "1").layer("1")
    assert torch.equal(norm.running_mean, torch.zeros(8)) and torch.equal(norm.running_var, torch.ones(8))
    whole = sanity.cascading_randomisation(classifier, known["gradient"], PICTURES)
    some = sanity.cascading_randomisation(classifier, known["gradient"], PICTURES, layers=["4", "0"])
    assert [s.layer for s in some] == ["4", "0"]
    assert np.array_equal(some[0].correlation, whole[1].correlation) and np.array_equal(some[1].correlation, whole[4].correlation)
    alone = sanity.cascading_randomisation(classifier, known["gradient"], PICTURES, layers=["3"], order="independent")
    assert [s.layer for s in alone] == ["3"]


def test_correlation_and_entropy_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((9, 9)).round(1), rng.random((9, 9))
    ra, rb = rankdata(a), rankdata(b)
    wanted = ((ra - ra.mean()) * (rb - rb.mean())).mean() / ra.std() / rb.std()
    assert sanity.rank_correlation(a, b) == pytest.approx(wanted)
    assert np.isnan(sanity.rank_correlation(a, np.zeros((9, 9))))
    counts = np.array([((b >= lo) & (b < hi)).sum() for lo, hi in zip(*bounds(b, 10), strict=True)])
    assert sanity.entropy(b, 10) == pytest.approx(-sum(p * np.log(p) for p in counts / 81 if p))
    assert sanity.entropy(np.ones(7)) == 0 and sanity.entropy(np.arange(100.0), 10) == pytest.approx(np.log(10))


def bounds(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.linspace(values.min(), values.max(), bins + 1)
    edges[-1] += 1
    return edges[:-1], edges[1:]


def test_quantus_gives_the_same_correlation_and_entropy() -> None:
    from quantus.functions.complexity_func import discrete_entropy
    from quantus.functions.similarity_func import correlation_spearman

    rng = np.random.default_rng(1)
    a, b = rng.random(400), rng.random(400)
    assert sanity.rank_correlation(a, b) == pytest.approx(float(correlation_spearman(a, b)), abs=1e-9)
    counts, _ = np.histogram(a, 100)
    theirs = float(discrete_entropy(a=a, x=a))
    assert theirs == pytest.approx(float(scipy_entropy(counts)), abs=1e-9) == pytest.approx(sanity.entropy(a, 100), abs=1e-9)


def test_quantus_randomises_to_the_same_numbers(known: dict[str, Explainer]) -> None:
    """MPRT of quantus, its layers given our weights, on our gradient: the same correlations step by step."""
    import quantus

    ours = sanity.cascading_randomisation(tiny(), known["gradient"], PICTURES, [0, 1, 2])
    steps = dict(sanity.randomised(tiny(), 0))
    assert list(steps) == [s.layer for s in ours]
    states = [{k: v.clone() for k, v in c.state_dict().items()} for _, c in sanity.randomised(tiny(), 0)]
    first = known["gradient"].explain(tiny(), PICTURES, [0, 1, 2]).maps.numpy()
    for state, step in zip(states, ours, strict=True):
        changed = tiny()
        changed.load_state_dict(state)
        maps = known["gradient"].explain(changed, PICTURES, [0, 1, 2]).maps.numpy()
        compare = quantus.similarity_func.correlation_spearman
        theirs = [compare(a.flatten(), b.flatten()) for a, b in zip(first, maps, strict=True)]
        assert np.allclose(step.correlation, theirs, atol=1e-9)


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ self.scale


def test_what_the_network_does_not_have_is_named(known: dict[str, Explainer]) -> None:
    with pytest.raises(sanity.SanityError, match="tiny has no layer with weights called 'conv'; known: 0, 1, 3, 4, 9"):
        sanity.cascading_randomisation(tiny(), known["edges"], PICTURES, layers=["conv"])
    with pytest.raises(sanity.SanityError, match="order: expected top_down, bottom_up, independent, found 'sideways'"):
        list(sanity.randomised(tiny(), order="sideways"))  # type: ignore[arg-type]
    inner = Deaf()
    with pytest.raises(sanity.SanityError, match="deaf: 0 own weights and have no reset_parameters"):
        sanity.weighted_layers(Classifier(nn.Sequential(inner), name="deaf", view=View(32, 36)))
    with pytest.raises(sanity.SanityError, match="bare has no layer with weights"):
        sanity.weighted_layers(Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), name="bare", view=View(32, 36)))


def test_on_registered_methods() -> None:
    for name in ("grad_cam", "advise"):
        steps = sanity.cascading_randomisation(tiny(), explainers.get(name), PICTURES, layers=["9", "0"])
        assert len(steps) == 2 and all(s.correlation.shape == (3,) for s in steps)
    rise = sanity.efficient_mprt(tiny(), explainers.get("grad_cam"), PICTURES)
    assert rise.rise.shape == (3,)

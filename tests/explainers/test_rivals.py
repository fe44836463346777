"""LIME against its own formula, and the rivals on a network whose best mask is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.networks import picture, planted, tiny
from xai_lib.explainers import greedy, lime, random_search
from xai_lib.explanation import ExplanationError
from xai_lib.superpixels import Fitness, masked_images, segment


def slow_lime(masks: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Weighted ridge regression with intercept (alpha 1) by its normal equations; weights from the cosine distance."""
    n, d = masks.shape
    full = np.ones(d)
    weights = []
    for mask in masks.astype(float):
        cosine = mask @ full / (np.linalg.norm(mask) * np.linalg.norm(full)) if mask.any() else 0.0
        weights.append(np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.25**2)))
    design = np.hstack([masks.astype(float), np.ones((n, 1))])
    penalty = np.diag([1.0] * d + [0.0])
    w = np.diag(weights)
    return np.linalg.solve(design.T @ w @ design + penalty, design.T @ w @ answers)[:d]


def test_lime_equals_its_formula_on_the_masks_it_drew() -> None:
    """The package's masks are drawn again from its seed: bits with probability one half, the first row all ones."""
    classifier, image = tiny(), picture()
    segments = segment(image, "slic")
    d = int(segments.max()) + 1
    settings = lime.Settings(samples=200, segmentation="slic")
    found = lime.Lime().weights(classifier, image, segments, 2, settings, np.random.default_rng(5))
    state = np.random.RandomState(int(np.random.default_rng(5).integers(2**31)))
    state.randint(0, high=1000)  # the package draws a seed for the segmentation first
    masks = state.randint(0, 2, 200 * d).reshape(200, d).astype(bool)
    masks[0] = True
    answers = classifier.probabilities(masked_images(image, segments, masks))[:, 2].double().numpy()
    np.testing.assert_allclose(found, slow_lime(masks, answers), rtol=1e-3, atol=1e-6)


def test_stratified_lime_equals_the_formula_on_stratified_masks() -> None:
    classifier, image = tiny(), picture()
    segments = segment(image, "slic")
    settings = lime.Settings(samples=200, segmentation="slic")
    found = lime.LimeStratified().weights(classifier, image, segments, 2, settings, np.random.default_rng(5))
    masks = lime.stratified_masks(200, int(segments.max()) + 1, np.random.default_rng(5))
    fitness = Fitness(classifier, image, segments, 2, calls=200)
    answers = 1 / (1 + np.exp(-fitness(masks)))
    np.testing.assert_allclose(found, slow_lime(masks, answers), rtol=1e-3, atol=1e-6)


def test_stratified_masks_keep_every_number_equally_often() -> None:
    masks = lime.stratified_masks(20_000, 9, np.random.default_rng(0))
    counts = np.bincount(masks.sum(1), minlength=10)
    assert counts.min() > 1800 and counts.max() < 2200
    assert masks[0].all()
    np.testing.assert_allclose(masks.mean(0), 0.5, atol=0.02)


def test_lime_finds_the_sign_of_every_square_of_the_planted_network() -> None:
    classifier, image, segments = planted(4)
    for method in (lime.Lime(), lime.LimeStratified()):
        weights = method.weights(classifier, image, segments, 1, lime.Settings(samples=600), np.random.default_rng(0))
        assert np.array_equal(weights > 0, classifier.network.wanted.flatten().numpy() > 0), method.name


def test_rankings_and_top_features() -> None:
    weights = np.array([0.1, -0.3, 0.5, 0.0, 0.2])
    assert lime.top_features(weights, 2).tolist() == [False, False, True, False, True]
    assert lime.top_features(weights, 5).tolist() == [True, False, True, False, True], "positive weights only"
    masks = lime.ranking_masks(weights)
    assert [m.nonzero()[0].tolist() for m in masks] == [[2], [2, 4], [0, 2, 4], [0, 2, 3, 4], [0, 1, 2, 3, 4]]


def slow_greedy(score: dict[tuple[bool, ...], float], mask: tuple[bool, ...]) -> list[tuple[bool, ...]]:
    """The masks that greedy search steps on, by trying every superpixel not changed yet."""
    path, open_ = [mask], set(range(len(mask)))
    while open_:
        trials = {k: tuple(b ^ (i == k) for i, b in enumerate(mask)) for k in sorted(open_)}
        best = max(trials, key=lambda k: (score[trials[k]], -k))
        mask = trials[best]
        open_.remove(best)
        path.append(mask)
    return path


@pytest.mark.parametrize("start", [True, False])
def test_greedy_search_steps_on_the_best_neighbour(start: bool) -> None:
    classifier, image, segments = planted(3)
    everything = np.array([[bool(n >> k & 1) for k in range(9)] for n in range(512)])
    table = Fitness(classifier, image, segments, 1, calls=512)
    score = dict(zip(map(tuple, everything.tolist()), table(everything).tolist(), strict=True))
    fitness = Fitness(classifier, image, segments, 1, calls=512)
    greedy.descend(fitness, np.full(9, start))
    path = slow_greedy(score, (start,) * 9)
    seen = {tuple(m) for m in fitness.masks.tolist()}
    assert all(mask in seen for mask in path)
    assert fitness.calls == 1 + sum(range(1, 10))
    assert fitness.scores.max() == max(score[m] for m in path)


def test_greed_and_luck_keep_to_their_budget() -> None:
    classifier, image, segments = planted(6)
    fitness = Fitness(classifier, image, segments, 1, calls=50)
    greedy.descend(fitness, np.ones(36, dtype=bool))
    assert fitness.calls == 50
    fitness = Fitness(classifier, image, segments, 1, calls=50)
    random_search.draw(fitness, random_search.Settings(), np.random.default_rng(0))
    assert fitness.calls == 50 and fitness.masks[0].all()
    assert 0.3 < fitness.masks[1:].mean() < 1


def test_random_search_ends_when_every_mask_was_seen() -> None:
    classifier, image, segments = planted(2)
    fitness = Fitness(classifier, image, segments, 1, calls=50)
    random_search.draw(fitness, random_search.Settings(), np.random.default_rng(0))
    assert fitness.calls <= 16 and fitness.outcome()["kept"].tolist() == [True, False, False, True]


def test_lime_with_the_packages_own_fill() -> None:
    found = lime.Lime().explain(tiny(), picture()[None], 1, lime.Settings(samples=60, fill="mean", segmentation="slic"))
    black = lime.Lime().explain(tiny(), picture()[None], 1, lime.Settings(samples=60, segmentation="slic"))
    assert not torch.equal(found.maps, black.maps)


@pytest.mark.parametrize("make", [lambda: lime.Settings(samples=0), lambda: greedy.Settings(calls=4),
                                  lambda: random_search.Settings(judged=0)])  # fmt: skip
def test_settings_that_cannot_work(make: object) -> None:
    with pytest.raises(ExplanationError, match="at least 1; found"):
        make()  # type: ignore[operator]

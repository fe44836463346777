"""The surrogate against a slow second implementation from its definition, and on a function it must learn."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from xai_lib import surrogate
from xai_lib.surrogate import MaskSurrogate, likeness


def grid(side: int = 5, pixels: int = 6) -> np.ndarray:
    row = np.arange(side * pixels) // pixels
    return row[:, None] * side + row


def slow_likeness(segments: np.ndarray) -> np.ndarray:
    d, size = segments.max() + 1, max(segments.shape)
    centres = [np.argwhere(segments == k).mean(0) for k in range(d)]
    out = np.zeros((d, d))
    for i in range(d):
        for j in range(d):
            near = np.exp(-(((centres[i] - centres[j]) / size) ** 2).sum() / (2 * surrogate.REACH**2))
            out[i, j] = (1 - surrogate.NEIGHBOURS) * (i == j) + surrogate.NEIGHBOURS * near
    return out / out.sum()


def slow_prediction(masks: np.ndarray, scores: np.ndarray, alike: np.ndarray, new: np.ndarray) -> np.ndarray:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        a, b = 2.0 * a - 1, 2.0 * b - 1
        return 4 * a @ alike @ b + np.exp(-(a - b) @ alike @ (a - b) / (4 * surrogate.LENGTH))

    target = np.maximum(scores, scores.max() - surrogate.CLIP)
    gram = np.array([[kernel(a, b) for b in masks] for a in masks])
    gram += surrogate.RIDGE * np.diag(np.diag(gram))
    weights = np.linalg.inv(gram) @ (target - target.mean())
    return np.array([sum(w * kernel(m, a) for w, a in zip(weights, masks, strict=True)) for m in new]) + target.mean()


def test_predictions_equal_the_definition() -> None:
    rng = np.random.default_rng(0)
    masks, new = rng.random((30, 25)) < 0.6, rng.random((8, 25)) < 0.6
    scores = rng.normal(0, 4, 30)
    alike = likeness(grid())
    np.testing.assert_allclose(alike, slow_likeness(grid()), atol=1e-12)
    found = MaskSurrogate(masks, scores, alike)(new)
    np.testing.assert_allclose(found, slow_prediction(masks, scores, alike, new), rtol=1e-6, atol=1e-6)


def test_likeness_is_symmetric_and_positive() -> None:
    alike = likeness(grid())
    assert np.allclose(alike, alike.T) and np.linalg.eigvalsh(alike).min() > 0
    full = np.ones(25)
    assert np.isclose(full @ alike @ full, 1)
    assert alike[0, 1] > alike[0, 2] > alike[0, 24]


def test_it_learns_which_superpixels_matter() -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 1, 25)
    masks, new = rng.random((120, 25)) < 0.6, rng.random((60, 25)) < 0.6
    predicted = MaskSurrogate(masks, masks @ weights, likeness(grid()))(new)
    assert spearmanr(predicted, new @ weights).statistic > 0.8


def test_memory_is_bounded_to_the_best() -> None:
    rng = np.random.default_rng(2)
    masks, scores = rng.random((surrogate.MEMORY + 50, 25)) < 0.5, rng.normal(0, 1, surrogate.MEMORY + 50)
    best = np.argsort(-scores, kind="stable")[: surrogate.MEMORY]
    alike = likeness(grid())
    np.testing.assert_array_equal(
        MaskSurrogate(masks, scores, alike)(masks[:5]), MaskSurrogate(masks[best], scores[best], alike)(masks[:5])
    )

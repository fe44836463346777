"""Masked images against a slow second implementation; the fitness against the plain network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks import picture, planted, tiny
from xai_lib import images
from xai_lib.inference import FLOAT32, Plan
from xai_lib.superpixels import Fitness, SuperpixelError, fill_of, masked_images, segment


def slow_masked(image: np.ndarray, segments: np.ndarray, mask: np.ndarray, fill: str) -> np.ndarray:
    """Pixel by pixel, from the definition: z = sum over superpixels of b x + (1 - b) v on their pixels."""
    out = np.zeros_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            k = segments[y, x]
            if mask[k]:
                out[:, y, x] = image[:, y, x]
            elif fill == "mean":
                out[:, y, x] = image[:, segments == k].mean(1)
    return out


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_masked_images_equal_the_definition(fill: str) -> None:
    image = picture(3, 16)
    segments = torch.arange(16)[:, None] // 6 * 3 + torch.arange(16) // 6
    masks = np.random.default_rng(0).random((5, 9)) < 0.5
    found = masked_images(image, segments, masks, fill)
    for mask, got in zip(masks, found, strict=True):
        expected = slow_masked(image.double().numpy(), segments.numpy(), mask, fill)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["quickshift", "slic"])
def test_segments_are_numbered_from_zero_without_gaps(method: str) -> None:
    classifier_view = images.View()
    image = images.load("photos").select(["coffee"]).batch(classifier_view)[0]
    segments = segment(image, method)
    assert segments.shape == (224, 224)
    assert torch.equal(segments.unique(), torch.arange(int(segments.max()) + 1))
    assert 10 < int(segments.max()) + 1 < 150
    assert torch.equal(segments, segment(image, method)), "the same picture, the same superpixels"


def test_quickshift_is_limes_own_segmentation() -> None:
    from lime.wrappers.scikit_image import SegmentationAlgorithm

    image = images.load("photos").select(["chelsea"]).batch(images.View())[0]
    pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    limes = SegmentationAlgorithm("quickshift", kernel_size=4, max_dist=200, ratio=0.2)(pixels)
    assert np.array_equal(segment(image).numpy(), limes)


def test_fitness_equals_the_plain_network() -> None:
    classifier, image = tiny(), picture()
    segments = segment(image, "slic")
    fitness = Fitness(classifier, image, segments, 2, calls=40, plan=FLOAT32)
    masks = np.random.default_rng(1).random((21, fitness.d)) < 0.6
    scores = fitness(masks)
    plain = classifier.probabilities(masked_images(image, segments, masks))[:, 2].double().numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), plain, rtol=1e-4)
    np.testing.assert_allclose(fitness.probabilities(masks), plain, rtol=1e-5)


def test_a_mask_is_paid_for_once_and_the_budget_holds() -> None:
    classifier, image = tiny(), picture()
    fitness = Fitness(classifier, image, segment(image, "slic"), 0, calls=10)
    masks = np.random.default_rng(2).random((6, fitness.d)) < 0.5
    again = fitness(np.concatenate([masks, masks[::-1]]))
    assert fitness.calls == 6
    assert np.array_equal(again[:6], again[:5:-1])
    more = fitness(np.random.default_rng(3).random((9, fitness.d)) < 0.5)
    assert fitness.calls == 10 and fitness.left == 0
    assert np.isfinite(more[:4]).all() and np.isneginf(more[4:]).all()
    assert np.array_equal(fitness(masks), again[:6]), "asking again after the budget is spent is free"


def test_a_score_does_not_depend_on_the_masks_beside_it() -> None:
    classifier, image = tiny(), picture()
    masks = np.random.default_rng(4).random((13, int(segment(image, "slic").max()) + 1)) < 0.5

    def scores(order: np.ndarray) -> np.ndarray:
        fitness = Fitness(classifier, image, segment(image, "slic"), 1, calls=13)
        return fitness(masks[order])[np.argsort(order)]

    together = scores(np.arange(13))
    assert np.array_equal(together, scores(np.random.default_rng(5).permutation(13)))
    one_by_one = Fitness(classifier, image, segment(image, "slic"), 1, calls=13)
    assert np.array_equal(together, np.concatenate([one_by_one(m[None]) for m in masks]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-60, 60), min_size=2, max_size=8), st.integers(0, 7))
def test_log_odds_are_those_of_the_softmax(logits: list[float], target: int) -> None:
    target %= len(logits)
    z = np.array(logits, dtype=np.float32).astype(np.float64)
    others = np.delete(z, target)
    expected = z[target] - (np.log(np.exp(others - others.max()).sum()) + others.max())
    found = tiny().log_odds(torch.tensor([logits], dtype=torch.float32).double())
    assert float(found[0, target]) == pytest.approx(expected, abs=1e-9)


def test_scores_tell_masks_apart_where_the_probability_is_one() -> None:
    """The planted network's logit is its log-odds; 60 and more of them are 1.0 as a probability, in float64 too."""
    classifier, image, segments = planted()
    classifier.network.gain = 400.0
    fitness = Fitness(classifier, image, segments, 1, calls=40)
    masks = np.random.default_rng(0).random((40, 16)) < 0.8
    wanted = np.where(classifier.network.wanted.flatten().numpy() > 0, 100.0, -100.0)
    np.testing.assert_allclose(fitness(masks), masks @ wanted, rtol=0.02, atol=2)
    found = fitness.outcome(40)
    assert found["probability"] == 1 and found["kept"] @ wanted == (masks @ wanted).max()


def test_trajectory_is_the_running_best_and_first_above_agrees_with_the_network() -> None:
    classifier, image, segments = planted()
    fitness = Fitness(classifier, image, segments, 1, calls=60)
    fitness(np.random.default_rng(0).random((60, 16)) < 0.5)
    steps = fitness.trajectory()
    assert [s.score for s in steps] == sorted({s.score for s in steps})
    assert steps[-1].score == fitness.scores.max()
    assert all(fitness.scores[s.call - 1] == s.score for s in steps)
    middle = float(fitness.probabilities(steps[1].mask[None])[0])
    passed = fitness.first_above(middle - 1e-6)
    assert passed is not None and passed.call <= steps[1].call
    assert fitness.first_above(0.999999) is None


def test_the_outcome_is_judged_by_the_untouched_network() -> None:
    classifier, image, segments = planted()
    fitness = Fitness(classifier, image, segments, 1, calls=30, plan=Plan("bfloat16", 4, "asked for"))
    fitness(np.random.default_rng(0).random((30, 16)) < 0.5)
    found = fitness.outcome(3)
    exact = classifier.probabilities(masked_images(image, segments, found["kept"][None]))[0, 1]
    assert found["probability"] == pytest.approx(float(exact), abs=1e-7)
    assert found["calls"] == 33


def test_bad_masks_segments_and_names_are_refused() -> None:
    image, segments = picture(), segment(picture(), "slic")
    d = int(segments.max()) + 1
    with pytest.raises(SuperpixelError, match=rf"masks: expected bool \(n, {d}\), found torch.bool \(2, {d + 1}\)"):
        masked_images(image, segments, np.ones((2, d + 1), dtype=bool))
    with pytest.raises(SuperpixelError, match="unknown segmentation 'felzenszwalb'; use quickshift or slic"):
        segment(image, "felzenszwalb")  # type: ignore[arg-type]
    with pytest.raises(SuperpixelError, match="unknown fill 'blur'; use black or mean"):
        fill_of(image, segments, "blur")  # type: ignore[arg-type]
    with pytest.raises(SuperpixelError, match=r"segments \(16, 32\) do not fit an image of \(32, 32\)"):
        Fitness(tiny(), image, segments[:16], 0, calls=1)
